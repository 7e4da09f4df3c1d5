"""What is likely to go wrong with the data, and the evaluation that would show it, with its number of prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assent.diagnosis.case import Case
from assent.diagnosis.data_rules import data_rules
from assent.diagnosis.examine import Report, examine
from assent.planning.choice import Choice
from assent.planning.facts import Facts, Source
from assent.planning.rules import rules
from assent.planning.stages import held_out_share, main_source
from assent.statistics.comparisons import prompts_needed
from assent.statistics.intervals import Estimate


def reports_of(sources: Sequence[Source]) -> dict[str, Report]:
    """What the doctor's rules of data say about each file."""
    return {source.path: examine(Case(data=source.rows, source="data"), data_rules()) for source in sources}


def prompts_for(precision: float) -> int:
    """Prompts that the 95% interval of a win rate near one half needs to be `precision` wide on each side.

    One comparison for each prompt; more answers to each, or fewer ties, make it narrower.
    """
    even = Estimate(value=0.5, low=0.0, high=1.0, n=1, clusters=1, standard_error=0.0)
    needed = prompts_needed(even, half_width=precision)
    assert needed is not None
    return needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The evaluation to run. `reachable`: the half-width that the prompts at hand give."""

    precision: float
    needed: int
    held_out: int
    lines: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "prompts_needed": self.needed, "held_out": self.held_out,
                "advice": list(self.lines)}  # fmt: skip


def measurement(
    facts: Facts, choice: Choice, sources: Sequence[Source], *, precision: float, judge: str | None, safety: str | None,
    constraints: Sequence[str],
) -> Measurement:  # fmt: skip
    """What to measure after training, and with how many prompts."""
    needed = prompts_for(precision)
    main = main_source(sources, choice.method)
    held_out = 0 if choice.method == "collect" else math.floor(main.count * held_out_share(main.count))
    lines = [f"{needed:,} prompts give a win rate to within {precision:.0%} either way (95%, one answer each)"]
    if choice.method != "collect" and held_out < needed:
        width = _half_width(held_out)
        lines.append(f"{held_out:,} held-out prompts are there: to within {width:.0%}. Bring more")
    if judge is None and choice.method != "collect":
        lines.append("no judge is given: the file measures held-out data only, and no win rate. Give --judge")
    if facts.longer_wins is not None and facts.longer_wins >= 0.6:
        lines.append("read the win rate at equal length: the data prefers longer answers")
    if safety is None and {"regulated", "high-stakes"} & set(constraints):
        lines.append("measure safety apart from the mean, by kind of prompt: give --safety")
    lines.append(f"watch for: {rules()['methods'][choice.method]['fails_by']}")
    return Measurement(precision=precision, needed=needed, held_out=held_out, lines=tuple(lines))


def _half_width(prompts: int) -> float:
    """Of Wilson's 95% interval at one half."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(prompts / 2, prompts, alpha=0.05, method="wilson") if prompts else (0.0, 1.0)
    return float(high - low) / 2
