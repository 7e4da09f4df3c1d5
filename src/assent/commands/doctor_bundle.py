"""A zip for whoever is asked for help: options, versions, metrics, findings; no prompt, no answer, no folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from assent.diagnosis.doctor_text import lines_of
from assent.diagnosis.examine import Report
from assent.errors import StorageError, UsageError
from assent.runs.files import bytes_of, from_json, replacing, to_json

KEPT = ("format", "command", "status", "started", "finished", "versions", "git_revision", "hashes", "stopped")
"""Of run.json; its notes may quote rows."""
WORDS = 4
"""Words from which an option is a text, such as a system prompt."""


def check_place(path: Path) -> None:
    """Raises UsageError where the zip cannot be written, or would take a file's place: before anything is read."""
    if path.exists():
        raise UsageError(f"{path} exists already", fix="delete it, or give another --bundle")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for --bundle", fix="make it, or name another file")


def write_bundle(path: Path, target: str, report: Report, about: Mapping[str, Any]) -> list[str]:
    """Writes the zip, and says what is in it. Raises StorageError where the disk does not take it."""
    report, about = _without_texts(report, about)
    files = {
        "doctor.json": to_json({**about, **report.as_dict()}, indent=2),
        "doctor.txt": "\n".join(lines_of(report, name=_last_part(target), accepted={})),
        "metrics.jsonl": "".join(to_json(row) + "\n" for row in _rows(report)),
        "options.json": to_json(_option(report.case.config), indent=2),
    }
    manifest = Path(target) / "run.json"
    if manifest.is_file():
        run = from_json(bytes_of(manifest))
        files["run.json"] = to_json({name: run[name] for name in KEPT if name in run}, indent=2)
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in files.items():
                bundle.writestr(name, text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written", got=error) from error
    return [f"{path}: {', '.join(files)}; no prompt and no answer is in it"]


def _rows(report: Report) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for name, series in report.case.series.items():
        for step, value in zip(series.steps, series.values, strict=True):
            rows.setdefault(step, {"step": step})[name] = value
    return [rows[step] for step in sorted(rows)]


def _without_texts(report: Report, about: Mapping[str, Any]) -> tuple[Report, dict[str, Any]]:
    """The report and what it is about, without what a model answered, without prompts and folders."""
    quotes = getattr(report.case.models, "quotes", ())  # of a policy that was probed

    def told(text: str) -> str:
        for quote in quotes:
            text = text.replace(quote, "(left out)")
        return text

    reading = tuple(map(_line, report.case.reading))
    measured = {name: value for name, value in about.get("measured", {}).items() if name != "answers"}
    left = replace(
        report,
        case=replace(report.case, reading=reading),
        findings=tuple(replace(one, verdict=told(one.verdict)) for one in report.findings),
        not_checked=tuple((rule, _line(reason)) for rule, reason in report.not_checked),
    )
    return left, {**about, "reading": list(reading), **({"measured": measured} if "measured" in about else {})}


def _line(text: str) -> str:
    """Without folders: a metric's name has slashes too, and stays."""
    return " ".join(_last_part(word) if word.startswith(("/", "~", "./", "../")) else word for word in text.split())


def _option(value: Any) -> Any:
    """Of paths the last part, of addresses the beginning, of texts their length."""
    if isinstance(value, Mapping):
        return {_option(name): _option(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_option(part) for part in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return f"{value.partition('://')[0]}://..."
    return f"({len(value)} characters)" if len(value.split()) >= WORDS else _last_part(value)


def _last_part(text: str) -> str:
    return PurePath(text).name if "/" in text else text
