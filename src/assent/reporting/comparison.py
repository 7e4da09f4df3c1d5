"""One page about several runs or pipelines: their results, their differences, and their curves together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assent.errors import UsageError
from assent.reporting.charts import SERIES, line_chart
from assent.reporting.formatting import (
    COSTS,
    NOT_SUMMED,
    cost,
    interval,
    kl_estimate,
    label,
    nats,
    nats_interval,
    number,
    percent_interval,
)
from assent.reporting.formatting import percent as percent_of
from assent.reporting.held_out import of_kept
from assent.reporting.page import Chart, flat, record_of, template, write_page
from assent.reporting.samples import contrasts
from assent.reporting.series import PANELS, finite
from assent.reporting.sources import Source, Stage, read_source
from assent.reporting.verdict import Verdict, verdict_of
from assent.runs.reading import Series

MOST = len(SERIES)
"""Most runs on one page: each needs a colour of its own."""
_NOT_COMPARED = frozenset(
    {"output_dir", "resume", "stop", "stop_on", "save_steps", "save_total_limit", "reference_cache", "report_to"}
)
"""Options about where and how often a run writes, which do not change its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the runs: its name on the page, and the policy that represents it."""

    name: str
    source: Source
    policy: Mapping[str, Any] | None

    @property
    def title(self) -> str:
        return self.name if self.policy is None else f"{label(self.policy['name'])} of {self.name}"


def write_comparison(folders: Sequence[str | Path], path: str | Path = "comparison.html") -> Path:
    """Writes the page and returns its path. Raises the errors of `write_report`, and UsageError if a folder is given
    twice or if there are too many."""
    if len(folders) > MOST:
        raise UsageError("there are too many runs for one page", got=len(folders), expected=f"at most {MOST}")
    resolved = [Path(folder).resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UsageError("a run is given twice", got=", ".join(map(str, folders)), expected="different runs")
    return write_page(Path(path), render_comparison([read_source(folder) for folder in folders]))


def render_comparison(sources: Sequence[Source]) -> str:
    """The page as text. It depends only on the content and the names of the folders."""
    sides = _sides(sources)
    same = _same_measurement(sides)
    best, second = _ranked(sides) if same else (None, None)
    pair = None if best is None or second is None else _paired(best, second)
    return template("comparison.html.jinja").render(
        sides=sides,
        verdict=_verdict(sides, pair),
        rows=_rows(sides),
        differences=_differences(sides),
        groups=_curves(sides),
        contrasts=contrasts(pair["evaluation"], pair["better"]) if pair else None,
        records=[(side.name, record_of(stage)) for side in sides for stage in side.source.stages],
    )


def _sides(sources: Sequence[Source]) -> list[Side]:
    """The runs, named by their folders and as many parent folders as make the names different."""
    paths = [source.folder.resolve().parts for source in sources]
    length = next(n for n in range(1, 100) if len({parts[-n:] for parts in paths}) == len(paths))
    sides = []
    for source, parts in zip(sources, paths, strict=True):
        winner = verdict_of(source).winner
        policies = source.evaluation["policies"] if source.evaluation is not None else []
        policy = next((policy for policy in policies if policy["name"] == winner), None)
        sides.append(Side(name="/".join(parts[-length:]), source=source, policy=policy))
    return sides


def _same_measurement(sides: Sequence[Side]) -> bool:
    """Whether all have scores by one scorer on the same prompts with the same sampling: then prompts can be paired."""

    def measured(side: Side) -> Any:
        evaluation = side.source.evaluation
        if evaluation is None or side.policy is None or not side.policy["sampled"]["scores"]:
            return None
        prompts = [sample["prompt"] for sample in evaluation.get("samples", [])]
        decoding = {key: value for key, value in evaluation.get("decoding", {}).items() if key != "seed"}
        return evaluation["scorer"], evaluation["num_prompts"], prompts, decoding

    kinds = [measured(side) for side in sides]
    return kinds[0] is not None and bool(kinds[0][2]) and all(kind == kinds[0] for kind in kinds)


def _means(side: Side) -> list[float]:
    """Each prompt's mean score."""
    assert side.policy is not None
    return [sum(row) / len(row) for row in side.policy["sampled"]["scores"]]


def _ranked(sides: Sequence[Side]) -> tuple[Side, Side]:
    """The runs with the highest and the second-highest mean score."""
    ordered = sorted(sides, key=lambda side: -sum(_means(side)))
    return ordered[0], ordered[1]


def _paired(best: Side, second: Side) -> dict[str, Any]:
    """The mean difference of the prompts' scores with its 95% interval (Student's t), and the samples of both runs."""
    from scipy.stats import ttest_1samp

    differences = [a - b for a, b in zip(_means(best), _means(second), strict=True)]
    ends: tuple[float | None, float | None] = (None, None)
    if len(set(differences)) > 1:
        found = ttest_1samp(differences, 0.0).confidence_interval(0.95)
        ends = (float(found.low), float(found.high))
    assert best.source.evaluation is not None
    assert second.source.evaluation is not None
    assert best.policy is not None
    assert second.policy is not None
    samples = []
    for one, other in zip(best.source.evaluation["samples"], second.source.evaluation["samples"], strict=True):
        completions = {
            best.title: one["completions"].get(best.policy["name"]),
            second.title: other["completions"].get(second.policy["name"]),
        }
        samples.append(
            {"prompt": one["prompt"], "completions": {name: text for name, text in completions.items() if text}}
        )
    return {
        "better": best.title,
        "other": second.title,
        "difference": sum(differences) / len(differences),
        "low": ends[0],
        "high": ends[1],
        "evaluation": {"baseline": second.title, "samples": samples},
        "kl": [policy["kl"] and policy["kl"]["value"] for policy in (best.policy, second.policy)],
        "scorer": best.source.evaluation["scorer"],
        "num_prompts": len(differences),
    }


def _verdict(sides: Sequence[Side], pair: Mapping[str, Any] | None) -> Verdict:
    if pair is None:
        return Verdict(
            sentence=f"These {len(sides)} runs have no common measurement that says which is better.",
            tone="plain",
            beside=(
                "Scores can be compared if all runs were evaluated on the same prompts, by the same scorer and with "
                "the same sampling: evaluate all policies together, or each with the same data and judge.",
            ),
        )
    beside = (
        f"Scored by {pair['scorer']} on the same {pair['num_prompts']:,} prompts; the interval is paired by prompt.",
        *([f"These are the two best of {len(sides)} runs by mean score."] if len(sides) > 2 else []),
        "A run can gain score by moving further from the reference, so compare runs at equal distance.",
    )
    if pair["low"] is None:
        return Verdict(sentence=f"{pair['better']} and {pair['other']} have equal scores.", tone="open", beside=beside)
    ends = f"(95% interval {number(pair['low'])} to {number(pair['high'])})"
    if pair["low"] > 0:
        more = f"{pair['better']} scores {number(pair['difference'])} more than {pair['other']} {ends}"
        known = None not in pair["kl"]
        distance = ", at a KL of {} and {} nats".format(*(nats(kl, 1) for kl in pair["kl"])) if known else ""
        sentence = f"{more}{distance}."
        return Verdict(sentence=sentence, tone="better", beside=beside)
    both = f"{pair['better']} and {pair['other']}"
    sentence = f"There is no clear difference between {both}: {number(pair['difference'])} {ends}."
    return Verdict(sentence=sentence, tone="open", beside=beside)


def _rows(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """A row for each figure, with a cell (figure, interval) for each run. Empty rows are left out."""
    rows: list[dict[str, Any]] = []

    def add(name: str, cells: Sequence[tuple[str, str] | None]) -> None:
        if any(cells):
            rows.append({"name": name, "cells": cells})

    policies = [side.policy for side in sides]
    sampled = [None if policy is None else policy["sampled"] for policy in policies]
    baselines = [side.source.evaluation["baseline"] if side.source.evaluation else "" for side in sides]
    add(
        "Win rate against its baseline",
        [
            f
            and f["win_rate"]
            and (percent_of(f["win_rate"]["value"]), f"{label(b)}, {percent_interval(f['win_rate'])}")
            for f, b in zip(sampled, baselines, strict=True)
        ],
    )
    add("Mean score", [f and f["gold"] and (number(f["gold"]["value"]), interval(f["gold"])) for f in sampled])
    kls = [None if policy is None else policy["kl"] for policy in policies]
    add(
        "KL to its reference, nats",
        [kl and (nats(kl["value"]), nats_interval(kl_estimate(kl))) for kl in kls],
    )
    add("Tokens", [f and f["length"] and (number(f["length"]["value"], 1), interval(f["length"], 1)) for f in sampled])
    for metric, name in LAST.items():
        add(name, [_last(side.source.stages, metric) for side in sides])
    for metric, name in COSTS.items():
        amounts = [[a for stage in side.source.stages if (a := stage.last(metric)) is not None] for side in sides]
        total = max if metric in NOT_SUMMED else sum
        add(name, [(cost(total(found), metric), "") if found else None for found in amounts])
    return rows


LAST = {
    "eval_loss": "Loss (held out)",
    "eval_rewards/accuracies": "Accuracy (held out)",
    "eval_accuracy": "Accuracy of the reward model (held out)",
    "eval_rewards/margins": "Margin (held out)",
    "eval_kl": "KL of held-out answers, nats",
    "objective/scores": "Last reward in training",
    "objective/kl": "Last KL in training, nats",
    "rewards/margins": "Last margin in training",
    "loss": "Last loss in training",
}


def _last(stages: Sequence[Stage], metric: str) -> tuple[str, str] | None:
    """A metric of the last stage that logged it, with its interval if that was logged too: held out that of the model
    which the run kept, in training the last one."""
    of = of_kept if metric.startswith("eval_") else Stage.last
    for stage in reversed(stages):
        value = of(stage, metric)
        if value is not None:
            ends = {end: of(stage, f"{metric}_{end}") for end in ("low", "high")}
            if metric.endswith("margins"):  # rounding noise before the first step
                return nats(value, 3), nats_interval(ends, 3) if None not in ends.values() else ""
            return number(value, 3), interval(ends, 3) if None not in ends.values() else ""
    return None


def _differences(sides: Sequence[Side]) -> dict[str, Any]:
    """Options and hashes that differ between the runs, by stage, and the number of those that are equal."""
    single = not any(side.source.is_pipeline for side in sides)
    names = [""] if single else list(dict.fromkeys(stage.name for side in sides for stage in side.source.stages))
    rows, num_same = [], 0
    for name in names:
        stages = [_stage(side, name) for side in sides]
        facts = [{} if stage is None else _facts(stage) for stage in stages]
        for key in dict.fromkeys(key for found in facts for key in found):
            values = [found.get(key) for found in facts]
            if all(value == values[0] for value in values):
                num_same += 1
            else:
                rows.append({"stage": name, "name": key, "cells": values})
    return {"rows": rows, "num_same": num_same, "has_stages": not single}


def _stage(side: Side, name: str) -> Stage | None:
    """The stage with this name; without a name, the only stage of a run."""
    stages = side.source.stages
    return stages[0] if not name else next((stage for stage in stages if stage.name == name), None)


def _facts(stage: Stage) -> dict[str, Any]:
    """What a run depends on: its command, its options, the content that it read, and the code. Paths inside the run's
    parent folder are relative to it, so that two runs of one pipeline file agree."""
    home = Path(stage.written_to).parent
    options = {name: _from(home, value) for name, value in flat(stage.options) if name not in _NOT_COMPARED}
    hashes = {f"hash of {name}": str(value)[:12] for name, value in flat(stage.manifest.get("hashes", {}))}
    versions = {f"version of {name}": value for name, value in stage.manifest.get("versions", {}).items()}
    revision = stage.manifest.get("git_revision")
    return {
        "command": stage.command,
        **options,
        **hashes,
        **versions,
        **({"git revision": str(revision)[:12]} if revision else {}),
    }


def _from(home: Path, value: Any) -> Any:
    if isinstance(value, str) and home.is_absolute() and Path(value).is_relative_to(home):
        return str(Path(value).relative_to(home))
    return value


def _curves(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """For each stage (or for the single runs), charts of the metrics that at least two of the runs logged."""
    single = not any(side.source.is_pipeline for side in sides)
    names = [""] if single else list(dict.fromkeys(stage.name for side in sides for stage in side.source.stages))
    groups = []
    for index, name in enumerate(names):
        stages = [(side.name, _stage(side, name)) for side in sides]
        metrics = {side: stage.metrics for side, stage in stages if stage is not None and stage.metrics}
        charts = _charts(name, index, metrics) if len(metrics) > 1 else []
        if charts:
            groups.append({"name": name, "charts": charts})
    return groups


def _charts(name: str, index: int, metrics: Mapping[str, Mapping[str, Series]]) -> list[Chart]:
    charts: list[Chart] = []
    for n, panel in enumerate(PANELS):
        for metric, kind in panel.metrics.items():
            lines = {side: finite(found[metric]) for side, found in metrics.items() if metric in found}
            lines = {side: line for side, line in lines.items() if len(line.steps) > 1}
            if len(lines) < 2:
                continue
            alone = len(panel.metrics) == 1 or kind.lower() in panel.title.lower()
            title = panel.title if alone else f"{panel.title}, {kind}"
            described = "; ".join(f"{side} from {number(s.values[0])} to {number(s.last)}" for side, s in lines.items())
            svg = line_chart(
                lines,
                identity=f"g{index}p{n}{len(charts)}",
                description=f"{name or 'training'}: {title}. {described}",
                colours=[list(metrics).index(side) for side in lines],
            )
            charts.append(Chart(title=title, unit=panel.unit, last="", labels=tuple(lines), svg=Markup(svg)))
    return charts
