"""assent plan --update: what a deployed model's logs are good for, and the file that updates it.

Torch is imported only to compare logged log-probabilities with the model's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from assent.commands.logged_data import NO_SLICE, prompts_of_baseline
from assent.commands.monitor import monitor
from assent.commands.monitor_models import read_back
from assent.config.monitor import MonitorConfig
from assent.config.plan import PlanConfig
from assent.config.update import LoggedDataConfig
from assent.errors import UsageError
from assent.evaluation.pairs import MAX_SLICES
from assent.models.folder_contents import has_chat_template, read_json
from assent.models.folders import resolve_folder
from assent.planning.facts import shown
from assent.planning.logged import Logged, pairs_of, read_logged
from assent.planning.plan_text import wrapped
from assent.planning.update import (
    LEAST_PAIRS,
    LogFacts,
    Verdict,
    Way,
    answers_to_train_on,
    facts_of,
    moves_of,
    since_of,
    verdicts_of,
    way_of,
)
from assent.planning.update_stages import SLICE_PROMPTS, WantedUpdate, update_stages, update_text
from assent.runs.files import from_json, to_json, write_text
from assent.runs.reading import read_manifest
from assent.types import PromptGroup

UP_ABOVE = 0.5
RESULTS = "out"
"""Folder of the folders of files' results."""
LONGEST = 1024
"""Longest sequence of the file's stages, in tokens, where the model reads as much."""


def plan_update(config: PlanConfig) -> tuple[dict[str, Any], list[str], list[str]]:
    """The document, the same as lines of text, and those with what the monitor found.

    Raises RunFolderError for a run that is not finished, DataError for logs or a baseline without usable rows.
    """
    assert config.logs is not None
    assert config.run is not None
    if config.output is not None and Path(config.output).exists():
        raise UsageError(f"{config.output} exists already", fix="delete it, or give another --output")
    if config.output is not None and (folder := Path(RESULTS, Path(config.output).stem)).exists():
        raise UsageError(
            f"{folder}, the folder of that file's results, exists already: it may hold what is released now",
            fix="give another --output name",
        )
    model = config.model or _model_of(config.run)
    baseline = config.baseline or config.run
    logged = read_logged(config.logs, config.columns)
    watching = _watching(config, logged, model, baseline)
    watched, told, _ = monitor(watching)
    moves = moves_of(watched)
    since = since_of(watched, moves)
    up_above = UP_ABOVE if config.up_above is None else config.up_above
    recent = logged.since(since)
    is_compared = watched["policy"] is not None or baseline == config.run  # a run's samples are the trainer's
    answers = answers_to_train_on(recent.rated)
    read = None if watching.policy is None else read_back(answers, model, max_length=watching.max_length)
    facts = facts_of(recent, moves, since=since, up_above=up_above, is_compared=is_compared, read_back=read)
    verdicts = verdicts_of(facts)
    way = way_of(verdicts)
    lines = [*_facts(facts), *_not_used(recent), *_verdicts(verdicts), *_way(way, model, facts)]
    document: dict[str, Any] = {
        "facts": facts.as_dict(), "verdicts": [one.as_dict() for one in verdicts], "way": way.as_dict(),
        "model": model, "causes": watched["causes"], "stages": [], "pipeline": config.output,
        "not_used": dict(recent.refused),
    }  # fmt: skip
    if config.output is not None:
        rows = len(pairs_of(recent.rated, every=way.weighted)) if way.kind == "pairs" else facts.rated
        wanted = _wanted(config, model, baseline, way, since=since, up_above=up_above, rows=rows, logged=logged)
        stages = update_stages(wanted)
        name = Path(config.output).stem
        text = update_text(stages, name=name, wanted=wanted, verdicts=verdicts, output_dir=f"{RESULTS}/{name}")
        write_text(Path(config.output), text, what="the pipeline file")
        document["stages"] = [{"name": s.name, "command": s.command, "options": dict(s.options)} for s in stages]
        if config.reward is not None and way.kind != "prompts":
            lines += ["", *wrapped(f"{config.reward} is not used: nothing new is rated", "", "  ")]
        lines += ["", f"pipeline: assent update {config.output}"]
    return from_json(to_json(document)), lines, [*lines, "", "What the monitor says", *(f"  {one}" for one in told)]


def _model_of(run: str) -> str:
    """The folder of the model that a run trained."""
    manifest = read_manifest(run)
    if manifest["status"] != "finished":
        raise UsageError(f"{run} is not finished", got=manifest["status"], fix="give the run of the released model")
    return str(Path(run) / "model")


def _watching(config: PlanConfig, logged: Logged, model: str, baseline: str) -> MonitorConfig:
    """Log-probabilities that may be the reference's are compared with those that the model's folder computes."""
    assert config.logs is not None
    answers = answers_to_train_on(logged.rated)
    given: dict[str, Any] = {"baseline": baseline, "logs": config.logs, "columns": config.columns}
    if len(pairs_of(logged.rated)) >= LEAST_PAIRS and all(one.logprob is not None for one in answers):
        given |= {"policy": model, "max_length": _length(model)}
    return MonitorConfig(**given)


def _wanted(
    config: PlanConfig, model: str, baseline: str, way: Way, *, since: str | None, up_above: float, rows: int,
    logged: Logged,
) -> WantedUpdate:  # fmt: skip
    assert config.logs is not None
    assert config.judge is not None
    assert config.output is not None
    return WantedUpdate(
        model=model,
        logs=config.logs,
        baseline=baseline,
        columns=config.columns,
        way=way,
        since=since,
        up_above=up_above,
        as_text=not has_chat_template(resolve_folder(model, weights=False)),
        length=_length(model),
        judge=config.judge,
        safety=config.safety,
        max_fault=config.max_fault,
        reward=config.reward,
        rows=rows,
        labels=str(Path(config.output).with_suffix(".labels.jsonl")),
        slices=_slices(prompts_of_baseline(baseline, config.columns).values(), logged),
    )


def _slices(before: Collection[PromptGroup], logged: Logged) -> list[str]:
    """The release's slices of which enough prompts are compared on. None where an evaluation takes no more slices."""
    named = {group.columns.get("slice", NO_SLICE) for group in (*before, *logged.prompts.values())}
    if len(named) > MAX_SLICES:
        return []
    share = min(1.0, LoggedDataConfig.model_fields["eval_prompts"].default / len(before))
    found = Counter(group.columns["slice"] for group in before if "slice" in group.columns)
    return [name for name, count in sorted(found.items()) if count * share >= SLICE_PROMPTS]


def _length(model: str) -> int:
    known = read_json(resolve_folder(model, weights=False), "config.json")
    return min(LONGEST, int(known.get("max_position_embeddings") or known.get("n_positions") or LONGEST))


def _facts(facts: LogFacts) -> list[str]:
    values: Mapping[str, Any] = facts.as_dict()
    return ["What the logs hold, and what has moved since the release",
            *(f"  {name.replace('_', ' '):<18}{shown(values, name)}" for name in values)]  # fmt: skip


def _not_used(logged: Logged) -> list[str]:
    return [part for line in logged.not_used() for part in wrapped(line, "  ", "    ")]


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    lines = ["", "What they are good for"]
    for one in verdicts:
        lines += ["", f"  {one.verdict}: {one.title}", *wrapped(one.reason, "    because ", "      ")]
        lines += wrapped(f"[{one.source}]", "    ", "    ")
    return lines


def _way(way: Way, model: str, facts: LogFacts) -> list[str]:
    lines = ["", *wrapped(f"The update: {way.title}", "", "  ")]
    lines += wrapped(f"reference: {way.reference}", "  ", "    ")
    if way.kind != "prompts":
        weights = "one over the probability of a rating" if way.weighted else "all ratings count the same"
        lines += wrapped(f"weights: {weights}", "  ", "    ")
    if facts.since not in ("all", "unknown") and way.kind != "prompts":
        lines.append(f"  ratings from {facts.since} on: taste has moved")
    return [*lines, f"  replaces: {model}"]
