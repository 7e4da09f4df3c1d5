"""One self-contained HTML page about a pipeline or a run, without scripts or network access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from assent.errors import UsageError
from assent.metrics import lookup
from assent.reporting.charts import FrontierPoint, frontier_chart, line_chart
from assent.reporting.diagnoses import diagnoses_of
from assent.reporting.formatting import COSTS, FILTERS, NOT_SUMMED, kl_estimate, label, number
from assent.reporting.frontier import over_optimisation
from assent.reporting.lineage import lineage_of
from assent.reporting.progress import progress_of, tiles_of
from assent.reporting.quality import by_slice, judge_sentence, tables_of, wins_between
from assent.reporting.samples import contrasts, last_samples
from assent.reporting.series import bands_of, num_not_finite, panels_of
from assent.reporting.sources import Source, Stage, read_source
from assent.reporting.verdict import verdict_of
from assent.runs.files import write_text


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes the page about a pipeline's or run's folder, finished or not, as its `report.html` or at `path`.

    Raises RunFolderError for other folders, StorageError if the page cannot be written.
    """
    return write_page(Path(path) if path is not None else Path(folder) / "report.html", render(read_source(folder)))


def write_page(path: Path, page: str) -> Path:
    """Writes the file atomically, and replaces an earlier page. Raises UsageError if the file is not a page of ours."""
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise UsageError(f"{path} exists and is not a report", fix="give another --output")
    write_text(path, page, what="the report")
    return path


MARK = '<meta name="generator" content="Assent">'


def template(name: str) -> Template:
    """A template of templates/. Everything that it shows is escaped."""
    environment = Environment(
        loader=PackageLoader("assent.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(name)


def render(source: Source, *, refresh: int | None = None) -> str:
    """The page as text. It depends only on the folder's content.

    refresh   seconds after which a browser reloads the page; None: never
    """
    verdict = verdict_of(source)
    return template("report.html.jinja").render(
        title=source.title,
        source=source,
        when=_when(source.stages),
        refresh=refresh,
        progress=progress_of(source),
        tiles=[] if verdict.winner else tiles_of(source),
        verdict=verdict,
        evaluation=source.evaluation,
        winner=_policy(source.evaluation, verdict.winner),
        baseline=_policy(source.evaluation, (source.evaluation or {}).get("baseline")),
        tables=tables_of(source.evaluation),
        wins_between=wins_between(source.evaluation),
        judge_sentence=judge_sentence(source.evaluation),
        by_slice=by_slice(source.evaluation),
        frontier=_frontier(source.evaluation),
        over_optimisation=over_optimisation(source.frontier),
        diagnoses=diagnoses_of(source.stages),
        lineage=lineage_of(source.stages),
        contrasts=contrasts(source.evaluation, verdict.winner),
        curves=[curves for i, stage in enumerate(source.stages) if (curves := _curves(stage, i)).charts],
        stage_samples=[(s, rows) for s in source.stages if (rows := last_samples(s)) and source.evaluation is None],
        ledger=_ledger(source.stages),
        records=[record_of(stage) for stage in source.stages],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    title: str
    unit: str
    last: str
    labels: tuple[str, ...]
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A stage's charts, and the first and last value of every metric."""

    stage: Stage
    charts: tuple[Chart, ...]
    values: tuple[Mapping[str, Any], ...]
    not_finite: Mapping[str, int]


def _curves(stage: Stage, index: int) -> Curves:
    charts = []
    for n, (panel, lines) in enumerate(panels_of(stage.metrics)):
        described = "; ".join(f"{name} from {number(s.values[0])} to {number(s.last)}" for name, s in lines.items())
        svg = line_chart(
            lines,
            identity=f"s{index}c{n}",
            description=f"{stage.name}: {panel.title}. {described}",
            bands=bands_of(panel, stage.metrics),
        )
        labels = tuple(lines) if len(lines) > 1 else ()
        last = number(next(iter(lines.values())).last)
        charts.append(Chart(title=panel.title, unit=panel.unit, last=last, labels=labels, svg=Markup(svg)))
    values = [
        {"name": name, "first": series.values[0], "last": series.last, **_declared(name)}
        for name, series in sorted(stage.metrics.items())
    ]
    not_finite = {name: count for name, series in stage.metrics.items() if (count := num_not_finite(series))}
    return Curves(stage=stage, charts=tuple(charts), values=tuple(values), not_finite=not_finite)


def _declared(name: str) -> dict[str, str]:
    """Unit and definition; empty for a name that only another version declares."""
    try:
        metric = lookup(name)
    except UsageError:
        return {"unit": "", "definition": ""}
    return {"unit": "" if metric.unit == "1" else metric.unit, "definition": metric.definition}


def _frontier(evaluation: Mapping[str, Any] | None) -> Markup | None:
    """The chart of score against KL, if at least two policies have both."""
    if evaluation is None or len(evaluation["policies"]) < 2:
        return None
    points = []
    for policy in evaluation["policies"]:
        gold, kl = policy["sampled"]["gold"], policy["kl"]
        if gold is None or kl is None:
            continue
        points.append(
            FrontierPoint(
                name=label(policy["name"]),
                kl=kl["value"],
                kl_ends=_ends(kl_estimate(kl)),
                score=gold["value"],
                score_ends=_ends(gold),
            )
        )
    if len(points) < 2:
        return None
    described = "; ".join(f"{p.name} {number(p.score)} at {number(p.kl)} nats" for p in points)
    return Markup(frontier_chart(points, identity="frontier", description=f"Mean score against KL: {described}"))


def _ends(estimate: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return None
    return float(estimate["low"]), float(estimate["high"])


def _policy(evaluation: Mapping[str, Any] | None, name: str | None) -> Mapping[str, Any] | None:
    policies = evaluation["policies"] if evaluation is not None else []
    return next((policy for policy in policies if policy["name"] == name), None)


def _ledger(stages: Sequence[Stage]) -> dict[str, Any]:
    """The costs that any stage logged: columns, each stage's amounts, and the total."""
    amounts = [{name: stage.last(name) for name in COSTS} for stage in stages]
    columns = [name for name in COSTS if any(row[name] is not None for row in amounts)]
    total = {}
    for name in columns:
        known = [amount for row in amounts if (amount := row[name]) is not None]
        total[name] = max(known) if name in NOT_SUMMED else sum(known)
    rows = [
        (stage, row) for stage, row in zip(stages, amounts, strict=True) if any(row[c] is not None for c in columns)
    ]
    return {"columns": columns, "heads": COSTS, "rows": rows, "total": total}


def record_of(stage: Stage) -> dict[str, Any]:
    """What it takes to run the stage again."""
    manifest = stage.manifest
    options = dict(flat(stage.options))
    facts = {
        **dict(flat(manifest.get("facts", {}))),
        **{f"hash of {name}": value for name, value in flat(manifest.get("hashes", {}))},
        "parents": ", ".join(map(str, manifest.get("parents", []))) or None,
        "git revision": manifest.get("git_revision"),
    }
    return {
        "stage": stage,
        "options": options,
        "facts": {name: value for name, value in facts.items() if value is not None},
        "versions": manifest.get("versions", {}),
        "notes": manifest.get("notes", []),
    }


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Single values with their names; names of nested values are joined by points."""
    found: list[tuple[str, Any]] = []
    for key, value in record.items():
        nested = isinstance(value, Mapping) and value
        found += flat(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return found


def _when(stages: Sequence[Stage]) -> str:
    """The day (UTC) on which the last stage finished or started."""
    moments = [stage.manifest.get("finished") or stage.manifest.get("started") for stage in stages]
    return max((str(moment)[:10] for moment in moments if moment), default="")
