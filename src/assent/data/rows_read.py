"""Reads a row of each layout: from its columns to the prompt, the completions and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from assent.data import texts
from assent.data.texts import RowError
from assent.types import Message, Text

Row = Mapping[str, Any]

MAX_RANK = 2**31 - 1

STEP_SEPARATOR = "\n"
"""Separates the steps of the stepwise layout (TRL's `step_separator`)."""


@dataclass
class Parts:
    """A row's texts, and in `known` the fields of its `Preference`."""

    prompt: Text
    completions: tuple[Text, ...] = ()
    known: dict[str, Any] = field(default_factory=dict)
    logps: tuple[float, ...] | None = None
    steps: tuple[tuple[str, ...], ...] | None = None


def single(row: Row) -> Parts:
    prompt = texts.require_prompt(texts.parse_text(row["prompt"], "prompt"), "prompt")
    parts = Parts(prompt, (_completion(prompt, row["completion"], "completion"),))
    if row.get("logp") is not None:
        parts.logps = (_logp(row["logp"], "logp"),)
    return parts


def _completion(prompt: Text, value: object, column: str) -> Text:
    completion = texts.require_completion(texts.parse_text(value, column), column)
    texts.require_same_kind(prompt, completion, column)
    return completion


def _logp(value: object, column: str) -> float:
    return texts.parse_number(value, column, high=1e-3, expected="a sum of log-probabilities, in nats, at most 0")


def thumbs(row: Row) -> Parts:
    parts = single(row)
    parts.known["thumbs"] = (texts.parse_thumb(row["label"], "label"),)
    return parts


def rating(row: Row) -> Parts:
    parts = single(row)
    parts.known["scores"] = (texts.parse_number(row["score"], "score"),)
    return parts


def conversation(column: str) -> Callable[[Row], Parts]:
    def parse(row: Row) -> Parts:
        messages = texts.parse_messages(row[column], column)
        cut = next((i for i, m in enumerate(messages) if m.role == "assistant"), None)
        if cut is None:
            raise RowError(
                texts.EMPTY_COMPLETION,
                f"`{column}` has no assistant turn",
                got=" → ".join(m.role for m in messages) or "no turns",
                expected="at least one assistant turn to train on",
            )
        prompt = texts.require_prompt(messages[:cut], f"{column} before the first assistant turn")
        return Parts(prompt, (texts.require_completion(messages[cut:], column),))

    return parse


def _pair(prompt: Text, chosen: object, rejected: object, row: Row) -> Parts:
    completions = (_completion(prompt, chosen, "chosen"), _completion(prompt, rejected, "rejected"))
    if completions[0] == completions[1]:
        raise RowError(
            texts.IDENTICAL,
            "`chosen` and `rejected` are identical",
            got=texts.shorten(texts.as_plain(completions[0])),
            expected="two different completions",
            fix="remove the row: neither completion can be better",
        )
    known: dict[str, Any] = {"ranking": (1, 2)}
    if row.get("margin") is not None:
        known["margin"] = texts.parse_number(row["margin"], "margin")
    if row.get("chosen_probability") is not None:
        known["chosen_probability"] = texts.parse_number(
            row["chosen_probability"], "chosen_probability", low=0.0, high=1.0, expected="a probability in [0, 1]"
        )
    logged = [row.get("chosen_logps"), row.get("rejected_logps")]
    if logged.count(None) == 1:
        raise RowError(
            "half of the logged log-probabilities",
            "only one of `chosen_logps` and `rejected_logps` is given",
            expected="both or neither",
        )
    logps = None if logged[0] is None else (_logp(logged[0], "chosen_logps"), _logp(logged[1], "rejected_logps"))
    return Parts(prompt, completions, known, logps)


def comparison(row: Row) -> Parts:
    prompt = texts.parse_text(row["prompt"], "prompt")
    chosen = row["chosen"]
    if isinstance(prompt, str) and isinstance(chosen, list | tuple) and chosen:
        # UltraFeedback: both columns are whole conversations, and `prompt` repeats their first user turn as a string.
        first = next((m for m in texts.parse_messages(chosen, "chosen") if m.role == "user"), None)
        if first is not None and first.content == prompt:
            return implicit_comparison(row)
    return _pair(texts.require_prompt(prompt, "prompt"), chosen, row["rejected"], row)


def implicit_comparison(row: Row) -> Parts:
    chosen, rejected = (texts.parse_text(row[name], name) for name in ("chosen", "rejected"))
    texts.require_same_kind(chosen, rejected, "rejected")
    if chosen == rejected:  # checked before the cut, because the common prefix would be the whole text
        raise RowError(texts.IDENTICAL, "`chosen` and `rejected` are identical", expected="two different completions")
    cut = common_prompt_length(chosen, rejected)
    if not cut:
        raise RowError(
            "no common prompt",
            "`chosen` and `rejected` have no common beginning that could be the prompt",
            got=" and ".join(texts.shorten(texts.as_plain(text), 60) for text in (chosen, rejected)),
            expected="two conversations that begin alike and differ from an assistant turn on",
            fix="add a column `prompt`",
        )
    prompt = texts.require_prompt(chosen[:cut], "the common beginning of chosen and rejected")
    return _pair(prompt, texts.as_plain(chosen[cut:]), texts.as_plain(rejected[cut:]), row)


TRANSCRIPT_TURN = "\n\nAssistant:"
"""Where a reply begins in transcripts such as hh-rlhf's."""


def common_prompt_length(chosen: Text, rejected: Text) -> int:
    """The length of the prompt that two different conversations share, in turns, or in characters of raw text.

    Message lists are cut at an assistant turn. Raw text is cut after the last common "\\n\\nAssistant:", or else at the
    last common white space, so that no word is cut. (TRL cuts at the first character that differs, which may be inside
    a word.)
    """
    common = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        common += 1
    if not isinstance(chosen, str):
        return min(common, len(chosen) - 1, len(rejected) - 1)
    head = chosen[:common]
    turn = head.rfind(TRANSCRIPT_TURN)
    if turn >= 0:
        return turn + len(TRANSCRIPT_TURN)
    return max((i for i, character in enumerate(head) if character.isspace()), default=0)


def sharegpt_comparison(row: Row) -> Parts:
    prompt = texts.require_prompt(texts.parse_messages(row["conversations"], "conversations"), "conversations")
    return _pair(prompt, row["chosen"], row["rejected"], row)


def many(row: Row) -> Parts:
    prompt = texts.require_prompt(texts.parse_text(row["prompt"], "prompt"), "prompt")
    values = texts.parse_list(row["completions"], "completions")
    parts = Parts(prompt, tuple(_completion(prompt, value, f"completions[{k}]") for k, value in enumerate(values)))
    if row.get("logps") is not None:
        logged = texts.parse_list(row["logps"], "logps", length=len(values))
        parts.logps = tuple(_logp(value, "logps") for value in logged)
    return parts


def ranking(row: Row) -> Parts:
    parts = many(row)
    values = texts.parse_list(row["ranking"], "ranking", length=len(parts.completions))
    ranks = tuple(int(value) if _is_rank(value) else 0 for value in values)
    if min(ranks) != 1:
        raise RowError(
            "bad `ranking`",
            "`ranking` is not usable",
            got=texts.shorten(values),
            expected="whole numbers: 1 is best, equal numbers tie",
            fix="count from 1" if 0 in values else None,
        )
    parts.known["ranking"] = ranks
    return parts


def _is_rank(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 1 <= value <= MAX_RANK and value == int(value)


def scores(row: Row) -> Parts:
    parts = many(row)
    values = texts.parse_list(row["scores"], "scores", length=len(parts.completions))
    parts.known["scores"] = tuple(texts.parse_number(value, "scores") for value in values)
    return parts


def stepwise(row: Row) -> Parts:
    prompt = texts.require_prompt(texts.parse_text(row["prompt"], "prompt"), "prompt")
    steps = texts.parse_list(row["completions"], "completions")
    for k, step in enumerate(steps):
        if not isinstance(step, str):
            raise RowError(texts.NOT_TEXT, f"step {k + 1} is not a string", got=texts.shorten(step))
        texts.require_completion(texts.parse_text(step, "completions"), f"completions (step {k + 1})")
    values = texts.parse_list(row["labels"], "labels", length=len(steps), of="steps")
    labels = tuple(
        float(value) if isinstance(value, bool) else texts.parse_number(value, "labels", expected="booleans or numbers")
        for value in values
    )
    answer = STEP_SEPARATOR.join(steps)
    completion: Text = answer if isinstance(prompt, str) else (Message("assistant", answer),)
    return Parts(prompt, (completion,), {"step_labels": (labels,)}, steps=(tuple(steps),))


def prompt_only(row: Row) -> Parts:
    return Parts(texts.require_prompt(texts.parse_text(row["prompt"], "prompt"), "prompt"))
