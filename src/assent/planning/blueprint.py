"""The document that goes with a pipeline in a regulated setting: stages, data, gates, audit, sign-off, rollback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assent.planning.facts import Facts, Source, shown
from assent.planning.stages import PlannedStage, Wanted

AUDIT = (
    ("pipeline.json", "every stage: options, content of its inputs, start, end, result, and the fault that stopped it"),
    (
        "STAGE/run.json",
        "of training: resolved options, versions, seed, hashes of data, tokenizer, model; parent runs",
    ),
    ("STAGE/metrics.jsonl", "every step; the reference's fingerprint at the start and at the end"),
    ("STAGE/samples.jsonl, evaluation.json", "answers that were judged, with their scores and intervals"),
    (
        "GATE/gate.json",
        "each limit, the figure and its interval, and the signature; written only if all are kept",
    ),
    ("report.html", "all of it on one page; written also when a gate stops the pipeline, with the reason"),
)


def blueprint_text(
    stages: Sequence[PlannedStage],
    *,
    wanted: Wanted,
    facts: Facts,
    limits: Mapping[str, Any],
    licences: Mapping[str, str],
    owner: str,
    file: str,
    before: str,
) -> str:
    """The document as Markdown. `before`: the content hash of the model that is replaced."""
    choice = wanted.choice
    parts = [
        f"# Blueprint: {choice.title}",
        f"Responsible for the release: {owner}. The pipeline is `{Path(file).name}`; `assent run {file}` executes it. "
        "Change limits in the file's `variables`; nothing else has to change.",
        "## Why this method",
        _list(f"{reason.text} [{reason.source}]" for reason in choice.reasons),
        "It would change to:" if choice.changes else "No fact is near that would change it.",
        _list(choice.changes),
        "## Data",
        _table(("file", "kind", "rows", "licence", "SHA-256"), _data_rows(wanted.sources, licences)),
        f"Agreement of the labels: {shown(facts, 'agreement')}; raters: {facts.raters}; better answer longer: "
        f"{shown(facts, 'longer_wins')}. `assent data check FILE` lists what else is in each file.",
        "## Stages",
        _table(("stage", "command", "why"), [(s.name, s.command, s.why) for s in stages]),
        "The reference is the model as training starts. It is frozen: its fingerprint is logged at the start and at "
        "the end of training, and a run whose reference moved is stopped.",
        "## Gates",
        "A gate stops the pipeline with exit status 1, and nothing after it runs. A limit is kept only if the whole "
        "95% interval keeps it; what was not measured keeps none.",
        _table(("gate", "limit", "value"), _gate_rows(stages, limits)),
        "Before the release, put red-team prompts among the held-out prompts, each with the column that says what it "
        "tries, so that faults are counted on the prompts where they can happen.",
        "## Audit",
        _table(("file", "holds"), AUDIT),
        "## Sign-off",
        f"`{wanted.sign_off}` must hold three lines: `signed_by:`, `date:` and `model:`, the content hash of the "
        f"released model, which the closed gate prints. It is written by {owner} after reading the report. A signature "
        "for another model does not open the gate.",
        "## Rollback",
        f"The model that is replaced stays where it is: `{wanted.model}`, content hash `{before}`. Nothing in the "
        "pipeline writes into it. To roll back, serve that folder again; `assent serve-check` confirms what is served. "
        "Roll back when a limit of a gate is broken by what the deployed model does.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data_rows(sources: Sequence[Source], licences: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [(s.name, s.kind, f"{s.count:,}", licences[s.path], s.rows.dataset.sha256[:16]) for s in sources]


def _gate_rows(stages: Sequence[PlannedStage], limits: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        if stage.command != "gate":
            continue
        for name in ("min_held_out", "max_kl_nats", "min_win_rate", "max_safety"):
            for what, value in _limits_of(name, stage.options.get(name)):
                variable = str(value).removeprefix("${").removesuffix("}")
                rows.append((stage.name, what, str(limits.get(variable, value))))
        if "sign_off" in stage.options:
            rows.append((stage.name, "signature", str(stage.options["sign_off"])))
    return rows


def _limits_of(name: str, value: Any) -> list[tuple[str, Any]]:
    if value is None:
        return []
    verb = {"min": "at least", "max": "at most"}[name[:3]]
    what = {"max_kl_nats": "KL to the reference, nats", "min_win_rate": "win rate"}.get(name, "")
    listed = value.items() if isinstance(value, Mapping) else [(what, value)]
    return [(f"{key}, {verb}", limit) for key, limit in listed]


def _list(items: Any) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)
