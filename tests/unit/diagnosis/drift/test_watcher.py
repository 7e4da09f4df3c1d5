"""Rows are counted once, late ones into their day; alerts are raised once and close; the state holds all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assent.diagnosis.drift import watcher as watching
from assent.diagnosis.drift.encoding import DAY_SECONDS
from assent.diagnosis.drift.findings import example
from assent.diagnosis.drift.reference import fit
from assent.diagnosis.drift.served import Served
from assent.diagnosis.drift.signals import Drift
from assent.diagnosis.drift.state import VERSION, load, save
from assent.diagnosis.drift.watcher import CLEAR_AFTER, DOUBLED, KEPT_DAYS, LATE, TOO_LATE, Watcher
from assent.errors import DataError
from tests.support.traffic import NEXT_DAY, logged, reference, release, served


def at(day: int) -> float:
    """A moment after `day` is over."""
    return (day + 1.5) * DAY_SECONDS


def watcher() -> Watcher:
    return Watcher(reference=reference(), alpha=0.05)


def totals(one: Watcher) -> dict[int, float]:
    return {day: float(counts.tables["rows"].sum()) for day, counts in one.days.items()}


def test_doubled_rows_count_once_in_one_call_and_in_two() -> None:
    rows = served(logged(days=2))
    one = watcher()
    one.take([*rows, *rows[:100]], now=at(NEXT_DAY))
    one.take(rows[50:200], now=at(NEXT_DAY))
    assert one.counts[DOUBLED] == 250
    assert totals(one) == {NEXT_DAY: 150, NEXT_DAY + 1: 150}


def test_rows_without_id_and_time_cannot_be_told_from_repeats() -> None:
    same = Served(prompt="hello there", completion="hi")
    one = Watcher(reference=fit(served(release()), season="none"), alpha=0.05)
    one.take([same] * 5, now=at(NEXT_DAY))
    assert (one.by_call, one.counts[DOUBLED], totals(one)) == (True, 0, {1: 5})
    timed = watcher()
    timed.take([replace(same, time=NEXT_DAY * DAY_SECONDS)] * 5, now=at(NEXT_DAY))
    assert (timed.counts[DOUBLED], totals(timed)) == (4, {NEXT_DAY: 1})


def test_rows_without_times_have_no_weekday() -> None:
    """Calls are no weekdays: against a baseline of weekdays each would be held against one that it does not have."""
    one = watcher()
    assert one.reference.is_seasonal
    with pytest.raises(DataError, match="--season none"):
        one.take([Served(prompt="hello there", completion="hi")], now=at(NEXT_DAY))


def test_anchors_are_nobodys_prompts() -> None:
    """Fixed questions to the judge are logged beside the users': they are in no vocabulary and in no sample."""
    anchors = [
        Served(prompt=f"zzfixed question {number % 5}", completion=f"zzfixed answer {number}", judge=1.0,
               anchor=f"a{number % 5}", time=(NEXT_DAY + number % 2) * DAY_SECONDS, identity=f"anchor-{number}")
        for number in range(300)
    ]  # fmt: skip
    rows = served(logged(days=2))
    one = watcher()
    one.take([*rows, *anchors], now=at(NEXT_DAY + 1))
    assert [len(day.sample.key) for day in one.days.values()] == [150, 150]
    assert all("prompts_moved" not in look.new for look in one.test(now=at(NEXT_DAY + 1)))
    learnt = fit([*served(release()), *anchors])
    for words in (learnt.prompt_words.words, learnt.completion_words.words):
        assert "zzfixed" not in words
    assert len(learnt.sample.key) == len(reference().sample.key)


def test_the_order_of_rows_changes_nothing() -> None:
    rows = served(logged(days=2))
    one, other = watcher(), watcher()
    one.take(rows, now=at(NEXT_DAY + 1))
    for part in (rows[200:], rows[:40], rows[40:200]):
        other.take(part, now=at(NEXT_DAY + 1))
    for day, counts in one.days.items():
        for name, table in counts.tables.items():
            assert np.array_equal(table, other.days[day].tables[name]), name
        assert np.array_equal(counts.sample.key, other.days[day].sample.key)


def test_late_rows_count_into_their_day_and_very_late_ones_do_not() -> None:
    rows = served(logged(days=2))
    one = watcher()
    one.take(rows[:-10], now=at(NEXT_DAY + 1))
    assert [look.day for look in one.test(now=at(NEXT_DAY + 1))] == [NEXT_DAY, NEXT_DAY + 1]
    one.take(rows[-10:], now=at(NEXT_DAY + 1))
    assert (one.counts[LATE], totals(one)[NEXT_DAY + 1]) == (10, 150)
    assert one.test(now=at(NEXT_DAY + 1)) == []  # a day is tested once
    old = replace(rows[0], time=(NEXT_DAY + 1 - KEPT_DAYS) * DAY_SECONDS, identity="old")
    one.take([old, replace(old, identity="older", time=None)], now=at(NEXT_DAY + 1))
    assert (one.counts[TOO_LATE], one.counts["no time"]) == (1, 1)
    one.take([replace(old, time=at(NEXT_DAY + 9))], now=at(NEXT_DAY + 1))
    assert one.counts["a time in the future"] == 1


def test_a_day_is_tested_only_when_it_is_over() -> None:
    one = watcher()
    one.take(served(logged(days=2)), now=at(NEXT_DAY))
    looks = one.test(now=(NEXT_DAY + 1.5) * DAY_SECONDS)
    assert [look.day for look in looks] == [NEXT_DAY]


def test_an_alert_is_raised_once_and_closes_after_a_quiet_week(monkeypatch: pytest.MonkeyPatch) -> None:
    found_on = {0, 1, 3, 14}

    def looked(_: object, days: object, day: int, **__: object) -> Drift:
        signals = ("completion/length",) if day - NEXT_DAY in found_on else ()
        drift: Drift = example(*signals, quiet=("prompt/length",)).logs
        return replace(drift, day=day)

    monkeypatch.setattr(watching, "look", looked)
    one = watcher()
    one.take(served(logged(days=20, rows_a_day=2)), now=at(NEXT_DAY + 19))
    looks = one.test(now=at(NEXT_DAY + 19))
    assert [look.day - NEXT_DAY for look in looks if look.new] == [0, 14]
    assert [look.day - NEXT_DAY for look in looks if look.cleared] == [3 + CLEAR_AFTER]
    assert list(one.alerts) == ["behaviour_moved"]


def test_the_state_is_all_that_is_remembered(tmp_path: Path) -> None:
    rows = served(logged("behaviour", days=4))
    whole, first = watcher(), watcher()
    whole.take(rows, now=at(NEXT_DAY + 3))
    expected = whole.test(now=at(NEXT_DAY + 3))
    first.take(rows[:300], now=at(NEXT_DAY + 1))
    before = first.test(now=at(NEXT_DAY + 1))
    first.pending = {"b1": [{"prompt": [{"role": "user", "content": "x"}]}]}
    save(first, tmp_path / "state.npz", options={"alpha": 0.05})
    second, options = load(tmp_path / "state.npz")
    assert (options, second.pending) == ({"alpha": 0.05}, first.pending)
    second.take(rows[250:], now=at(NEXT_DAY + 3))
    assert second.counts[DOUBLED] == 50
    after = second.test(now=at(NEXT_DAY + 3))
    for one, other in zip(expected, [*before, *after], strict=True):
        assert (one.day, one.new, one.cleared) == (other.day, other.new, other.cleared)
        assert [(s.p_value, s.difference) for s in one.drift.signals.values()] == [
            (s.p_value, s.difference) for s in other.drift.signals.values()
        ]


def test_another_file_is_no_state(tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    save(watcher(), state, options={})
    whole = state.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", meta=np.zeros(3))
    meta = json.dumps({"version": VERSION, "options": {}, "watcher": {"reference": {}}})
    np.savez(tmp_path / "partial.npz", meta=np.frombuffer(meta.encode(), np.uint8))
    made = [(tmp_path / name).read_bytes() for name in ("one.npy", "other.npz", "partial.npz")]
    for content in (b"hello", b"", whole[:100], whole[:-100], *made):
        state.write_bytes(content)
        with pytest.raises(DataError, match=r"no state(.|\n)*give another --state"):
            load(state)


def test_a_state_never_pickles(tmp_path: Path) -> None:
    one = watcher()
    one.hashes = {1: np.array([None])}
    with pytest.raises(TypeError, match="would be pickled"):
        save(one, tmp_path / "state.npz", options={})
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_rows() -> None:
    one, other = watcher(), watcher()
    one.take(served(logged(days=1)), now=at(NEXT_DAY))
    other.take(served(logged(days=1, rows_a_day=1500)), now=at(NEXT_DAY))

    def size(watcher: Watcher) -> int:
        (day,) = watcher.days.values()
        return sum(table.nbytes for table in day.tables.values())

    assert size(one) == size(other)
    assert len(next(iter(other.days.values())).sample.key) == 300
