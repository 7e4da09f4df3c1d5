"""One answered request of a deployed model, whoever logged it, and how our own JSONL is read into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from assent.types import Message

LATEST = 4_102_444_800.0
"""Seconds of the year 2100: a larger number is milliseconds or finer."""


class Unreadable(ValueError):  # noqa: N818  # a row that is counted, not an error
    """Why a row cannot be used. Rows are counted by this text, so it names no content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request and its answer. What was not logged is None.

    prompt      the user's turns, as text; completion: the answer's text; turns: the whole conversation before the
                answer, where it was logged as one: what a model reads
    time        seconds since 1970
    label       what people said of it, a thumb or a rating, or what came of it (outcome): larger is better
    judge       what an AI judge gave it; score: what the reward model gave it
    logprob     mean log-probability of the completion's tokens as the server reported it, in nats; logprob_sum and
                num_tokens: their sum and number
    ended       whether the answer ended by itself, not at the limit
    model       the model's name; slice: a name that the operator gave the request (a product, a language)
    anchor      the name of a fixed question with a fixed answer, which the judge is asked about again and again
    identity    what tells the row from every other: its id; None if nothing does
    by_outcome  whether the label is an outcome: with one, a comparison labels both of its answers at once
    holdout     whether feedback was asked for whatever the answer was like (a random slice)
    propensity  the probability with which this answer was rated, where whoever asks for ratings knows it
    """

    prompt: str
    completion: str
    time: float | None = None
    label: float | None = None
    judge: float | None = None
    score: float | None = None
    logprob: float | None = None
    logprob_sum: float | None = None
    num_tokens: int | None = None
    ended: bool | None = None
    model: str | None = None
    slice: str | None = None
    anchor: str | None = None
    identity: str | None = None
    holdout: bool | None = None
    propensity: float | None = None
    by_outcome: bool = False
    turns: tuple[Message, ...] | None = None


OURS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "completion": ("completion", "response"),
    "time": ("time", "timestamp", "created"),
    "rating": ("rating", "label"),
    "outcome": ("outcome",),
    "judge": ("judge",),
    "score": ("score", "reward"),
    "logprobs": ("logprobs", "logps", "logprob"),
    "num_tokens": ("num_tokens",),
    "finish_reason": ("finish_reason",),
    "model": ("model",),
    "slice": ("slice",),
    "anchor": ("anchor",),
    "id": ("id", "request_id"),
    "holdout": ("holdout",),
    "propensity": ("propensity",),
}
"""Fields of our JSONL, each with the names that are tried in turn. `--columns THEIRS=OURS` adds a name."""


def read_ours(row: Mapping[str, Any]) -> Served:
    """A row of our JSONL: prompt and completion, or `messages` that end with the answer. Raises Unreadable."""
    prompt, completion = _given(row, "prompt"), _given(row, "completion")
    if completion is None and isinstance(row.get("messages"), list):
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    return make(prompt, completion, **known_of(row))


def known_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row under our names says beside prompt and completion, as `make` takes it."""
    names = ("time", "logprobs", "num_tokens", "finish_reason", "model", "slice", "anchor", "holdout",
             "propensity")  # fmt: skip
    rating, outcome = number_of(_given(row, "rating")), number_of(_given(row, "outcome"))
    return {
        **{name: _given(row, name) for name in names},
        "label": outcome if rating is None else rating,
        "by_outcome": (rating is None and outcome is not None) or None,
        "judge": number_of(_given(row, "judge")),
        "score": number_of(_given(row, "score")),
        "identity": _given(row, "id"),
    }


def _given(row: Mapping[str, Any], field: str) -> Any:
    return next((row[name] for name in OURS[field] if row.get(name) not in (None, "")), None)


def make(prompt: Any, completion: Any, **known: Any) -> Served:
    """Checks and turns what a log holds into a `Served`. Raises Unreadable where there is no prompt or no answer.

    logprobs   a list of the tokens' log-probabilities, or their sum (with num_tokens, else the mean is unknown)
    """
    asked, answer = text_of(prompt), text_of(completion)
    if asked is None:
        raise Unreadable("no prompt")
    if answer is None:
        raise Unreadable("no completion")
    total, count = _logprobs(known.get("logprobs"), known.get("num_tokens"))
    finish = known.get("finish_reason")
    named = {name: _name(known.get(name)) for name in ("model", "slice", "anchor", "identity")}
    return Served(
        prompt=asked,
        completion=answer,
        time=seconds_of(known.get("time")),
        label=known.get("label"),
        judge=known.get("judge"),
        score=known.get("score"),
        logprob=total / count if total is not None and count else None,
        logprob_sum=total,
        num_tokens=count,
        ended=None if finish is None else str(finish).lower() not in ("length", "max_tokens"),
        holdout=None if (holdout := number_of(known.get("holdout"))) is None else holdout != 0,
        propensity=_probability(known.get("propensity")),
        by_outcome=bool(known.get("by_outcome")),
        turns=_turns(prompt),
        **named,
    )


def text_of(value: Any) -> str | None:
    """A text, or the contents of the turns of a conversation that are the user's or the assistant's; None if none."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content", value.get("text")))
    if not isinstance(value, Sequence):
        return None
    parts = [turn for turn in value if not isinstance(turn, Mapping) or turn.get("role") not in ("system", "developer")]
    texts = [text for part in parts if (text := text_of(part)) is not None]
    return "\n".join(texts) if texts else None


ROLES = ("system", "user", "assistant", "tool")


def _turns(value: Any) -> tuple[Message, ...] | None:
    """The messages of a conversation; None for a plain text, or where a turn is no text of a known role."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return None
    told = [({"developer": "system"}.get(turn.get("role"), turn.get("role")), text_of(turn)) for turn in value]
    if not told or not all(role in ROLES and text is not None for role, text in told):
        return None
    return tuple(Message(str(role), str(text)) for role, text in told)


def seconds_of(value: Any) -> float | None:
    """Seconds since 1970 of a number (of seconds, or finer) or an ISO 8601 text, which is UTC unless it says otherwise.

    Raises Unreadable for a time that is neither.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        moment = value
    elif (number := number_of(value)) is not None:
        while abs(number) > LATEST:
            number /= 1000
        return number
    else:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise Unreadable("a time that is neither a number nor ISO 8601") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


POSITIVE, NEGATIVE = frozenset({"up", "positive", "good", "yes", "true"}), frozenset({"down", "negative", "bad", "no"})


def number_of(value: Any) -> float | None:
    """A finite number, also of a thumb (True, up, positive) or of a number written as text; None for anything else."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in POSITIVE or word in NEGATIVE or word == "false":
            return float(word in POSITIVE)
        try:
            value = float(word)
        except ValueError:
            return None
    if not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and not math.isnan(value) else None


def _logprobs(value: Any, count: Any) -> tuple[float | None, int | None]:
    """Sum and number of tokens."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = [number_of(part) for part in value]
        known = [number for number in numbers if number is not None]
        return (sum(known), len(known)) if known and len(known) == len(numbers) else (None, None)
    tokens = number_of(count)
    return number_of(value), None if tokens is None else int(tokens)


def _probability(value: Any) -> float | None:
    number = number_of(value)
    if value is not None and (number is None or not 0 < number <= 1):
        raise Unreadable("a propensity that is no probability above 0")
    return number


def _name(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
