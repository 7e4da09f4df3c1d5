"""What the monitor says: a JSON document, lines of text, and OpenMetrics. No text of a log unless it is asked for."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from assent.diagnosis.case import Case
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.drift.signals import Tested
from assent.diagnosis.drift.testing import available
from assent.diagnosis.drift.watcher import DOUBLED, LATE, TOO_LATE, Look, Watcher, name_of_day

WIDTH = 80
TOLD = (DOUBLED, LATE, TOO_LATE, "rows")


def document_of(watcher: Watcher, looks: Sequence[Look], read: Counter[str], *, show_text: bool) -> dict[str, Any]:
    """JSON-able. `moved` is None if no day could be tested in this call."""
    named = bool(watcher.by_call)
    last = looks[-1] if looks else None
    new = sorted({rule for look in looks for rule in look.new})
    return {
        "moved": None if last is None else bool(last.report.findings),
        "causes": [] if last is None else [finding.rule for finding in last.report.findings],
        "new": new,
        "open": [
            {"rule": alert.rule, "since": name_of_day(alert.since, by_call=named), "new": alert.rule in new}
            for alert in watcher.alerts.values()
        ],
        "cleared": sorted({rule for look in looks for rule in look.cleared}),
        "findings": [] if last is None else [finding.as_dict() for finding in last.report.findings],
        "not_checked": []
        if last is None
        else [{"rule": rule, "reason": reason} for rule, reason in last.report.not_checked],
        "days": [
            {"day": name_of_day(look.day, by_call=named), "found": [finding.rule for finding in look.report.findings]}
            for look in looks
        ],
        "signals": [] if last is None else [_signal(one, show_text=show_text) for one in last.drift.signals.values()],
        "not_logged": [] if last is None else list(last.drift.not_logged),
        "alpha": watcher.alpha,
        "days_tested": watcher.num_tested,
        "rows": {"used": read["rows"], "doubled": read[DOUBLED], "late": read[LATE], "too_late": read[TOO_LATE],
                 "waiting": sum(map(len, watcher.pending.values())),
                 "not_used": {reason: count for reason, count in read.items() if reason not in TOLD}},
    }  # fmt: skip


def _signal(one: Tested, *, show_text: bool) -> dict[str, Any]:
    is_text = one.signal.kind in ("words", "rated words")
    return {
        "name": one.signal.name,
        "title": one.signal.title,
        "cause": one.signal.rule,
        "found": one.found,
        "window_days": one.window,
        "cut": None if is_text and not show_text else one.cut,
        "share": one.share,
        "before": one.before,
        "difference": one.difference,
        "smallest_difference": one.smallest if math.isfinite(one.smallest) else None,
        "psi": one.psi,
        "p_value": one.p_value,
        "level": one.level,
        "rows": one.rows,
        "baseline_rows": one.base_rows,
        "num_moved": len(one.moved),
        "moved": [
            {"name": name, "before": before, "now": now} for name, before, now in one.moved
        ] if show_text or not is_text else [],
    }  # fmt: skip


def lines_of(watcher: Watcher, looks: Sequence[Look], read: Counter[str], *, show_text: bool) -> list[str]:
    """The verdict first, then the findings, what could have been found, and the rows."""
    lines = [*_verdict(watcher, looks)]
    if looks:
        last = looks[-1]
        for finding in last.report.findings:
            lines += ["", *[part for line in lines_of_finding(finding, Case()) for part in _folded(line)]]
            for one in last.drift.of_rule(finding.rule):
                lines += _moved(one, show_text=show_text)
        lines += ["", *_smallest(last)]
        for rule, reason in last.report.not_checked:
            lines += _folded(f"not checked: {rule}: {reason}")
    lines += ["", *_rows(watcher, read)]
    return lines


def _verdict(watcher: Watcher, looks: Sequence[Look]) -> list[str]:
    named = bool(watcher.by_call)
    if not looks:
        return ["no new day is over: nothing was tested"]
    last = looks[-1]
    day = name_of_day(last.day, by_call=named)
    new = sorted({rule for look in looks for rule in look.new})
    causes = ", ".join(finding.rule for finding in last.report.findings)
    lines = _folded(f"{day}: moved: {causes}" if causes else f"{day}: nothing moved that this much data could show")
    for rule in new:
        since = next(look.day for look in looks if rule in look.new)
        lines.append(f"  new alert: {rule}, first found on {name_of_day(since, by_call=named)}")
    for alert in watcher.alerts.values():
        if alert.rule not in new:
            lines.append(f"  open: {alert.rule}, since {name_of_day(alert.since, by_call=named)}")
    lines += [f"  cleared: {rule}" for look in looks for rule in look.cleared]
    return lines


def _moved(one: Tested, *, show_text: bool) -> list[str]:
    if not one.moved:
        return []
    if one.signal.kind in ("words", "rated words") and not show_text:
        return _folded(f"    {one.signal.title}: {len(one.moved)} moved; --show-text names them")
    named = "; ".join(f"{name} {before:.1%} -> {now:.1%}" for name, before, now in one.moved[:8])
    return _folded(f"    {one.signal.title}: {named}" + (" …" if len(one.moved) > 8 else ""))


def _smallest(look: Look) -> list[str]:
    """What this much data was likely to find (power 80%)."""
    lines = ["smallest shift that was likely to be found (80%), what was seen (* moved), in:"]
    for one in look.drift.signals.values():
        smallest = "none" if not math.isfinite(one.smallest) else f"{one.smallest:.3g}"
        mark = "*" if one.found else " "
        lines.append(f" {mark}{one.signal.title:<34} {smallest:>8} {one.difference:>+9.3f}  {_days(one.window)}")
    return lines


def _days(window: int) -> str:
    return "1 day" if window == 1 else f"{window} days"


def _rows(watcher: Watcher, read: Counter[str]) -> list[str]:
    lines = [
        f"{read['rows']:,} rows counted; day {watcher.num_tested} of looking, alpha {watcher.alpha:g} for all days"
    ]
    notes = {DOUBLED: "doubled, counted once", LATE: "late, counted into their day after it was tested",
             TOO_LATE: "not used: more than five weeks late"}  # fmt: skip
    for reason, count in read.most_common():
        if reason != "rows" and count:
            lines += _folded(
                f"  {count:,} rows {notes[reason]}" if reason in notes else f"  {count:,} not used: {reason}"
            )
    if watcher.pending:
        waiting = sum(map(len, watcher.pending.values()))
        lines.append(f"  {waiting:,} requests wait for their answer")
    return lines


def _folded(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, WIDTH, initial_indent="", subsequent_indent=indent + "  ", drop_whitespace=True) or [""]


def openmetrics_of(watcher: Watcher, looks: Sequence[Look]) -> str:
    """OpenMetrics text (openmetrics.io, 1.0): rows, alerts by rule, and of the newest day each signal's difference."""
    from assent.diagnosis.log_rules import log_rules

    lines = ["# TYPE assent_monitor_rows counter", "# HELP assent_monitor_rows Rows counted."]
    lines.append(f"assent_monitor_rows_total {watcher.counts['rows']}")
    lines += ["# TYPE assent_monitor_days_tested counter", "# HELP assent_monitor_days_tested Days that were tested."]
    lines.append(f"assent_monitor_days_tested_total {watcher.num_tested}")
    lines += ["# TYPE assent_monitor_alert gauge", "# HELP assent_monitor_alert 1 while the alert is open."]
    lines += [f'assent_monitor_alert{{rule="{rule.name}"}} {int(rule.name in watcher.alerts)}' for rule in log_rules()]
    if watcher.told:
        lines.append("# TYPE assent_monitor_difference gauge")
        lines.append("# HELP assent_monitor_difference Largest difference of shares to the release, newest day.")
        newest = watcher.told[-1]["differences"]
        known = [signal.name for signal in available(watcher.reference) if signal.name in newest]
        lines += [f'assent_monitor_difference{{signal="{name}"}} {newest[name]:g}' for name in known]
    return "\n".join([*lines, "# EOF", ""])
