"""Compares the last day, week and four weeks with the baseline.

Legend: W weekdays (1 without a season), S strata, K categories, V words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assent.diagnosis.drift.baseline import Floats
from assent.diagnosis.drift.encoding import FORMATS
from assent.diagnosis.drift.reference import Reference, Sample
from assent.diagnosis.drift.signals import SIGNALS, Drift, Signal, Tested
from assent.diagnosis.drift.tables import Tables
from assent.statistics.homogeneity import (
    Shift,
    area_under_curve,
    reach_of,
    shift,
    slope_of_selection,
    smallest_share,
    tails,
)
from assent.statistics.sequential import spent_on

WINDOWS = (1, 7, 28)
"""Days that are looked at together, on every day."""
CLASSIFIER_WINDOW = 7
LEAST_CLASSIFIED = 60
"""Rows of a window below which no classifier is trained."""
LEAST_IN_WINDOW = 5
"""Rows of a window that must have a word, so that it is tested."""
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Day:
    """A day's counts, and the prompts that are kept of it."""

    tables: Tables
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One window beside the baseline; the tables of both, `tables` and `base`, are (W, …).

    A window that has every weekday is compared as a whole: seasons within the week cancel, and the strata stay large.
    """

    reference: Reference
    base: Tables
    days: int
    first: int
    last: int
    tables: Tables
    sample: Sample
    level: float


def available(reference: Reference) -> tuple[Signal, ...]:
    """The signals for which the baseline has what they need."""
    return tuple(signal for signal in SIGNALS if tables_of(signal, reference.tables))


def tables_of(signal: Signal, tables: Tables) -> tuple[str, ...]:
    """Those of its tables that are there. One that needs a reward model's score may be absent."""
    there = tuple(name for name in signal.needed if name in tables and tables[name].sum() > 0)
    return there if signal.needed[0] in there else ()


def look(reference: Reference, days: Mapping[int, Day], day: int, *, number: int, alpha: float) -> Drift:
    """What a day says, with those before it.

    days     counts by day; days after `day` and before the longest window are not looked at
    number   1 for the first day that is ever looked at, 2 for the next …
    alpha    the allowed probability of any false alarm, ever
    """
    signals = available(reference)
    level = alpha * spent_on(number) / (len(signals) * len(WINDOWS))
    oldest = min(days)  # until a window holds more days than the one before it, both say the same
    week = CLASSIFIER_WINDOW if day - WINDOWS[0] >= oldest else WINDOWS[0]
    windows = [length for place, length in enumerate(WINDOWS) if place == 0 or day - WINDOWS[place - 1] >= oldest]
    looks = [_window(reference, days, day, length, level) for length in windows]
    found: dict[str, Tested] = {}
    for signal in signals:
        tested = [_tested(signal, one) for one in looks if signal.kind != "classifier" or one.days == week]
        known = [one for one in tested if one is not None]
        if known:
            surest = min(known, key=lambda one: one.p_value)
            found[signal.name] = replace(surest, smallest=known[-1].smallest)
    absent = tuple(signal.name for signal in SIGNALS if signal.name not in found)
    return Drift(day=day, days_tested=number, signals=found, not_logged=absent)


def _window(reference: Reference, days: Mapping[int, Day], day: int, length: int, level: float) -> Look:
    inside = [(number, one) for number, one in sorted(days.items()) if day - length < number <= day]
    whole_weeks = len({number % 7 for number, _ in inside}) == 7
    base = reference.whole_weeks if whole_weeks else reference.tables
    tables = {name: np.zeros_like(counts) for name, counts in base.items()}
    for number, one in inside:
        place = 0 if whole_weeks else reference.place_of(number)
        for name in one.tables.keys() & tables.keys():
            tables[name][place] += one.tables[name]
    return Look(
        reference=reference,
        base=base,
        days=length,
        first=inside[0][0] if inside else day,
        last=day,
        tables=tables,
        sample=Sample.joined([one.sample for _, one in inside]),
        level=level,
    )


def _tested(signal: Signal, look: Look) -> Tested | None:
    """None where the window has no row that the signal could be read from."""
    names = tables_of(signal, look.base)
    if not all(look.tables[name].sum() for name in names):
        return None
    if signal.kind == "table":
        return _by_table(signal, look, names)
    return {"words": _words, "rated words": _rated_words, "classifier": _classifier, "slope": _slope, "gap": _gap}[
        signal.kind
    ](signal, look, names)


def _result(signal: Signal, look: Look, **known: object) -> Tested:
    return Tested(signal=signal, window=look.days, first=look.first, last=look.last, level=look.level, **known)  # type: ignore[arg-type]


def _flat(tables: Floats) -> Floats:
    """(W·S, K) of (W, S, K)."""
    return tables.reshape(-1, tables.shape[-1])


def _by_table(signal: Signal, look: Look, names: Sequence[str]) -> Tested:
    shifts = {name: _shift(signal, look, name) for name in names}
    least = max(shifts, key=lambda name: shifts[name].p_value)
    one = shifts[least]
    p_value = one.p_value
    if signal.one_way and one.difference > 0:
        p_value = 1.0
    base = _flat(look.base[least])
    shares = base.sum(axis=0) / base.sum()
    typical = float(np.cumsum(shares)[one.cut] if signal.ordered else shares[one.cut])
    inflation = look.reference.inflation[least]
    cuts = base.shape[1] - 1 if signal.ordered or base.shape[1] == 2 else base.shape[1]
    return _result(
        signal, look, rows=one.rows, base_rows=one.base_rows, p_value=p_value, difference=one.difference,
        raw=one.raw, share=one.share, psi=one.psi, cut=_cut_name(signal, look, one),
        moved=_categories(signal, look, least),
        smallest=smallest_share(typical, one.rows, one.base_rows, level=look.level / cuts, inflation=inflation),
    )  # fmt: skip


def _shift(signal: Signal, look: Look, name: str) -> Shift:
    base, window = _flat(look.base[name]), _flat(look.tables[name])
    one = shift(window, base, ordered=signal.ordered, inflation=look.reference.inflation[name])
    if signal.one_way and one.cut == 0:  # said of the last category
        one = replace(one, difference=-one.difference, raw=-one.raw, cut=1, share=1 - one.share)
    return one


NUMBERS = {"prompt/length": "prompt_length", "completion/length": "length", "completion/score": "score",
           "serving/logprob": "logprob"}  # fmt: skip
CATEGORIES = {
    "completion/refusal": ("no refusal", "refusal"),
    "completion/ended": ("cut", "ended"),
    "completion/format": FORMATS,
    "rating/level": ("not liked", "liked"),
    "judge/level": ("rejected", "accepted"),
    "judge/anchors": ("another verdict", "the same verdict"),
    "reward_model/agrees": ("disagrees", "agrees"),
    "reward_model/beyond": ("the text's prediction is right", "the reward model is right"),
}


def _cut_name(signal: Signal, look: Look, one: Shift) -> str:
    if signal.name in NUMBERS:
        edge = float(look.reference.chosen.bins[NUMBERS[signal.name]][one.cut])
        return f"at most {edge:.4g}"
    return category_name(signal, look.reference, one.cut)


def category_name(signal: Signal, reference: Reference, place: int) -> str:
    if signal.name == "prompt/slice":
        return reference.slices[place] if place < len(reference.slices) else "a new slice"
    if signal.name == "serving/model":
        return "another model" if place == len(reference.chosen.models) else f"model {place + 1}"
    return CATEGORIES[signal.name][place]


def _categories(signal: Signal, look: Look, name: str) -> tuple[tuple[str, float, float], ...]:
    """The slices and forms that moved, each one against the rest."""
    if signal.name not in ("prompt/slice", "completion/format", "serving/model"):
        return ()
    base, window = _flat(look.base[name]), _flat(look.tables[name])
    rows = window.sum(axis=1, keepdims=True)
    p_values = tails(window, window + base, rows, rows + base.sum(axis=1, keepdims=True),
                     inflation=look.reference.inflation[name]) * window.shape[1]  # fmt: skip
    before, now = base.sum(axis=0) / base.sum(), window.sum(axis=0) / window.sum()
    names = [category_name(signal, look.reference, place) for place in range(window.shape[1])]
    return _named(names, p_values, before, now, look.level)


def _named(
    names: Sequence[str], p_values: Floats, before: Floats, now: Floats, level: float
) -> tuple[tuple[str, float, float], ...]:
    order = [place for place in np.argsort(p_values, kind="stable")[:MOST_NAMED] if p_values[place] <= level]
    return tuple((names[place], float(before[place]), float(now[place])) for place in order)


def _words(signal: Signal, look: Look, names: Sequence[str]) -> Tested:
    """The share of prompts that have a word, for every word at once."""
    (name,) = names
    base, window = look.base[name], look.tables[name]  # (W, V)
    base_rows, rows = look.base["rows"][:, 0], look.tables["rows"][:, 0]  # (W, 1)
    inflation = look.reference.inflation[name]
    both = (rows[:, 0] > 0) & (base_rows[:, 0] > 0)
    if not both.any():
        return _result(signal, look, rows=0.0, base_rows=0.0, p_value=1.0, difference=0.0, share=None, psi=None, cut="",
                       smallest=1.0)  # fmt: skip
    base, window, base_rows, rows = base[both], window[both], base_rows[both], rows[both]
    p_values = tails(window, window + base, rows, rows + base_rows, inflation=inflation)
    p_values = np.minimum(1.0, p_values * max(1, int(((window + base).sum(axis=0) >= LEAST_IN_WINDOW).sum())))
    before = (base * rows / base_rows).sum(axis=0) / rows.sum()
    now = window.sum(axis=0) / rows.sum()
    surest = int(np.argmin(p_values))
    words = [*look.reference.prompt_words.words, "(words that the baseline does not have)"]
    return _result(
        signal, look, rows=float(rows.sum()), base_rows=float(base_rows.sum()), p_value=float(p_values[surest]),
        difference=float(now[surest] - before[surest]), share=float(now[surest]), psi=None, cut=words[surest],
        moved=_named(words, p_values, before, now, look.level),
        smallest=smallest_share(float(before[surest]), float(rows.sum()), float(base_rows.sum()),
                                level=look.level / len(words), inflation=inflation),
    )  # fmt: skip


def _rated_words(signal: Signal, look: Look, names: Sequence[str]) -> Tested:
    """How often answers that have a word are liked, among those for which the same is predicted."""
    found = []
    for name in names:
        base, window = (_by_stratum(part) for part in (look.base[name], look.tables[name]))  # (W·S, V, 2)
        rows, base_rows = window.sum(axis=-1), base.sum(axis=-1)
        both = (rows > 0) & (base_rows > 0)
        window, base = np.where(both[..., None], window, 0.0), np.where(both[..., None], base, 0.0)
        rows, base_rows = window.sum(axis=-1), base.sum(axis=-1)
        p_values = tails(window[..., 1], (window + base)[..., 1], rows, rows + base_rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(both, rows * base[..., 1] / base_rows, 0.0).sum(axis=0)
        found.append((p_values, window[..., 1].sum(axis=0), expected, rows.sum(axis=0), base_rows.sum(axis=0)))
    p_values = np.max([one[0] for one in found], axis=0)
    _, liked, expected, rows, base_rows = found[0]
    p_values = np.minimum(1.0, p_values * max(1, int((rows >= LEAST_IN_WINDOW).sum())))
    p_values = np.where(rows >= LEAST_IN_WINDOW, p_values, 1.0)
    now, before = liked / np.maximum(rows, 1), expected / np.maximum(rows, 1)
    surest = int(np.argmin(p_values))
    words = _answer_features(look.reference)
    return _result(
        signal, look, rows=float(rows[surest]), base_rows=float(base_rows[surest]), p_value=float(p_values[surest]),
        difference=float(now[surest] - before[surest]), share=float(now[surest]), psi=None, cut=words[surest],
        moved=_named(words, p_values, before, now, look.level),
        smallest=smallest_share(0.5, float(rows[surest]), float(base_rows[surest]), level=look.level / len(words)),
    )  # fmt: skip


def _answer_features(reference: Reference) -> list[str]:
    """Names of what `rating/words` counts: words of answers, then their length."""
    edges = reference.chosen.bins.get("length", np.zeros(0))
    lengths = [f"answers of at most {edge:.4g} words" for edge in edges] + ["the longest answers"]
    return [*reference.completion_words.words, "(words that the baseline does not have)", *lengths]


def _by_stratum(tables: Floats) -> Floats:
    """(W·S, V, 2) of (W, V, S, 2)."""
    return np.moveaxis(tables, 2, 1).reshape(-1, tables.shape[1], 2)


def _classifier(signal: Signal, look: Look, names: Sequence[str]) -> Tested | None:
    """A naive Bayes classifier of words, trained on one half of both, tells the other halves apart (Lopez-Paz and
    Oquab, arXiv:1610.06545): the area under its curve, and its p-value by Mann and Whitney."""
    base, window = look.reference.sample, look.sample
    if look.reference.is_seasonal:
        base = base.take(np.flatnonzero(np.isin(base.weekday, window.weekday)))
    if min(len(window.key), len(base.key)) < LEAST_CLASSIFIED:
        return None
    size = look.reference.prompt_words.size
    likelihoods, test = [], []
    for part in (base, window):
        half = (part.key >> np.uint64(20)) % np.uint64(2) == 0
        trained = part.words.take(np.flatnonzero(half))
        counts = np.bincount(trained.places, minlength=size) + 1.0
        likelihoods.append(np.log(counts / counts.sum()))
        test.append(part.words.take(np.flatnonzero(~half)))
        if min(half.sum(), (~half).sum()) < LEAST_CLASSIFIED // 3:
            return None
    weights = likelihoods[1] - likelihoods[0]
    scores = [part.means(weights) for part in test]
    area, p_value = area_under_curve(scores[1], scores[0])
    rows, base_rows = len(scores[1]), len(scores[0])
    spread = math.sqrt((rows + base_rows + 1) / (12 * rows * base_rows))
    return _result(
        signal, look, rows=float(len(window.key)), base_rows=float(len(base.key)),
        p_value=p_value if area > 0.5 else 1.0,
        difference=area - 0.5, share=None, psi=None, cut="area under the curve − ½",
        smallest=min(0.5, reach_of(look.level) * spread),
    )  # fmt: skip


def _slope(signal: Signal, look: Look, names: Sequence[str]) -> Tested:
    """The log-odds of leaving feedback for each step up, beside the baseline's, over all weekdays."""
    tested = []
    for name in names:
        now, now_variance = slope_of_selection(*_chosen_and_left(look.tables[name]))
        before, before_variance = slope_of_selection(*_chosen_and_left(look.base[name]))
        error = math.sqrt(now_variance + before_variance)
        z = 0.0 if math.isinf(error) else (now - before) / error
        tested.append((math.erfc(abs(z) / math.sqrt(2)), now - before, error, name))
    p_value, difference, error, name = max(tested)
    return _result(
        signal, look, rows=float(look.tables[name].sum()), base_rows=float(look.base[name].sum()),
        p_value=p_value, difference=difference, share=None, psi=None, cut="log-odds of feedback, a step of eight",
        smallest=math.inf if math.isinf(error) else reach_of(look.level) * error,
    )  # fmt: skip


def _chosen_and_left(tables: Floats) -> tuple[Floats, Floats]:
    whole = tables.sum(axis=0)
    return whole[1], whole[0]


def _gap(signal: Signal, look: Look, names: Sequence[str]) -> Tested:
    """Ratings that people chose to give beside those of the holdout, in the same window."""
    (name,) = names
    whole = look.tables[name].sum(axis=0)  # (2, 2): holdout, liked
    rows = whole.sum(axis=1)
    if min(rows) == 0:
        p_value, share, difference = 1.0, None, 0.0
    else:
        total = whole.sum(axis=0)
        p_value = float(tails(whole[:1, 1:], total[None, 1:], rows[:1, None], rows.sum()[None, None])[0])
        share = float(whole[0, 1] / rows[0])
        difference = share - float(whole[1, 1] / rows[1])
    return _result(
        signal, look, rows=float(rows[0]), base_rows=float(rows[1]), p_value=p_value, difference=difference,
        share=share, psi=None, cut="liked, beside the holdout",
        smallest=smallest_share(0.5, float(rows[0]), float(rows[1]), level=look.level),
    )  # fmt: skip
