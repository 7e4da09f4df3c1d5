"""A rule of the doctor: one symptom, the metrics it reads, and the function that looks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding

SFT, REWARD, PAIRS, THUMBS = frozenset({"sft"}), frozenset({"reward"}), frozenset({"dpo"}), frozenset({"kto"})
ONLINE_PAIRS = frozenset({"online-dpo"})
ROUNDS = frozenset({"ppo", "a2c", "grpo", "rloo"})
CRITIC = frozenset({"ppo", "a2c"})
DPO = PAIRS | ONLINE_PAIRS
SAMPLED = ROUNDS | ONLINE_PAIRS
EVERY = SFT | REWARD | PAIRS | THUMBS | SAMPLED
"""Commands by what they train on: the stages that a rule applies to. Another trainer's run has the stage of the command
that does the same."""


class NotChecked(Exception):  # noqa: N818  # not an error: it says why a rule has no answer
    """Raised by a rule that cannot judge this case; its message says why, and what would have to be logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A check of a case.

    title      the symptom in a few words
    metrics    names of the metrics that it cannot do without; `a or b`: one of them is enough
    also       names of metrics that it reads where they were logged; a live run keeps these for it too
    least      values that each of `metrics` must have
    stages     commands whose runs it applies to
    looks_at   log: the metrics alone. data: `case.data` too. models: `case.models` too. logs: `case.logs`, those of a
               deployed model
    too_early  whether its finding means that nothing can be judged yet
    check      from a case to a finding, or None. It may raise NotChecked
    window     how many last values it reads. A live run asks a rule with a window at each line of its log, and one
               without a window at each evaluation
    causes     what brings the symptom about, most frequent first
    source     paper or thread
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    check: Callable[[Case], Finding | None]
    also: tuple[str, ...] = ()
    least: int = 1
    stages: frozenset[str] = EVERY
    looks_at: Literal["log", "data", "models", "logs"] = "log"
    window: int | None = None
    too_early: bool = False
    causes: tuple[str, ...] = ()
    source: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every metric named in `metrics` and `also`."""
        return (*(name for entry in self.metrics for name in entry.split(" or ")), *self.also)

    def missing(self, case: Case) -> str | None:
        """Why the rule cannot be asked about the case; None if it can."""
        if self.looks_at != "log" and getattr(case, self.looks_at) is None:
            return {
                "data": "needs the data",
                "models": "needs the models (--probe)",
                "logs": "needs logs of a deployed model (assent monitor)",
            }[self.looks_at]
        absent = [entry for entry in self.metrics if case.find(entry) is None]
        if absent:
            return f"not logged: {', '.join(absent)}"
        shortest = min((len(case[entry]) for entry in self.metrics), default=self.least)
        return f"too few steps: {shortest} of {self.least}" if shortest < self.least else None

    def ask(self, case: Case) -> Finding | None:
        """The rule's finding, with its name. Raises NotChecked where it has no answer."""
        reason = self.missing(case)
        if reason is not None:
            raise NotChecked(reason)
        try:
            found = self.check(case)
        except NotChecked:
            raise
        except ModuleNotFoundError as error:  # the small distribution has neither numpy nor scikit-learn
            raise NotChecked(f"needs {error.name}, which is not installed") from error
        except Exception as error:  # one rule, perhaps a third party's, must not take a run or the others down
            raise NotChecked(f"the rule failed: {type(error).__name__}: {error}") from error
        return None if found is None else found.named(self.name)

    def finds(self, case: Case) -> bool:
        """Whether it has a finding about a run of its stages. Not where it cannot be asked, or has no answer."""
        if case.stage is not None and case.stage not in self.stages:
            return False
        try:
            return self.ask(case) is not None
        except NotChecked:
            return False


def applying(rules: Iterable[Rule], case: Case) -> list[Rule]:
    """The rules of what the case is (a run, data, a model) and of its stage, where that is known."""
    return [rule for rule in rules if _looks_at(rule, case) and (case.stage is None or case.stage in rule.stages)]


def _looks_at(rule: Rule, case: Case) -> bool:
    if rule.looks_at == "log":
        return bool(case.series) or (case.data is None and case.models is None and case.logs is None)
    return getattr(case, rule.looks_at) is not None
