"""Smaller commands: models made and merged, pipelines, reports, data. Those that need torch import it when called."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.commands import DataCheckConfig, DataSplitConfig, MergeConfig, NewModelConfig, ReportConfig
from assent.data.texts import counted
from assent.errors import UsageError
from assent.pipelines.plan import read_plan
from assent.pipelines.runner import PipelineResult, run_pipeline
from assent.pipelines.shares import Jobs
from assent.runs.files import from_json, to_json
from assent.runs.progress import Progress

if TYPE_CHECKING:
    from assent.data.loading import Dataset

SOURCES_SHOWN = 20
"""Refused rows that are named for each reason; all of them are counted."""


def new_model(config: NewModelConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Makes a small model and its tokenizer from text files."""
    from assent.models.new_model import new_model as write

    summary = write(config.output_dir, **config.model_dump(exclude={"output_dir"}))
    return {
        "output_dir": str(summary.path),
        "model_path": str(summary.path),
        "parameters": summary.parameters,
        "vocab_size": summary.vocab_size,
        "characters": summary.characters,
    }


def merge(config: MergeConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Merges an adapter into its base model."""
    from assent.models.loading import merge_folder

    return {"output_dir": config.output_dir, **merge_folder(config.adapter, config.output_dir, dtype=config.dtype)}


def run_file(path: str | Path, *, progress: Progress | None = None, jobs: Jobs = 1, **options: Any) -> PipelineResult:
    """Runs a pipeline file and reports on it. `options` are those of `read_plan`."""
    return run_pipeline(read_plan(path, **options), report=report_on, progress=progress, jobs=jobs)


def run_shipped(name: str, *, progress: Progress | None = None, **options: Any) -> PipelineResult:
    """Runs a pipeline file of this folder, such as `demo.yaml`."""
    with as_file(files("assent.commands") / name) as path:
        return run_file(path, progress=progress, **options)


def report_on(folder: str | Path) -> Path:
    """Writes report.html into the folder of a run or pipeline, updates its model cards, and returns the page's path."""
    return Path(write_report(ReportConfig(runs=(str(folder),)))["report"])


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Writes the page. Outputs: `report` (path), `model_cards` (paths of the cards that were updated)."""
    from assent.reporting.comparison import write_comparison
    from assent.reporting.live import follow
    from assent.reporting.model_cards import update_cards
    from assent.reporting.page import write_report as write

    if len(config.runs) > 1:
        path = write_comparison(config.runs, config.output or "comparison.html")
    elif config.live:
        path = follow(config.runs[0], config.output, seconds=config.refresh_seconds)
    else:
        path = write(config.runs[0], config.output)
    cards = [card for run in config.runs for card in update_cards(run)]
    return {"report": str(path), "model_cards": [str(card) for card in dict.fromkeys(cards)]}


def check_data(config: DataCheckConfig) -> tuple[dict[str, Any], list[str]]:
    """The audit of a file and what the doctor's rules of data find: as a JSON-able document, and as lines of text.

    The document has `text`, `tokens` (whose findings are sentences), `findings` and `not_checked`.
    """
    from assent.commands.doctor import absent, apply_to_data
    from assent.data.named import load_named
    from assent.diagnosis.case import Case
    from assent.diagnosis.data_rules import data_rules
    from assent.diagnosis.doctor_text import lines_of_findings
    from assent.diagnosis.examine import examine
    from assent.diagnosis.rows import Rows

    target = None if config.apply is None else absent(Path(config.apply))
    dataset = load_named(config, "file", layout=config.layout, lenient=True)
    second = None if config.against is None else load_named(config, "against", lenient=True)
    rows = Rows(dataset, against=second)
    document: dict[str, Any] = {"text": rows.audit.as_dict()}
    lines = rows.audit.lines()
    if config.model is not None:
        tokens = document["tokens"] = _token_audit(config, config.model, dataset)
        lines += ["", f"with the tokenizer of {config.model}:", *tokens.pop("lines", [])]
        lines += [f"  finding: {finding}" for finding in tokens["findings"]]
    report = examine(Case(data=rows, source="data"), data_rules())
    document |= report.as_dict()
    above = len(document["tokens"]["findings"]) if "tokens" in document else 0
    lines += lines_of_findings(report, accepted={}, above=above)
    refused = dataset.refused_by_reason()
    document["refused"] = {reason: sources[:SOURCES_SHOWN] for reason, sources in refused.items()}
    if refused:
        lines += ["", "Refused rows:", *_lines_of_refused(refused)]
    if target is not None:
        lines += ["", *apply_to_data(target, report, document)]
    return from_json(to_json(document)), lines


def split_data(config: DataSplitConfig) -> dict[str, Any]:
    """Writes NAME.train.jsonl and NAME.eval.jsonl, gzipped if the file is; returns their paths and numbers of rows.

    Rows that cannot be used are in neither file: `refused` counts them, `refused_rows` lists them by reason. Raises
    UsageError if one of the files exists. After an error neither is left.
    """
    from assent.data.loading import write_groups
    from assent.data.named import load_named
    from assent.data.splitting import split_by_conversation_root

    dataset = load_named(config, "file", layout=config.layout, lenient=True)
    shares = {"train": 1 - config.fraction, "eval": config.fraction}
    parts = split_by_conversation_root(dataset, fractions=shares, seed=config.seed)
    source = Path(config.file)
    folder = Path(config.output_dir) if config.output_dir is not None else source.parent if source.exists() else Path()
    suffix = ".jsonl.gz" if source.suffix == ".gz" else ".jsonl"
    name = source.name.removesuffix(".gz").rsplit(".", 1)[0] if source.is_file() else source.name
    paths = {part: folder / f"{name}.{part}{suffix}" for part in parts}
    for path in paths.values():
        if path.exists():
            raise UsageError(f"{path} exists already", fix="delete it, or give another --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for part, path in paths.items():
            write_groups(path, parts[part], dataset.layout)
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    rows = {part: len(groups) for part, groups in parts.items()}
    return {
        **{part: str(path) for part, path in paths.items()},
        "rows": rows,
        "notes": dataset.notes,
        "refused": len(dataset.refused),
        "refused_rows": dataset.refused_by_reason(),
    }


def lines_of_split(result: Mapping[str, Any]) -> list[str]:
    """What `split_data` wrote, and which rows are in neither file, with the reasons."""
    notes = [textwrap.wrap(note, 80, subsequent_indent="  ", break_on_hyphens=False) for note in result["notes"]]
    lines = [line for note in notes for line in note]
    lines += [f"{result['rows'][part]:,} rows -> {result[part]}" for part in ("train", "eval")]
    if result["refused"]:
        lines.append(f"refused, in neither file: {counted(result['refused'], 'row')}")
    return lines + _lines_of_refused(result["refused_rows"])


def _lines_of_refused(refused: Mapping[str, Sequence[str]]) -> list[str]:
    """For each reason the number of rows, and which they are."""
    from assent.diagnosis.rows import place

    lines = []
    for reason, sources in refused.items():
        named = ", ".join(map(place, sources[:SOURCES_SHOWN]))
        more = " …" if len(sources) > SOURCES_SHOWN else ""
        lines += textwrap.wrap(
            f"{reason}, {counted(len(sources), 'row')}: {named}{more}",
            80,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    return lines


def split_stage(config: DataSplitConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """`split_data` as a stage of a pipeline, in whose folder it writes its files anew. Outputs: `train`, `eval`."""
    assert config.output_dir is not None
    for path in Path(config.output_dir).glob("*.jsonl*"):
        path.unlink()
    result = split_data(config)
    if progress is not None and (result["refused"] or result["notes"]):
        for line in lines_of_split(result):
            progress.line(line)
    return result


def _token_audit(config: DataCheckConfig, model: str, dataset: Dataset) -> dict[str, Any]:
    from assent.models.folders import check_revision
    from assent.models.loading import load_tokenizer
    from assent.models.templates import resolve_template
    from assent.models.token_audit import token_audit

    check_revision(config.revision, model)
    tokenizer = load_tokenizer(model, revision=config.revision)
    template = resolve_template(
        tokenizer,
        chat_template=config.chat_template,
        system=config.system,
        prompt_format=config.prompt_format,
        chat_template_kwargs=config.chat_template_kwargs,
        keep_template_tail=config.keep_template_tail,
    )
    return token_audit(dataset, tokenizer, template, config.max_length)
