"""What the verdicts of a run say about its judge: judge.json.

Legend: N comparisons, each a `Comparison` with the share of its answer `a`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assent.judging.collecting import ANCHOR, DATA, Comparison
from assent.judging.controls import CONTROLS
from assent.judging.verdicts import Verdicts
from assent.runs.kept import content_key
from assent.statistics.intervals import paired_difference, proportion_interval
from assent.statistics.judged import Sample, bias_test, corrected_win_rate

SCHEMA = 1


def record_of(
    comparisons: Sequence[Comparison],
    verdicts: Verdicts,
    *,
    writers: str | None = None,
    previous: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals are over prompts. `comparisons` are those that were judged.

    writers    column that names who wrote each completion; None: no win rates
    previous   the record of an earlier run, whose agreement with people is compared with this one's
    """
    shares = verdicts.shares
    data = _of(comparisons, DATA)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "comparisons": len(data),
        "ties": int(np.sum(shares[data] == 0.5)),
        "calls": verdicts.calls,
        "invalid": verdicts.invalid,
        "consistent": _rate(verdicts.consistent[data], _units(comparisons, data)),
        "position": _position(comparisons, verdicts, seed),
        "longer_wins": _longer(comparisons, shares, data),
        "controls": {kind: _control(comparisons, shares, kind) for kind in CONTROLS if _of(comparisons, kind)},
        "anchor": _anchor(comparisons, shares, previous, seed),
    }
    if writers is not None:
        record["win_rates"] = win_rates(comparisons, shares, writers)
    return record


def _of(comparisons: Sequence[Comparison], part: str) -> list[int]:
    return [i for i, one in enumerate(comparisons) if one.part == part]


def _units(comparisons: Sequence[Comparison], at: Sequence[int]) -> list[int]:
    return [comparisons[i].pair.prompt for i in at]


def _rate(values: np.ndarray, units: Sequence[int]) -> dict[str, Any] | None:
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return None
    return proportion_interval(values[known], clusters=[units[int(i)] for i in known]).as_dict()


def _position(comparisons: Sequence[Comparison], verdicts: Verdicts, seed: int) -> dict[str, Any] | None:
    """How much the answer shown first wins beyond ½, over data and anchors: controls are no fair comparison."""
    at = [i for i, one in enumerate(comparisons) if one.part in (DATA, ANCHOR) and not np.isnan(verdicts.first_wins[i])]
    units = [(comparisons[i].part, comparisons[i].pair.prompt) for i in at]
    if len(set(units)) < 2:
        return None
    return bias_test(verdicts.first_wins[at], 0.5, clusters=units, seed=seed).as_dict()


def _longer(comparisons: Sequence[Comparison], shares: np.ndarray, at: Sequence[int]) -> dict[str, Any] | None:
    """How often the longer answer wins. By itself it is no bias: the longer answer may be the better one."""
    unequal = [i for i in at if len(comparisons[i].a) != len(comparisons[i].b)]
    values = [_for_longer(comparisons[i], float(shares[i])) for i in unequal]
    return proportion_interval(values, clusters=_units(comparisons, unequal)).as_dict() if values else None


def _for_longer(comparison: Comparison, share: float) -> float:
    return share if len(comparison.a) > len(comparison.b) else 1 - share


def _control(comparisons: Sequence[Comparison], shares: np.ndarray, kind: str) -> dict[str, Any]:
    """`success`: share of controls that won in both orders. `preferred`: mean of their shares, a tie half."""
    at = _of(comparisons, kind)
    won = [float(shares[i] > 0.5) for i in at]
    return {
        "number": len(at),
        "success": proportion_interval(won).as_dict(),
        "preferred": proportion_interval(shares[at]).as_dict(),
    }


def _anchor(
    comparisons: Sequence[Comparison], shares: np.ndarray, previous: Mapping[str, Any] | None, seed: int
) -> dict[str, Any] | None:
    """Agreement with people, a tie half; of an anchor's comparison, `a` is what people prefer."""
    at = _of(comparisons, ANCHOR)
    if not at:
        return None
    units = _units(comparisons, at)
    keys = [anchor_key(comparisons[i]) for i in at]
    outcomes = {key: float(shares[i]) for key, i in zip(keys, at, strict=True)}
    found: dict[str, Any] = {
        "comparisons": len(at),
        "agreement": proportion_interval(shares[at], clusters=units).as_dict(),
        "length": None,
        "moved": None if previous is None else _moved(outcomes, dict(zip(keys, units, strict=True)), previous),
        "outcomes": outcomes,
    }
    unequal = [i for i in at if len(comparisons[i].a) != len(comparisons[i].b)]
    if len(set(_units(comparisons, unequal))) > 1:
        judged = [_for_longer(comparisons[i], float(shares[i])) for i in unequal]
        people = [_for_longer(comparisons[i], 1.0) for i in unequal]
        found["length"] = bias_test(
            np.array(judged), np.array(people), clusters=_units(comparisons, unequal), seed=seed
        ).as_dict()
    return found


def anchor_key(comparison: Comparison) -> str:
    return content_key([repr(comparison.group.prompt), comparison.a, comparison.b])


def _moved(
    outcomes: Mapping[str, float], prompts: Mapping[str, int], previous: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Agreement now minus agreement before, on the comparisons that both runs have; `prompts` has each one's prompt."""
    before = (previous.get("anchor") or {}).get("outcomes", {})
    common = [key for key in outcomes if key in before]
    units = [prompts[key] for key in common]
    if len(set(units)) < 2:
        return None
    difference = paired_difference([outcomes[key] for key in common], [before[key] for key in common], clusters=units)
    return {"difference": difference.as_dict(), "found": difference.low > 0 or difference.high < 0}


def win_rates(comparisons: Sequence[Comparison], shares: np.ndarray, column: str) -> list[dict[str, Any]]:
    """Every writer against every other: the judge's win rate, and corrected for its errors on the anchor set.

    The errors are those on anchors of the same two writers, if each of them is preferred by people at least twice
    there; otherwise those on all anchors, with one error for both sides. Without anchors nothing is corrected, nor is a
    win rate on a single prompt.
    """
    found: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for i in _of(comparisons, DATA):
        sides = writers_of(comparisons[i], column)
        if sides is not None and sides[0] != sides[1]:
            swapped = sides[0] > sides[1]
            share = 1 - float(shares[i]) if swapped else float(shares[i])
            key = (sides[1], sides[0]) if swapped else sides
            found.setdefault(key, []).append((share, comparisons[i].pair.prompt))
    anchors = _of(comparisons, ANCHOR)
    rates = []
    for (first, second), values in sorted(found.items()):
        observed = Sample([share for share, _ in values], [unit for _, unit in values])
        rate: dict[str, Any] = {"first": first, "second": second}
        rate["win_rate"] = proportion_interval(observed.values, clusters=observed.clusters).as_dict()
        if min(len(set(_units(comparisons, anchors))), len(set(observed.clusters or ()))) > 1:
            own = {side: _anchors_of(comparisons, shares, anchors, column, *side)
                   for side in ((first, second), (second, first))}  # fmt: skip
            if min(len(set(sample.clusters or ())) for sample in own.values()) > 1:
                losses = own[second, first]
                turned = Sample([1 - value for value in losses.values], losses.clusters)
                rate |= {"errors_from": "anchors of these writers"}
                rate["corrected"] = corrected_win_rate(observed, own[first, second], turned).as_dict()
            else:
                everything = Sample(shares[anchors], _units(comparisons, anchors))
                rate |= {"errors_from": "all anchors"}
                rate["corrected"] = corrected_win_rate(observed, everything).as_dict()
        rates.append(rate)
    return rates


def _anchors_of(
    comparisons: Sequence[Comparison], shares: np.ndarray, anchors: Sequence[int], column: str, better: str, worse: str
) -> Sample:
    """The judge's shares for `better` on anchors in which people prefer it to `worse`."""
    at = [i for i in anchors if writers_of(comparisons[i], column) == (better, worse)]
    return Sample([float(shares[i]) for i in at], _units(comparisons, at))


def writers_of(comparison: Comparison, column: str) -> tuple[str, str] | None:
    """Who wrote `a` and who wrote `b`, by a column with an entry for each completion; None if it has none."""
    names = comparison.group.columns.get(column)
    if not isinstance(names, list) or len(names) != len(comparison.group.completions):
        return None
    return str(names[comparison.pair.a]), str(names[comparison.pair.b])
