"""The figures of the dashboard: agreement, biases, speed, drift, the ceiling that noise puts on a reward model.

One pass over the judgements that count. Gold questions and repeats measure annotators; all else is of the reviews.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import sqlalchemy as sa

from assent.feedback.store.database import Database
from assent.feedback.store.reading import Judgement, counting, names_of
from assent.feedback.store.schema import ADJUDICATION, FIRST, completions, guidelines, items
from assent.feedback.tasks import TASKS, VALUE_FIELDS, Value, same
from assent.statistics.comparisons import prompts_needed
from assent.statistics.intervals import Estimate, difference, proportion_interval
from assent.statistics.reliability import (
    Metric,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    label_accuracy,
    pairs_equal,
    raw_agreement,
)

MOST_PAIRS = 45
"""Pairs of annotators with a kappa of their own: those with the most items in common."""
FEWEST_FOR_DRIFT = 20
"""Reviews in common with others that an annotator needs before early and late ones are compared."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the figures need to know of an item."""

    task: str
    prompt_id: int
    gold: Value | None
    characters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure with its interval. `estimate` None: it cannot be computed, for the reason in `note`."""

    name: str
    estimate: Estimate | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatorLine:
    name: str
    reviews: int
    seconds: float | None
    agreement: Estimate | None
    """With the other reviews of the same items."""
    gold: Estimate | None
    repeats: Estimate | None
    """How often a repeated item got the same answer."""
    drift: Estimate | None
    """Agreement with others in the later half of the reviews, minus that in the earlier half."""


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One version of the guidelines."""

    name: str
    reviews: int
    agreement: Estimate | None
    change: Estimate | None
    """Its agreement minus that of the version before it in the table."""
    ties: Estimate | None
    seconds: float | None
    """Median."""


@dataclass(frozen=True, slots=True)
class TaskFigures:
    task: str
    items: int
    reviews: int
    coverage: float
    """Share of the judged items that have two reviews or more, on which agreement rests."""
    agreement: tuple[Line, ...]
    pairs: tuple[Line, ...]
    biases: tuple[Line, ...]
    ceiling: Estimate | None
    needed: int | None
    """Further reviews, two of each item, until raw agreement is known to the wanted precision."""
    needed_prompts: int | None
    """Prompts of which these are: another item of a prompt tells less than one of another prompt."""
    versions: tuple[VersionLine, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    tasks: tuple[TaskFigures, ...]
    annotators: tuple[AnnotatorLine, ...]
    precision: float
    adjudicated: int


def dashboard(database: Database, *, precision: float = 0.05) -> Dashboard:
    """All figures. `precision` is the half-width that raw agreement is to be known to."""
    with database.reading() as connection:
        judged = list(counting(connection))
        facts = _facts(connection)
        names = names_of(connection)
        versions = connection.scalars(sa.select(guidelines.c.id).order_by(guidelines.c.id)).all()
    reviews = [one for one in judged if one.occasion == FIRST and facts[one.item_id].gold is None]
    found = []
    for task in TASKS:
        own = [one for one in reviews if facts[one.item_id].task == task]
        if own:
            found.append(_task(task, own, facts, names, versions, precision))
    by_item, by_annotator = _by_item(reviews), defaultdict(list)
    for one in judged:
        if one.occasion != ADJUDICATION:
            by_annotator[one.annotator_id].append(one)
    lines = [
        _annotator(names.get(number, f"annotator {number}"), own, by_item, facts)
        for number, own in sorted(by_annotator.items())
    ]
    adjudicated = len({one.item_id for one in judged if one.occasion == ADJUDICATION})
    return Dashboard(tuple(found), tuple(lines), precision, adjudicated)


def _facts(connection: sa.engine.Connection) -> dict[int, Facts]:
    lengths: dict[int, int] = {
        row.id: row.characters for row in connection.execute(sa.select(completions.c.id, completions.c.characters))
    }
    rows = connection.execute(
        sa.select(items.c.id, items.c.task, items.c.prompt_id, items.c.gold, items.c.completion_ids)
    )
    return {
        row.id: Facts(row.task, row.prompt_id, row.gold, tuple(lengths[number] for number in row.completion_ids))
        for row in rows
    }


def _label(value: Value) -> Any:
    """A judgement as something that can be equal to another: a number for ratings, else its text."""
    kind = next(name for name in VALUE_FIELDS if name in value)
    return value["scores"][0] if kind == "scores" and len(value["scores"]) == 1 else json.dumps(value[kind])


def _by_item(judged: Iterable[Judgement]) -> dict[int, list[Judgement]]:
    found: dict[int, list[Judgement]] = defaultdict(list)
    for one in judged:
        found[one.item_id].append(one)
    return found


def _task(
    task: str,
    own: Sequence[Judgement],
    facts: Mapping[int, Facts],
    names: Mapping[int, str],
    versions: Sequence[int],
    precision: float,
) -> TaskFigures:
    by_item = _by_item(own)
    units = [[_label(one.value) for one in group] for group in by_item.values()]
    prompts = [facts[number].prompt_id for number in by_item]
    raw = raw_agreement(units, clusters=prompts)
    metric: Metric = "interval" if task == "rate" else "nominal"
    few = "no item has two reviews" if raw is None else "all reviews say the same"
    agreement = (
        Line("raw agreement", raw, "" if raw else few),
        *_corrected(units, prompts, metric, few),
    )
    needed = more = None
    if raw is not None and (total := prompts_needed(raw, half_width=precision)) is not None:
        more = max(0, total - raw.clusters)
        needed = math.ceil(2 * more * raw.n / raw.clusters)
    has_ceiling = task in ("compare", "thumbs") and raw is not None
    return TaskFigures(
        task=task,
        items=len(by_item),
        reviews=len(own),
        coverage=sum(len(unit) > 1 for unit in units) / len(units),
        agreement=agreement,
        pairs=tuple(_pairs(by_item, facts, names)),
        biases=tuple(_biases(task, own, facts)),
        ceiling=label_accuracy(_without_ties(task, by_item, facts) or raw) if has_ceiling and raw else None,
        needed=needed,
        needed_prompts=more,
        versions=tuple(_versions(own, facts, versions)),
    )


def _corrected(units: Any, prompts: Sequence[int], metric: Metric, few: str) -> Iterable[Line]:
    for name, estimate in (
        ("Fleiss' kappa", fleiss_kappa(units, clusters=prompts)),
        (f"Krippendorff's alpha, {metric}", krippendorff_alpha(units, metric=metric, clusters=prompts)),
    ):
        yield Line(name, estimate, "" if estimate else few)


def _without_ties(task: str, by_item: Mapping[int, Sequence[Judgement]], facts: Mapping[int, Facts]) -> Estimate | None:
    """Raw agreement of the reviews that name a winner: a model's accuracy counts these alone."""
    if task != "compare":
        return None
    units, prompts = [], []
    for number, group in by_item.items():
        units.append([_label(one.value) for one in group if not _is_tie(one.value)])
        prompts.append(facts[number].prompt_id)
    return raw_agreement(units, clusters=prompts)


def _is_tie(value: Value) -> bool:
    return "ranking" in value and len(set(value["ranking"])) == 1


def _pairs(
    by_item: Mapping[int, Sequence[Judgement]], facts: Mapping[int, Facts], names: Mapping[int, str]
) -> Iterable[Line]:
    """Cohen's kappa of each pair of annotators, those with the most items in common."""
    common: dict[tuple[int, int], list[tuple[Any, Any, int]]] = defaultdict(list)
    for number, group in by_item.items():
        for a, b in itertools.combinations(sorted(group, key=lambda given: given.annotator_id), 2):
            both = (_label(a.value), _label(b.value), facts[number].prompt_id)
            common[a.annotator_id, b.annotator_id].append(both)
    for (one, other), rows in sorted(common.items(), key=lambda entry: -len(entry[1]))[:MOST_PAIRS]:
        first, second, prompts = zip(*rows, strict=True)
        title = f"{names.get(one, f'annotator {one}')} and {names.get(other, f'annotator {other}')}"
        yield Line(title, cohen_kappa(first, second, clusters=prompts), f"{len(rows)} items in common")


def _biases(task: str, own: Sequence[Judgement], facts: Mapping[int, Facts]) -> Iterable[Line]:
    """How often the answer shown earlier is ranked higher, and how often the longer one is: over each two answers of a
    judgement that it ranks differently. ½ is no bias."""
    if task not in ("compare", "rank"):
        return
    earlier, longer, ties = [], [], []
    for one in own:
        ranks, fact = one.value["ranking"], facts[one.item_id]
        lengths = fact.characters
        pairs = list(itertools.combinations(one.shown_order, 2))  # the one shown earlier comes first
        if not pairs:  # a ranking of one answer, from a file
            continue
        apart = [(a, b) for a, b in pairs if ranks[a] != ranks[b]]
        unequal = [(a, b) for a, b in apart if lengths[a] != lengths[b]]
        if apart and one.source is None:
            earlier.append((fmean(ranks[a] < ranks[b] for a, b in apart), fact.prompt_id))
        if unequal:
            wins = [(lengths[a] > lengths[b]) == (ranks[a] < ranks[b]) for a, b in unequal]
            longer.append((fmean(wins), fact.prompt_id))
        ties.append((1 - len(apart) / len(pairs), fact.prompt_id))
    first = "answer 1 wins" if task == "compare" else "the answer shown earlier wins"
    yield Line(first, _share(earlier), "50% where the position plays no part")
    yield Line("the longer answer wins", _share(longer), "longer may be better; compare it with the model's own bias")
    yield Line("equally good", _share(ties))


def _share(rows: Sequence[tuple[float, Any]]) -> Estimate | None:
    return proportion_interval([v for v, _ in rows], clusters=[c for _, c in rows]) if rows else None


def _versions(own: Sequence[Judgement], facts: Mapping[int, Facts], versions: Sequence[int]) -> Iterable[VersionLine]:
    """Each version of the guidelines beside the one before it. Two reviews of an item agree within a version.

    Labels from files had no guidelines of the app's beside them, and are in none.
    """
    before: list[tuple[float, int]] = []
    for version in (None, *versions):
        kept = [one for one in own if one.guideline_id == version and one.source is None]
        if not kept:
            continue
        units = {number: [_label(one.value) for one in group] for number, group in _by_item(kept).items()}
        agreed = [(pairs_equal(unit), facts[number].prompt_id) for number, unit in units.items() if len(unit) > 1]
        yield VersionLine(
            name="no guidelines" if version is None else f"version {version}",
            reviews=len(kept),
            agreement=raw_agreement(list(units.values()), clusters=[facts[number].prompt_id for number in units]),
            change=_difference(agreed, before),
            ties=_share([(float(_is_tie(one.value)), facts[one.item_id].prompt_id) for one in kept]),
            seconds=_median_seconds(kept),
        )
        before = agreed


def _difference(later: Sequence[tuple[float, int]], earlier: Sequence[tuple[float, int]]) -> Estimate | None:
    """Of two shares, each value with its prompt. None where there is nothing of one of them."""
    if not later or not earlier:
        return None
    (a, clusters_of_a), (b, clusters_of_b) = (list(zip(*rows, strict=True)) for rows in (later, earlier))
    return difference(a, b, clusters_of_a=clusters_of_a, clusters_of_b=clusters_of_b)


def _median_seconds(judged: Sequence[Judgement]) -> float | None:
    seconds = [one.seconds for one in judged if one.seconds is not None]
    return median(seconds) if seconds else None


def _annotator(
    name: str, judged: Sequence[Judgement], by_item: Mapping[int, Sequence[Judgement]], facts: Mapping[int, Facts]
) -> AnnotatorLine:
    """Of all that one annotator judged, in the order of work."""
    agreed, gold, repeats, own = [], [], [], []
    firsts: dict[int, Judgement] = {}
    for one in judged:
        fact = facts[one.item_id]
        if fact.gold is not None:
            gold.append((float(same(one.value, fact.gold)), fact.prompt_id))
        elif one.occasion == FIRST:
            own.append(one)
            firsts[one.item_id] = one
            others = [other for other in by_item[one.item_id] if other.annotator_id != one.annotator_id]
            if others:
                equal = sum(same(one.value, other.value) for other in others) / len(others)
                agreed.append((equal, fact.prompt_id))
        elif (before := firsts.get(one.item_id)) is not None:
            repeats.append((float(same(one.value, before.value)), fact.prompt_id))
    return AnnotatorLine(
        name=name,
        reviews=len(own),
        seconds=_median_seconds(own),
        agreement=_share(agreed),
        gold=_share(gold),
        repeats=_share(repeats),
        drift=_drift(agreed),
    )


def _drift(agreed: Sequence[tuple[float, int]]) -> Estimate | None:
    """Later half minus earlier half, in the order of work. None while there are few."""
    half = len(agreed) // 2
    return None if len(agreed) < FEWEST_FOR_DRIFT else _difference(agreed[half:], agreed[:half])
