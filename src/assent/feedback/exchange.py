"""Labels in the formats of Argilla and Label Studio, both ways.

Argilla         what `dataset.records.to_json` writes: fields prompt, response-1 …; a ranking, rating or label question
Label Studio    tasks with annotations, as its JSON export: Pairwise, Ranker, Rating or Choices

An answer to a conversation is written as its text, and read as an assistant's turn where the prompt is a conversation.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assent.data.texts import RowError, as_plain, parse_text, shorten
from assent.errors import DataError, DataFileNotFoundError
from assent.feedback.store.reading import Item, Judgement
from assent.feedback.tasks import normal
from assent.types import Message, Preference, PromptGroup, Text

Judged = tuple[Item, Sequence[Judgement], Mapping[int, str]]
GOOD, NOT_GOOD, TIE = "good", "not good", "tie"
_USERS = uuid.UUID("6e6f6f6d-6173-7365-6e74-6c6162656c73")
"""Argilla knows users by UUID: an annotator's is made from this and the annotator's number."""


def read_file(file: str, format: str) -> list[PromptGroup]:
    """The groups of a file that another tool wrote. Raises DataError, which names the record."""
    try:
        records = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataFileNotFoundError(f"there is no file {file}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON", got=error, expected="a list of records") from None
    if not isinstance(records, list):
        raise DataError(f"{file} holds no list of records", got=type(records).__name__)
    read = _from_argilla if format == "argilla" else _from_label_studio
    found: list[PromptGroup] = []
    for number, record in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise RowError("no record", "a record is no object", got=shorten(record))
            found += read(record, f"{file}:record {number}")
        except RowError as error:
            where = f"{file}: record {number}: {error.what}"
            raise DataError(where, got=error.got, expected=error.expected, fix=error.fix) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{file}: record {number} is not what {format} writes", got=repr(error)) from None
    if not found:
        raise DataError(f"{file} has no answered record")
    return found


def _answer_text(text: Text) -> Any:
    """The text alone of a turn that has nothing else; other completions as they are."""
    if not isinstance(text, str) and len(text) == 1 and text[0].role == "assistant" and not text[0].extra:
        return text[0].content
    return as_plain(text)


def _answer(prompt: Text, value: Any) -> Text:
    text = parse_text(value, "answer")
    return (Message("assistant", text),) if isinstance(text, str) and not isinstance(prompt, str) else text


def to_argilla(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    records = []
    for item, own, _ in judged:
        names = [f"response-{place + 1}" for place in range(len(item.completions))]
        answers = zip(names, map(_answer_text, item.completions), strict=True)
        responses: dict[str, list[dict[str, Any]]] = {}
        for one in own:
            question, value = _argilla_value(one.value, names)
            user = str(uuid.uuid5(_USERS, str(one.annotator_id)))
            responses.setdefault(question, []).append({"value": value, "user_id": user, "status": "submitted"})
            if one.comment:
                responses.setdefault("comment", []).append(
                    {"value": one.comment, "user_id": user, "status": "submitted"}
                )
        records.append(
            {
                "id": str(item.id),
                "fields": {"prompt": as_plain(item.prompt), **dict(answers)},
                "metadata": {},
                "suggestions": {},
                "responses": responses,
                "vectors": {},
            }
        )
    return records


def _argilla_value(value: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    if "ranking" in value:
        return "ranking", [{"value": name, "rank": rank} for name, rank in zip(names, value["ranking"], strict=True)]
    if "scores" in value and len(names) == 1:
        return "rating", _rating(value)
    if "thumbs" in value and len(names) == 1:
        return "label", GOOD if value["thumbs"][0] else NOT_GOOD
    raise DataError("Argilla has no question for this judgement", got=", ".join(value), fix="export columns")


def _rating(value: Mapping[str, Any]) -> float:
    """A whole number as one: a rating of 4.0 is none for these tools."""
    (score,) = value["scores"]
    return int(score) if float(score).is_integer() else score


def _from_argilla(record: Mapping[str, Any], source: str) -> Iterator[PromptGroup]:
    fields = record["fields"]
    prompt = parse_text(fields[_prompt_key(fields)], "prompt")
    names = [name for name in fields if name != _prompt_key(fields)]
    completions = tuple(_answer(prompt, fields[name]) for name in names)
    for question, answers in (record.get("responses") or {}).items():
        for response in answers:
            if response.get("status", "submitted") != "submitted" or question == "comment":
                continue
            annotator = f"argilla {response.get('user_id') or 'user'}"
            known = _read_argilla(response["value"], names, question)
            yield PromptGroup(
                prompt=prompt,
                completions=completions,
                preference=Preference(**known, annotator=annotator),
                source=source,
            )


def _read_argilla(value: Any, names: Sequence[str], question: str) -> dict[str, Any]:
    if isinstance(value, list) and value and all(isinstance(one, dict) and "rank" in one for one in value):
        ranks = {one["value"]: int(one["rank"]) for one in value}
        if set(ranks) != set(names):
            raise RowError("unknown answers", f"question {question} ranks other fields than the record has",
                           got=", ".join(ranks), expected=", ".join(names))  # fmt: skip
        return {"ranking": tuple(normal([ranks[name] for name in names]))}
    if isinstance(value, str) and value in names and len(names) > 1:
        return {"ranking": tuple(1 if name == value else 2 for name in names)}
    if isinstance(value, str) and value.lower() == TIE and len(names) > 1:
        return {"ranking": (1,) * len(names)}
    if isinstance(value, int | float) and not isinstance(value, bool) and len(names) == 1:
        return {"scores": (float(value),)}
    if value in (GOOD, NOT_GOOD) and len(names) == 1:
        return {"thumbs": (value == GOOD,)}
    raise RowError(
        "unknown answer",
        f"the answer to question {question} cannot be read as a preference",
        got=shorten(value),
        expected=f"ranks of {', '.join(names)}; one of these names or {TIE}; for one answer a rating, {GOOD} or "
        f"{NOT_GOOD}",
    )


def _prompt_key(data: Mapping[str, Any]) -> str:
    found = next((name for name in ("prompt", "instruction", "question", "input") if name in data), None)
    if found is None:
        raise RowError("no prompt", "the record has no prompt", got=", ".join(data), expected="a field named prompt")
    return found


def to_label_studio(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """Raises DataError for a ranking with ties of more than two answers, which a Ranker cannot hold."""
    tasks = []
    for item, own, names in judged:
        answers = list(map(_answer_text, item.completions))
        data: dict[str, Any] = {"prompt": as_plain(item.prompt)}
        if item.task == "rank":
            data["items"] = [
                {"id": f"answer{i + 1}", "title": f"Answer {i + 1}", "body": a} for i, a in enumerate(answers)
            ]
        else:
            data |= {f"answer{i + 1}": a for i, a in enumerate(answers)}
        annotations = []
        for one in own:
            annotations.append(
                {
                    "id": one.id,
                    "completed_by": {"id": one.annotator_id, "email": names.get(one.annotator_id, "")},
                    "result": [_studio_result(one.value, item)],
                    "was_cancelled": False,
                    "lead_time": one.seconds,
                }
            )
        tasks.append({"id": item.id, "data": data, "annotations": annotations, "predictions": []})
    return tasks


def _studio_result(value: Mapping[str, Any], item: Item) -> dict[str, Any]:
    count = len(item.completions)
    if "ranking" in value and count == 2 and item.task != "rank":
        a, b = value["ranking"]
        if a == b:
            return {"from_name": "tie", "to_name": "answer1", "type": "choices", "value": {"choices": [TIE]}}
        both = {"from_name": "comparison", "to_name": "answer1,answer2", "type": "pairwise"}
        return {**both, "value": {"selected": "left" if a < b else "right"}}
    if "ranking" in value:
        if len(set(value["ranking"])) < count:
            raise DataError(
                "a Ranker of Label Studio cannot hold ties", got=f"item {item.id}: {value['ranking']}",
                fix="export columns, or --format argilla",
            )  # fmt: skip
        order = sorted(range(count), key=lambda place: value["ranking"][place])
        ranked = [f"answer{place + 1}" for place in order]
        return {"from_name": "ranking", "to_name": "items", "type": "ranker", "value": {"ranker": {"ranking": ranked}}}
    if "scores" in value and count == 1:
        return {"from_name": "rating", "to_name": "answer1", "type": "rating", "value": {"rating": _rating(value)}}
    if "thumbs" in value and count == 1:
        chosen = [GOOD if value["thumbs"][0] else NOT_GOOD]
        return {"from_name": "thumbs", "to_name": "answer1", "type": "choices", "value": {"choices": chosen}}
    raise DataError("Label Studio has no tag for this judgement", got=", ".join(value), fix="export columns")


def _from_label_studio(task: Mapping[str, Any], source: str) -> Iterator[PromptGroup]:
    data = task["data"]
    prompt = parse_text(data[_prompt_key(data)], "prompt")
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        who = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
        for result in annotation["result"]:
            found = _studio_preference(result, data)
            if found is not None:
                answers, known = found
                yield PromptGroup(
                    prompt=prompt,
                    completions=tuple(_answer(prompt, answer) for answer in answers),
                    preference=Preference(
                        **known, annotator=str(who) if isinstance(by, dict) else f"label-studio {who}"
                    ),
                    source=source,
                )


def _studio_preference(result: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Answers and preference; None for a result of another kind of tag (a comment, for one)."""
    kind, value = result["type"], result["value"]
    if kind == "pairwise":
        answers = _named(data, str(result["to_name"]).split(","), 2)
        return answers, {"ranking": (1, 2) if value["selected"] == "left" else (2, 1)}
    if kind == "ranker":
        items = {one["id"]: one["body"] for one in data["items"]}
        ranked = _ranked(value["ranker"])
        if sorted(ranked) != sorted(items):
            raise RowError("unknown answers", "the ranking names other items than the task has", got=str(ranked))
        return list(items.values()), {"ranking": tuple(1 + ranked.index(name) for name in items)}
    if kind == "rating":
        return _named(data, [result["to_name"]], 1), {"scores": (float(value["rating"]),)}
    if kind == "choices" and value["choices"] == [TIE]:
        return _named(data, [], 2), {"ranking": (1, 1)}
    if kind == "choices" and value["choices"] in ([GOOD], [NOT_GOOD]):
        return _named(data, [result["to_name"]], 1), {"thumbs": (value["choices"] == [GOOD],)}
    return None


def _ranked(value: Any) -> list[Any]:
    """The names of the items, best first: {"NAME OF THE RANKER": [names]}, in older versions the list alone."""
    if isinstance(value, dict):
        if len(value) != 1:
            raise RowError("buckets", "the items are sorted into buckets, which are no ranking", got=", ".join(value))
        (value,) = value.values()
    return list(value)


def _named(data: Mapping[str, Any], names: Sequence[str], count: int) -> list[Any]:
    """The answers under these names; where the names are of tags and not of the data, all that is not the prompt."""
    if names and all(name in data for name in names):
        return [data[name] for name in names]
    others = [value for name, value in data.items() if name != _prompt_key(data)]
    if len(others) != count:
        raise RowError(
            "unknown answers", "the task does not say which of its data are the answers", got=", ".join(data),
            expected=f"a prompt and {count} answer{'s' if count > 1 else ''}",
        )  # fmt: skip
    return others
