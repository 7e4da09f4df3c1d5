"""The page about a deployed model's logs: what moved, since when, and what this much data could have shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assent.diagnosis.drift.signals import SIGNALS
from assent.diagnosis.drift.watcher import Watcher, name_of_day
from assent.reporting.charts import line_chart
from assent.reporting.page import template, write_page
from assent.runs.reading import Series


def write_monitor(path: Path, watcher: Watcher, document: Mapping[str, Any]) -> Path:
    """Writes the page. It has the words of a log only if the document has them (--show-text)."""
    named = bool(watcher.by_call)
    days = [{**one, "name": name_of_day(one["day"], by_call=named)} for one in watcher.told]
    page = template("monitor.html.jinja").render(
        document=document,
        days=days[::-1],
        charts=_charts(watcher),
        base_rows=watcher.reference.num_rows,
        seasonal=watcher.reference.is_seasonal,
        title="Monitor",
    )
    return write_page(path, page)


def _charts(watcher: Watcher) -> list[dict[str, Any]]:
    """The difference to the release over the tested days: of the first signal of each cause, and of those that its
    findings are about."""
    charts = []
    found = {rule for one in watcher.told for rule in one["found"]}
    first = {signal.rule: signal.name for signal in reversed(SIGNALS)}
    for place, signal in enumerate(SIGNALS):
        if signal.name != first[signal.rule] and signal.rule not in found:
            continue
        known = [(one["day"], one["differences"][signal.name]) for one in watcher.told
                 if signal.name in one["differences"]]  # fmt: skip
        if len(known) < 2:
            continue
        start = known[0][0]
        line = Series(tuple(day - start + 1 for day, _ in known), tuple(value for _, value in known))
        described = f"{signal.title}: difference to the release, from {line.values[0]:.3g} to {line.last:.3g}"
        svg = line_chart({signal.title: line}, identity=f"m{place}", description=described)
        charts.append({"title": signal.title, "last": line.last, "svg": Markup(svg)})
    return charts
