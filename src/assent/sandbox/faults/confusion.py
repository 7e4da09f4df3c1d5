"""How often a doctor is right: what it finds in runs of which the fault is known, counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assent.sandbox.faults.registry import FAULTS, Fault
from assent.statistics.small import Interval, fmean, student_quantile, variance, wilson


@dataclass(frozen=True)
class Seen:
    """One run and what was found in it. `faults` names what is wrong with it; none: it is healthy."""

    faults: tuple[str, ...]
    stage: str
    found: tuple[str, ...]
    first: str | None = None
    """The gravest finding."""


@dataclass
class Confusion:
    """Counts over runs.

    detected   by fault: (runs in which a finding names it, runs)
    first      by fault: runs whose gravest finding names it
    named      by rule: (findings that are true, findings)
    mistaken   by fault: findings that are not true of it
    alarms     by stage: (healthy runs with a finding, healthy runs)
    """

    detected: dict[str, tuple[int, int]] = field(default_factory=dict)
    first: Counter[str] = field(default_factory=Counter)
    named: dict[str, tuple[int, int]] = field(default_factory=dict)
    mistaken: dict[str, Counter[str]] = field(default_factory=dict)
    alarms: dict[str, tuple[int, int]] = field(default_factory=dict)
    alarming: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        rules = {name: interval(*counts) for name, counts in sorted(self.named.items())}
        faults = {name: interval(*counts) for name, counts in self.detected.items()}
        wrong, healthy = (sum(pair[side] for pair in self.alarms.values()) for side in (0, 1))
        right, said = (sum(pair[side] for pair in self.named.values()) for side in (0, 1))
        return {
            "macro_recall": fmean([value["share"] for value in faults.values()]) if faults else None,
            "macro_precision": fmean([value["share"] for value in rules.values()]) if rules else None,
            "findings_true": interval(right, said),
            "false_alarms": interval(wrong, healthy),
            "false_alarms_by_stage": {stage: interval(*counts) for stage, counts in sorted(self.alarms.items())},
            "false_alarms_by_rule": dict(self.alarming.most_common()),
            "recall": {
                name: {**value, "first": self.first[name], "mistaken": dict(self.mistaken.get(name, Counter()))}
                for name, value in faults.items()
            },
            "precision": rules,
        }


def confusion(runs: Iterable[Seen], known: Mapping[str, Fault] = FAULTS) -> Confusion:
    """A finding is true of a run if it is among the `rules` of one of its faults, or among what else is true of it."""
    made = Confusion()
    for run in runs:
        true = {rule for name in run.faults for rule in (*known[name].rules, *known[name].also)}
        for rule in run.found:
            right, said = made.named.get(rule, (0, 0))
            made.named[rule] = (right + (rule in true), said + 1)
        if not run.faults:
            wrong, count = made.alarms.get(run.stage, (0, 0))
            made.alarms[run.stage] = (wrong + bool(run.found), count + 1)
            made.alarming.update(run.found)
        for name in run.faults:
            hit, count = made.detected.get(name, (0, 0))
            made.detected[name] = (hit + bool(set(run.found) & set(known[name].rules)), count + 1)
            made.first[name] += run.first in known[name].rules
            made.mistaken.setdefault(name, Counter()).update(rule for rule in run.found if rule not in true)
    return made


def interval(right: int, count: int) -> dict[str, Any]:
    """A share with the ends of Wilson's 95% interval; of nothing, the share is None."""
    found: Interval = wilson(right, count)
    share = found.value if count else None
    return {"right": right, "of": count, "share": share, "low": found.low, "high": found.high}


def lower_ends(cells: Mapping[tuple[str, str], Sequence[float]], share: float = 0.05) -> dict[tuple[str, str], float]:
    """The lower end of what one more run of each cell reaches: this share of such runs lies below.

    A cell is (stage, task) with the figures of its healthy runs. Its mean is its own; the spread is that of all tasks
    of the stage, because two runs say next to nothing about theirs: the prediction interval of a one-way layout with
    equal variances, mean - t s sqrt(1 + 1/n). A stage without a cell of two has none.
    """
    found: dict[tuple[str, str], float] = {}
    for stage in {stage for stage, _ in cells}:
        own = {cell: values for cell, values in cells.items() if cell[0] == stage and values}
        freedom = sum(len(values) - 1 for values in own.values())
        if not freedom:
            continue
        squares = math.fsum((len(values) - 1) * variance(values) for values in own.values())
        reach = student_quantile(1 - share, freedom) * math.sqrt(squares / freedom)
        found |= {cell: fmean(values) - reach * math.sqrt(1 + 1 / len(values)) for cell, values in own.items()}
    return found


def table(
    result: Mapping[str, Any], baseline: Mapping[str, Any] | None = None, known: Mapping[str, Fault] = FAULTS
) -> list[str]:
    """Lines of Markdown: recall by fault, beside the baseline's if there is one."""
    heads = ["fault", "rules", "found", "95%", *(["fixed thresholds"] if baseline else [])]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, value in result["recall"].items():
        cells = [name, ", ".join(known[name].rules), f"{value['right']} of {value['of']}"]
        cells.append(f"{value['low']:.2f}–{value['high']:.2f}")
        if baseline:
            other = baseline["recall"].get(name)
            cells.append(f"{other['right']} of {other['of']}" if other else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
