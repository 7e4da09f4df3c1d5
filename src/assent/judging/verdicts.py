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
from assent.judging.budget import SpentError
from assent.runs.kept import Kept
from assent.types import PromptGroup, Text

VERDICTS = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Value of a verdict for the answer that was shown first."""
Verdict = str | float
"""A, B or tie; or the probability that the first answer is better. Other text is an invalid reply."""
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
    ) -> Sequence[Verdict]:
        """(N,) "A" if first[i] is the better answer to prompts[i], "B" if second[i] is, or "tie"; or the probability
        that first[i] is better.

        Any other text is an invalid reply, which is counted and shown in errors.
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


class KeptJudge:
    """Another judge whose verdicts are kept as they arrive: a resumed run does not ask it again for the same ones."""

    def __init__(self, judge: PairJudge, kept: Kept) -> None:
        self.judge, self.kept, self.name = judge, kept, judge.name

    def compare(
        self,
        prompts: Sequence[Text],
        first: Sequence[str],
        second: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
    ) -> list[Verdict]:
        asked = [[repr(prompt), one, two] for prompt, one, two in zip(prompts, first, second, strict=True)]
        found: dict[int, Verdict] = {
            i: known for i, one in enumerate(asked) if (known := self.kept.find(one)) is not None
        }
        new = [i for i in range(len(asked)) if i not in found]
        if new:
            rows = None if groups is None else [groups[i] for i in new]
            one, two = [first[i] for i in new], [second[i] for i in new]
            said = self.judge.compare([prompts[i] for i in new], one, two, groups=rows)
            for i, verdict in zip(new, said, strict=True):
                found[i] = self.kept.keep(asked[i], verdict) if is_verdict(verdict) else verdict
        return [found[i] for i in range(len(asked))]


def is_verdict(verdict: Verdict) -> bool:
    return verdict in VERDICTS if isinstance(verdict, str) else 0 <= verdict <= 1


def value_of(verdict: Verdict) -> float:
    """For the answer that was shown first, in [0, 1]."""
    return VERDICTS[verdict] if isinstance(verdict, str) else verdict


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
    """(N,) 1 if both orders prefer A's answer, 0 if both prefer B's, ½ for a tie and if the orders disagree. Of
    probabilities, the mean of both orders."""
    consistent: np.ndarray
    """(N,) 1 if both orders prefer the same answer, 0 if not, nan if the judge was not asked or a reply was invalid."""
    first_wins: np.ndarray
    """(N,) mean of the two verdicts for the answer that was shown first, a tie half; nan as above. ½: no bias."""
    calls: int
    """Verdicts requested. Equal answers tie without a request."""
    invalid: int
    """Invalid replies; their comparisons count as ties."""

    def __len__(self) -> int:
        """Comparisons that were judged: fewer than were asked for, if the judge's budget was spent."""
        return len(self.shares)


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
    If the judge's budget is spent, the result has the first comparisons only: those that were judged in both orders.
    Raises RunError if more than a tenth of the replies are invalid, and shows the last of them.
    """
    found = _Found(judge)
    try:
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, min(start + CHUNK, len(prompts)))
            rows = None if groups is None else groups[part]
            found.judge(prompts[part], a[part], b[part], rows)
            if advance is not None:
                advance(part.stop - part.start)
    except SpentError:  # what was answered is kept: it costs nothing to ask for it again, one by one
        for i in range(len(found.shares), min(len(found.shares) + CHUNK, len(prompts))):
            try:
                found.judge([prompts[i]], [a[i]], [b[i]], None if groups is None else [groups[i]])
            except SpentError:
                break
    return found.verdicts()


class _Found:
    """The verdicts so far."""

    def __init__(self, judge: PairJudge) -> None:
        self.by, self.calls, self.invalid = judge, 0, 0
        self.shares: list[float] = []
        self.consistent: list[float] = []
        self.first_wins: list[float] = []

    def judge(
        self, prompts: Sequence[Text], a: Sequence[str], b: Sequence[str], groups: Sequence[PromptGroup] | None
    ) -> None:
        asked = [i for i in range(len(prompts)) if a[i] != b[i]]
        twice = [(prompts[i], *answers, i) for i in asked for answers in ((a[i], b[i]), (b[i], a[i]))]
        said: Sequence[Verdict] = []
        if twice:
            of, first, second, rows = (list(column) for column in zip(*twice, strict=True))
            said = self.by.compare(of, first, second, groups=None if groups is None else [groups[i] for i in rows])
        verdicts = dict(zip(asked, zip(said[::2], said[1::2], strict=True), strict=True))
        self.calls += len(twice)
        strange: tuple[int, Verdict] | None = None
        for i in range(len(prompts)):
            there, back = verdicts.get(i, (None, None))
            bad = [verdict for verdict in (there, back) if verdict is not None and not is_verdict(verdict)]
            self.invalid += len(bad)
            strange = (i, bad[0]) if bad else strange
            if there is None or back is None or bad:
                self._add_unjudged()
            else:
                self._add(there, back)
        if strange is not None and self.invalid > MOST_INVALID * self.calls:
            raise RunError(
                f"{self.invalid} of {self.calls} replies of judge {self.by.name} are not a verdict",
                got=f"{shorten_middle(str(strange[1]))!r} about {shown(prompts[strange[0]], a[strange[0]])}",
                expected="A, B or tie",
                fix="check the address and the model, and whether the model can follow the instruction",
            )

    def _add(self, there: Verdict, back: Verdict) -> None:
        """A's answer was first in `there`, and second in `back`."""
        ahead, behind = value_of(there), 1 - value_of(back)
        agree = np.sign(ahead - 0.5) == np.sign(behind - 0.5)
        is_probability = not (isinstance(there, str) and isinstance(back, str))
        self.shares.append((ahead + behind) / 2 if is_probability else ahead if agree else 0.5)
        self.consistent.append(float(agree))
        self.first_wins.append((ahead + 1 - behind) / 2)

    def _add_unjudged(self) -> None:
        self.shares.append(0.5)
        self.consistent.append(np.nan)
        self.first_wins.append(np.nan)

    def verdicts(self) -> Verdicts:
        return Verdicts(
            shares=np.array(self.shares),
            consistent=np.array(self.consistent),
            first_wins=np.array(self.first_wins),
            calls=self.calls,
            invalid=self.invalid,
        )
