"""The monitor between calls: which rows were counted, which days were tested, which alerts are open.

Memory does not grow with the rows: a day is a few thousand counts and the words of at most 300 prompts; only the hashes
by which doubled rows are recognised take eight bytes a row, for the last five weeks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assent.diagnosis.case import Case
from assent.diagnosis.drift.encoding import DAY_SECONDS, Rows, day_of, hash_of
from assent.diagnosis.drift.files import Place
from assent.diagnosis.drift.reference import SAMPLE_A_DAY, Reference, Sample
from assent.diagnosis.drift.served import Served
from assent.diagnosis.drift.signals import Drift, agrees
from assent.diagnosis.drift.tables import count
from assent.diagnosis.drift.testing import Day, look
from assent.diagnosis.examine import Report, examine
from assent.diagnosis.log_rules import log_rules
from assent.errors import DataError

KEPT_DAYS = 35
"""Days whose counts and hashes are kept: the longest window, and a week for rows that come late."""
CHUNK = 4096
CLEAR_AFTER = 7
"""Days in a row without its finding that close an alert."""
MOST_TOLD = 400
"""Tested days whose figures are kept for the page."""
DOUBLED, LATE, TOO_LATE = "doubled", "late", "too late"


@dataclass(slots=True)
class Alert:
    """An alert that is open: since when, and on how many days in a row its finding has been absent."""

    rule: str
    since: int
    quiet: int = 0


@dataclass(slots=True)
class Watcher:
    """What is remembered between two calls.

    days        counts of the last days, by day; where rows have no time, a day is a call
    hashes      of the identities of rows, sorted, by day
    places      how far each file was read; pending: halves of requests that wait for the other half
    counts      rows counted, doubled, late, too late, and unreadable by reason, since the first call
    num_tested  days that have been tested; last_tested: the last of them
    alerts      those that are open, by rule
    told        what the page shows of each tested day
    by_call     whether a day is a call; None before the first row
    """

    reference: Reference
    alpha: float
    days: dict[int, Day] = field(default_factory=dict)
    hashes: dict[int, NDArray[np.uint64]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    pending: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    num_tested: int = 0
    last_tested: int = -1
    alerts: dict[str, Alert] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    by_call: bool | None = None
    num_calls: int = 0

    def take(self, rows: Iterable[Served], *, now: float) -> None:
        """Counts rows, a chunk at a time. `now`: seconds since 1970. Raises DataError where rows have no times, and the
        baseline has weekdays."""
        self.num_calls += 1
        chunk: list[Served] = []
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK:
                self._count(chunk, now)
                chunk = []
        if chunk:
            self._count(chunk, now)

    def _count(self, chunk: Sequence[Served], now: float) -> None:
        if self.by_call is None:
            self.by_call = all(row.time is None for row in chunk)
            if self.by_call and self.reference.is_seasonal:
                raise DataError(
                    "the logs have no times, and the baseline is compared by weekday", got="rows without a time",
                    fix="--season none, or name the field: --columns THEIRS=time",
                )  # fmt: skip
        kept: list[Served] = []
        for row in chunk:
            reason = self._refusal(row, now)
            if reason is None:
                kept.append(row)
            else:
                self.counts[reason] += 1
        if not kept:
            return
        encoded = self.reference.encoder.encode(kept, day=self.num_calls if self.by_call else None)
        identities = np.array([identity_of(row) for row in kept], dtype=np.uint64)
        for day in np.unique(encoded.day):
            inside = np.flatnonzero(encoded.day == day)
            fresh = self._fresh(int(day), identities[inside])
            self.counts[DOUBLED] += len(inside) - int(fresh.sum())
            self._add(int(day), encoded.take(inside[fresh]))

    def _refusal(self, row: Served, now: float) -> str | None:
        if self.by_call:
            return None if row.time is None else "a row with a time among rows without"
        if row.time is None:
            return "no time"
        if row.time > now + DAY_SECONDS:
            return "a time in the future"
        return TOO_LATE if day_of(row) <= self.last_tested - KEPT_DAYS else None

    def _fresh(self, day: int, identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which rows have not been counted: those without an identity (0), and each other one once."""
        known = self.hashes.get(day, np.zeros(0, dtype=np.uint64))
        first = np.zeros(len(identities), dtype=bool)
        first[np.unique(identities, return_index=True)[1]] = True
        places = np.minimum(np.searchsorted(known, identities), max(0, len(known) - 1))
        seen = known[places] == identities if len(known) else np.zeros(len(identities), dtype=bool)
        named = identities != 0
        fresh = ~named | (first & ~seen)
        both = np.concatenate([known, np.sort(identities[fresh & named])])
        self.hashes[day] = np.sort(both, kind="stable")  # two sorted runs: one pass
        return fresh

    def _add(self, day: int, rows: Rows) -> None:
        if not len(rows):
            return
        self.counts["rows"] += len(rows)
        if day <= self.last_tested:
            self.counts[LATE] += len(rows)
        tables, sample = count(rows, self.reference.chosen), Sample.of(rows, SAMPLE_A_DAY)
        if (old := self.days.get(day)) is not None:
            for name, before in old.tables.items():
                tables[name] = tables[name] + before if name in tables else before
            sample = Sample.joined([old.sample, sample]).cut(SAMPLE_A_DAY)
        self.days[day] = Day(tables, sample)

    def test(self, *, now: float, policy: Mapping[str, float] | None = None) -> list[Look]:
        """Tests every day that is over and has not been tested, in order.

        policy   what was measured of the policy on this call's rows: that they agree speaks for all of these days, that
                 they do not for the last
        """
        today = self.num_calls + 1 if self.by_call else int(now // DAY_SECONDS)
        over = [day for day in sorted(self.days) if self.last_tested < day < today]
        looks = [self._test(day, policy if day == over[-1] or agrees(policy) else None) for day in over]
        for day in [day for day in self.days if day <= self.last_tested - KEPT_DAYS]:
            self.days.pop(day)
            self.hashes.pop(day, None)
        return looks

    def _test(self, day: int, policy: Mapping[str, float] | None) -> Look:
        self.num_tested, self.last_tested = self.num_tested + 1, day
        drift = look(self.reference, self.days, day, number=self.num_tested, alpha=self.alpha)
        drift = replace(drift, policy=policy)
        report = examine(Case(logs=drift, source="logs"), log_rules())
        found = {finding.rule for finding in report.findings}
        new = tuple(sorted(found - set(self.alerts)))
        for rule in new:
            self.alerts[rule] = Alert(rule, since=day)
        cleared = []
        for rule, alert in list(self.alerts.items()):
            alert.quiet = 0 if rule in found else alert.quiet + 1
            if alert.quiet >= CLEAR_AFTER:
                cleared.append(rule)
                self.alerts.pop(rule)
        self.told = [*self.told, told(drift, self.days[day], sorted(found))][-MOST_TOLD:]
        return Look(day=day, drift=drift, report=report, new=new, cleared=tuple(cleared))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A tested day: what was found, which alerts are new, which were closed."""

    day: int
    drift: Drift
    report: Report
    new: tuple[str, ...]
    cleared: tuple[str, ...]


def told(drift: Drift, day: Day, found: Sequence[str]) -> dict[str, Any]:
    """What the page shows of a day: counts and differences, no word of any text."""
    return {
        "day": drift.day,
        "rows": int(day.tables["rows"].sum()),
        "found": list(found),
        "differences": {name: round(one.difference, 6) for name, one in drift.signals.items()},
    }


def identity_of(row: Served) -> int:
    """0 for a row that nothing tells from another one that says the same."""
    if row.identity is not None:
        return hash_of("id", row.identity) or 1
    return 0 if row.time is None else hash_of(row.time, row.prompt, row.completion) or 1


def date_of(day: int) -> str:
    """2026-11-30 of days since 1970."""
    return datetime.fromtimestamp(day * DAY_SECONDS, UTC).date().isoformat()


def name_of_day(day: int, *, by_call: bool) -> str:
    return f"call {day}" if by_call else date_of(day)
