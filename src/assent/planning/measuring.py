"""What is likely to go wrong with the data, and the evaluation that would show it, with its number of prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assent.diagnosis.case import Case
from assent.diagnosis.data_rules import data_rules
from assent.diagnosis.examine import Report, examine
from assent.errors import DataError
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


MOST_HALF_WIDTH = 0.15
"""Of a slice's interval; a wider one is worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Held-out prompts with one value of a column, and how near the interval of a win rate on them would be."""

    column: str
    value: str
    held_out: int
    half_width: float


def slices_of(source: Source, columns: Sequence[str]) -> tuple[Slice, ...]:
    """Every value of each column. Raises DataError for a column that no row has."""
    found: list[Slice] = []
    share = held_out_share(source.count)
    for column in columns:
        counts = Counter(str(g.columns[column]) for g in source.rows.dataset if column in g.columns)
        if not counts:
            raise DataError(f"no row of {source.path} has the column {column}", fix="give another --slices")
        for value, count in sorted(counts.items()):
            held_out = math.floor(count * share)
            found.append(Slice(column=column, value=value, held_out=held_out, half_width=_half_width(held_out)))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The evaluation to run: the wanted half-width, the prompts that it needs, and those that are held out."""

    precision: float
    needed: int
    held_out: int
    lines: tuple[str, ...]
    slices: tuple[Slice, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "prompts_needed": self.needed, "held_out": self.held_out,
                "advice": list(self.lines), "slices": [asdict(one) for one in self.slices]}  # fmt: skip


def measurement(
    facts: Facts, choice: Choice, sources: Sequence[Source], *, precision: float, judge: str | None, safety: str | None,
    constraints: Sequence[str], slices: Sequence[str] = (),
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
        lines.append("no judge is given: the file measures held-out data only, no win rate, and has no gate before the "
                     "release. Give --judge")  # fmt: skip
    if facts.longer_wins is not None and facts.longer_wins >= 0.6:
        lines.append("read the win rate at equal length: the data prefers longer answers")
    if safety is None and {"regulated", "high-stakes"} & set(constraints):
        lines.append("measure safety apart from the mean, by kind of prompt: give --safety")
    parts = slices_of(main, slices)
    for part in parts:
        if part.half_width > MOST_HALF_WIDTH:
            lines.append(f"{part.column} {part.value} has {part.held_out} held-out prompts: to within "
                         f"{part.half_width:.0%}. Bring more of them")  # fmt: skip
    lines.append(f"watch for: {rules()['methods'][choice.method]['fails_by']}")
    return Measurement(precision=precision, needed=needed, held_out=held_out, lines=tuple(lines), slices=parts)


def _half_width(prompts: int) -> float:
    """Of Wilson's 95% interval at one half."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(prompts / 2, prompts, alpha=0.05, method="wilson") if prompts else (0.0, 1.0)
    return float(high - low) / 2
