"""What an endpoint may be asked, and what it has cost: requests, tokens, money."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

from assent.errors import RunError

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English. Where an answer says how many tokens it took, that is used instead."""


class SpentError(RunError):
    """The next request is beyond the budget. Answers so far are kept."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, input_tokens: float, output_tokens: float) -> float:
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


def estimated_tokens(*texts: str) -> int:
    return math.ceil(sum(map(len, texts)) / CHARACTERS_PER_TOKEN)


class Budget:
    """Counts every attempt at a request, retries included, and refuses those beyond the limits. Thread-safe.

    max_requests, max_cost   None: no limit
    A request is let through if its estimated cost fits beside what is spent and what is under way. The estimate takes
    the longest reply, and as many tokens to read as the answers so far took for what was estimated. So the total
    exceeds `max_cost` at most by what the requests under way cost more than that.
    """

    def __init__(
        self, *, max_requests: int | None = None, max_cost: float | None = None, prices: Prices | None = None
    ) -> None:
        self.max_requests, self.max_cost, self.prices = max_requests, max_cost, prices or Prices()
        self.begun: Callable[[], None] = lambda: None
        """Called for each attempt, before it is made."""
        self.requests = self.unmetered = 0
        """Attempts; and answers that did not say how many tokens they took, so that theirs are estimated."""
        self.input_tokens = self.output_tokens = 0.0
        self._under_way = self._estimated = 0.0
        self._lock = Lock()

    @property
    def cost(self) -> float:
        return self.prices.of(self.input_tokens, self.output_tokens)

    def begin(self, input_tokens: int, output_tokens: int) -> float:
        """Counts an attempt of this estimated size; returns its estimated cost. Raises SpentError beyond a limit."""
        with self._lock:
            more = self.input_tokens / self._estimated if self._estimated else 1.0
            estimate = self.prices.of(max(more, 1.0) * input_tokens, output_tokens)
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise SpentError(f"the budget of {self.max_requests} requests is spent", fix="raise --max-requests")
            if self.max_cost is not None and self.cost + self._under_way + estimate > self.max_cost:
                raise SpentError(f"the budget of {self.max_cost:g} is spent", fix="raise --max-cost")
            self.begun()
            self.requests += 1
            self._under_way += estimate
        return estimate

    def end(self, estimate: float) -> None:
        """An attempt is over; `answered` counts what it took."""
        with self._lock:
            self._under_way -= estimate

    def answered(self, usage: Mapping[str, Any]) -> None:
        """Counts the tokens that an answer took (`usage_of`)."""
        with self._lock:
            self._estimated += usage["estimate"]
            self.unmetered += usage["is_estimated"]
            self.input_tokens += usage["prompt_tokens"]
            self.output_tokens += usage["completion_tokens"]

    def kept(self, usage: Mapping[str, Any]) -> None:
        """Counts an answer that an earlier process paid for."""
        self.answered(usage)
        with self._lock:
            self.requests += 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "input_tokens": round(self.input_tokens),
            "output_tokens": round(self.output_tokens),
            "cost": self.cost,
            "answers_without_token_counts": self.unmetered,
        }


class AttemptsOf:
    """The attempts at one question: `with AttemptsOf(budget, size) as attempts`. Without a budget nothing is counted.

    size   estimated tokens of the question and of its answer
    """

    def __init__(self, budget: Budget | None, size: tuple[int, int]) -> None:
        self._budget, self._size = budget, size
        self._open: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self) -> None:
        """Raises SpentError if the attempt is beyond the budget."""
        self._close()
        if self._budget is not None:
            self._open = self._budget.begin(*self._size)

    def answered(self, answer: Any) -> dict[str, Any] | None:
        """The tokens that the answer took: as it says, or estimated."""
        if self._budget is None:
            return None
        usage = usage_of(answer, estimated=self._size)
        self._budget.answered(usage)
        return usage

    def _close(self) -> None:
        if self._open is not None and self._budget is not None:
            self._budget.end(self._open)
        self._open = None


def usage_of(answer: Any, *, estimated: tuple[int, int]) -> dict[str, Any]:
    """OpenAI's `prompt_tokens` and `completion_tokens`, or the estimates if the answer has none; and the `estimate` of
    the first."""
    given = answer.get("usage") if isinstance(answer, Mapping) else None
    names = ("prompt_tokens", "completion_tokens")
    counts = [given.get(name) if isinstance(given, Mapping) else None for name in names]
    is_given = all(type(count) is int and count >= 0 for count in counts)
    tokens = dict(zip(names, counts if is_given else estimated, strict=True))
    return {**tokens, "estimate": estimated[0], "is_estimated": not is_given}
