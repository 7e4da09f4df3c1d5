"""Judges that compare two answers. Each pair is judged in both orders, and is a tie if the verdicts disagree.

Legend: N comparisons.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from assent.data.texts import shorten_middle, shown
from assent.errors import AssentError, ConfigError, RunError
from assent.types import PromptGroup, Text

VERDICTS = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Value of a verdict for the answer that was shown first."""
MOST_INVALID = 0.1
"""Share of invalid replies above which an evaluation stops."""
CHUNK = 64
"""Comparisons after which the share of invalid replies is checked."""


class PairJudge(Protocol):
    """Says which of two answers is better."""

    name: str

    def compare(
        self,
        prompts: Sequence[Text],
        first: Sequence[str],
        second: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
    ) -> list[str]:
        """(N,) "A" if first[i] is the better answer to prompts[i], "B" if second[i] is, or "tie".

        Anything else is an invalid reply, which is counted and shown in errors.
        """


class FunctionJudge:
    """`function(prompts, first, second) -> verdicts`. With a parameter `groups` it also gets the rows with columns."""

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        self.function, self.name = function, name
        parameters = _parameters(function)
        self._takes_groups = "groups" in parameters
        if not {"first", "second"} <= parameters:
            raise ConfigError(
                "this function does not compare answers",
                got=name,
                expected="the parameters (prompts, first, second), and perhaps groups",
            )

    def compare(
        self,
        prompts: Sequence[Text],
        first: Sequence[str],
        second: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
    ) -> list[str]:
        extra = {"groups": groups} if self._takes_groups else {}
        try:
            verdicts = list(self.function(list(prompts), list(first), list(second), **extra))
        except AssentError:
            raise
        except (Exception, SystemExit) as error:
            raise RunError(f"judge {self.name} raised {type(error).__name__}: {error}") from error
        if len(verdicts) != len(prompts):
            raise RunError(
                f"judge {self.name} returned {len(verdicts)} verdicts for {len(prompts)} comparisons",
                expected="A, B or tie for each, in their order",
            )
        return [verdict if isinstance(verdict, str) else repr(verdict) for verdict in verdicts]


def compares_pairs(function: Callable[..., Any]) -> bool:
    """Whether a function takes two answers (`first`, `second`) rather than one."""
    return {"first", "second"} <= _parameters(function)


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # built in C
        return set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """The verdicts on N comparisons of A's answer with B's, each judged in both orders."""

    shares: np.ndarray
    """(N,) 1 if both orders prefer A's answer, 0 if both prefer B's, ½ for a tie and if the orders disagree."""
    consistent: np.ndarray
    """(N,) 1 if both orders agree, 0 if not, nan if the judge was not asked or a reply was invalid."""
    first_wins: np.ndarray
    """(N,) share of the two verdicts for the answer that was shown first, a tie half; nan as above. ½: no bias."""
    calls: int
    """Verdicts requested. Equal answers tie without a request."""
    invalid: int
    """Invalid replies; their comparisons count as ties."""


def judge_both_orders(
    judge: PairJudge,
    prompts: Sequence[Text],
    a: Sequence[str],
    b: Sequence[str],
    *,
    groups: Sequence[PromptGroup] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Verdicts:
    """Has each comparison judged twice, with A's answer first and with B's answer first.

    prompts, a, b (N,); `groups` (N,) are their rows; `advance(n)` is called after every n comparisons.
    Raises RunError if more than a tenth of the replies are invalid, and shows the last of them.
    """
    shares = np.full(len(prompts), 0.5)
    consistent, first_wins = np.full(len(prompts), np.nan), np.full(len(prompts), np.nan)
    calls = invalid = 0
    for start in range(0, len(prompts), CHUNK):
        chunk = range(start, min(start + CHUNK, len(prompts)))
        asked = [i for i in chunk if a[i] != b[i]]
        rows = None if groups is None else [groups[i] for i in asked]
        of, one, two = [prompts[i] for i in asked], [a[i] for i in asked], [b[i] for i in asked]
        forward = judge.compare(of, one, two, groups=rows) if asked else []
        backward = judge.compare(of, two, one, groups=rows) if asked else []
        calls += 2 * len(asked)
        strange: tuple[int, str] | None = None
        for i, there, back in zip(asked, forward, backward, strict=True):
            bad = [verdict for verdict in (there, back) if verdict not in VERDICTS]
            invalid += len(bad)
            if bad:
                strange = i, bad[0]
                continue
            ahead, behind = VERDICTS[there], 1 - VERDICTS[back]
            consistent[i] = float(ahead == behind)
            first_wins[i] = (VERDICTS[there] + VERDICTS[back]) / 2
            shares[i] = ahead if ahead == behind else 0.5
        if strange is not None and invalid > MOST_INVALID * calls:
            raise RunError(
                f"{invalid} of {calls} replies of judge {judge.name} are not a verdict",
                got=f"{shorten_middle(strange[1])!r} about {shown(prompts[strange[0]], a[strange[0]])}",
                expected="A, B or tie",
                fix="check the address and the model, and whether the model can follow the instruction",
            )
        if advance is not None:
            advance(len(chunk))
    return Verdicts(shares=shares, consistent=consistent, first_wins=first_wins, calls=calls, invalid=invalid)
