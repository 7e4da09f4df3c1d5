"""Rows of other trainers whose meaning is certain, as rows of our layouts.

Alpaca            `instruction`, and `input` after a line break, ask; `output` answers. `chosen` and `rejected`, or
                  `kto_tag`, may judge, and `history` holds earlier turns (LLaMA-Factory). So with `question`, `answer`
LLaMA-Factory     `kto_tag` (true, false) judges the last turn of `conversations` or `messages`, or `completion`
ms-swift          `label` (true, false) judges the last turn of `messages`; `rejected_response` is the worse one of the
                  last turn, or of `response`; `rejected_messages` is the worse conversation
content parts     [{"type": "text", "text": ...}, ...] is the text of its parts, one after another
labelling tools   two answers side by side, and which of them is better: judged_pairs.py
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from assent.data import texts
from assent.data.judged_pairs import JUDGES, as_ranking
from assent.data.texts import RowError
from assent.data.unread import is_empty

_CONVERSATIONS = ("messages", "conversations")
_ANSWERS = ("completion", "response", "chosen_response")
_OURS = ("prompt", "completion", "completions", "chosen", "rejected")
ASKS = {"instruction": "output", "question": "answer"}
"""Columns that ask, and those that answer them."""
LAYOUTS = (
    "question, answer_a, answer_b, winner", "question, answer", "question, chosen, rejected", "instruction, output",
    "prompt, response, rejected_response", "messages, rejected_response", "messages, label",
)  # fmt: skip
"""The commonest of these layouts, for an error's list of what can be read."""
FOREIGN = frozenset({"kto_tag", "label", "rejected_response", "rejected_messages"})


def as_ours(row: Mapping[str, Any], required: Collection[str] = ()) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The row as one of ours, and what was recognised in it; the row itself where it is none of these, or would lack a
    column of `required`."""
    given, said = row, []
    if any(type(value) in (list, tuple) and _has_parts(value) for value in row.values()):
        row = {name: _joined(value) if name in _TEXTS else value for name, value in row.items()}
        said.append("content in parts of type text: read as one text")
    asked = _asked(row)
    if asked is not None and asked[0].keys() >= set(required):
        row = asked[0]
        said.append(asked[1])
    judged = None if JUDGES.isdisjoint(row) else as_ranking(row)
    if judged is not None and judged[0].keys() >= set(required):
        row = judged[0]
        said.append(judged[1])
    if not FOREIGN.isdisjoint(row):
        ours = _translated({name: value for name, value in row.items() if name not in FOREIGN or not is_empty(value)})
        if ours is not None and ours.keys() >= set(required):
            judges = ", ".join(sorted(FOREIGN & row.keys() - ours.keys())) or "label"
            said += [] if ours == row else [f"{judges}: judges the last answer, read as {', '.join(_layout_of(ours))}"]
            row = ours
    return (row, tuple(said)) if said else (given, ())


_TEXTS = (*_CONVERSATIONS, *_OURS, "rejected_messages")
"""Columns that may hold messages."""


def _layout_of(row: Mapping[str, Any]) -> list[str]:
    return [name for name in ("prompt", "completion", "chosen", "rejected", "label") if name in row]


def _has_parts(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list holds a message whose content is a list of parts; also one list deeper (`completions`)."""
    for item in value:
        if isinstance(item, Mapping):
            if isinstance(item.get("content"), list):
                return True
        elif type(item) is list and _has_parts(item):
            return True
    return False


def _joined(value: Any) -> Any:
    """Messages with the text of their parts. Parts that hold something else stay, and are refused where they are
    read."""
    if isinstance(value, list | tuple):
        return [_joined(item) for item in value]
    if not isinstance(value, Mapping) or not isinstance(content := value.get("content"), list) or not content:
        return value
    if not all(
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
        and all(name in ("type", "text") or is_empty(rest) for name, rest in part.items())
        for part in content
    ):
        return value
    return {**value, "content": "".join(part["text"] for part in content)}


def _asked(row: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """A row of instruction and output, or question and answer, as a conversation; and what to say of it."""
    asks = [name for name in ASKS if isinstance(row.get(name), str) and not is_empty(row[name])]
    if len(asks) != 1 or any(not is_empty(row.get(name)) for name in ("prompt", *_CONVERSATIONS)):
        return None
    ask, answer = asks[0], ASKS[asks[0]]
    replies = [name for name in (answer, "completion", "chosen", "rejected") if not is_empty(row.get(name))]
    if not replies and row.get(answer) is not None:  # an empty answer is a fault of the row, not a row without answers
        replies = [answer]
    if (answer in replies and len(replies) > 1) or not all(_is_reply(row[name]) for name in replies):
        return None
    read = [ask, *(["input"] if ask == "instruction" and not is_empty(row.get("input")) else [])]
    if not all(isinstance(row[name], str) for name in read):
        return None
    turns = _earlier(row["history"]) if not is_empty(row.get("history")) else []
    turns.append({"role": "user", "content": "\n".join(row[name] for name in read)})
    used = {ask, "input", answer, "history"} if ask == "instruction" else {ask, answer, "history"}
    ours = {name: value for name, value in row.items() if name not in used and (name != "prompt")}
    ours["prompt"] = turns
    for name in replies:
        ours["completion" if name == answer else name] = _reply(row[name])
    told = [name for name in ("history", ask, "input", *replies) if name in row and (name in (*used, *replies))]
    return ours, f"{', '.join(told)}: read as a conversation"


def _is_reply(value: Any) -> bool:
    return isinstance(value, str | Mapping | list | tuple)


def _reply(value: Any) -> Any:
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else value


def _earlier(history: Any) -> list[dict[str, str]]:
    pairs = history if isinstance(history, list | tuple) else [history]
    if not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise RowError(
            "bad `history`",
            "`history` is not usable",
            got=texts.shorten(history),
            expected="a list of pairs: what was asked, what was answered",
        )
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _translated(row: dict[str, Any]) -> dict[str, Any] | None:
    judged = [name for name in sorted(FOREIGN) if name in row]
    if len(judged) != 1:  # none, or two of them, which may contradict each other
        return None
    name = judged[0]
    if name == "kto_tag":
        texts.parse_thumb(row[name], name)
    rest = {key: value for key, value in row.items() if key != name}
    conversation = [key for key in _CONVERSATIONS if not is_empty(row.get(key))]
    if len(conversation) == 1 and not any(not is_empty(row.get(key)) for key in _OURS):
        return _of_conversation(name, row[name], conversation[0], {k: v for k, v in rest.items() if k not in _OURS})
    if conversation or is_empty(row.get("prompt")):
        return None
    if name == "kto_tag" and "completion" in row:
        return {**rest, "label": row[name]}
    answers = [key for key in _ANSWERS if not is_empty(row.get(key))]
    several = isinstance(row[name], list | tuple) and not all(isinstance(turn, Mapping) for turn in row[name])
    if name == "rejected_response" and len(answers) == 1 and is_empty(row.get("chosen")) and not several:
        return {**{k: v for k, v in rest.items() if k != answers[0]}, "chosen": row[answers[0]], "rejected": row[name]}
    return None


def _of_conversation(name: str, value: object, column: str, rest: dict[str, Any]) -> dict[str, Any] | None:
    turns = rest.pop(column)
    if name == "rejected_messages":
        return {**rest, "chosen": turns, "rejected": value}
    if (name == "label" and not isinstance(value, bool)) or (
        name == "rejected_response" and not isinstance(value, str)
    ):
        return None  # a class, or several answers: the refusal of unread judgements says so
    last = turns[-1] if isinstance(turns, list | tuple) and turns else None
    role = last.get("role", last.get("from")) if isinstance(last, Mapping) else None
    if not isinstance(role, str) or texts.SHAREGPT_ROLES.get(role) != "assistant":
        raise RowError(
            f"`{name}` judges no assistant turn",
            f"`{name}` judges the last turn of `{column}`, which is no assistant turn",
            got=texts.shorten(last),
            expected="a conversation that ends with the assistant's answer",
        )
    prompt, answer = list(turns[:-1]), [last]
    if name == "rejected_response":
        return {**rest, "prompt": prompt, "chosen": answer, "rejected": [{"role": "assistant", "content": value}]}
    return {**rest, "prompt": prompt, "completion": answer, "label": value}
