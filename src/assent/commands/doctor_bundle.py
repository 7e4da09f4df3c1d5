"""A zip for whoever is asked for help: options, versions, metrics, findings; no prompt, no answer, no folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from assent.diagnosis.doctor_text import lines_of
from assent.diagnosis.examine import Report
from assent.runs.files import bytes_of, from_json, storage_errors, to_json

KEPT = ("format", "command", "status", "started", "finished", "versions", "git_revision", "hashes", "stopped")
"""Of run.json; its notes may quote rows."""


def write_bundle(path: Path, target: str, report: Report, about: Mapping[str, Any]) -> list[str]:
    """Writes the zip, and says what is in it."""
    files = {
        "doctor.json": to_json({**about, **report.as_dict()}, indent=2),
        "doctor.txt": "\n".join(lines_of(report, name=_last_part(target), accepted={})),
        "metrics.jsonl": "".join(to_json(row) + "\n" for row in _rows(report)),
        "options.json": to_json(_without_places(report.case.config), indent=2),
    }
    manifest = Path(target) / "run.json"
    if manifest.is_file():
        run = from_json(bytes_of(manifest))
        files["run.json"] = to_json({name: run[name] for name in KEPT if name in run}, indent=2)
    with storage_errors(path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in files.items():
            bundle.writestr(name, text)
    return [f"{path}: {', '.join(files)}; no prompt and no answer is in it"]


def _rows(report: Report) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for name, series in report.case.series.items():
        for step, value in zip(series.steps, series.values, strict=True):
            rows.setdefault(step, {"step": step})[name] = value
    return [rows[step] for step in sorted(rows)]


def _without_places(value: Any) -> Any:
    """Texts that are paths become their last part."""
    if isinstance(value, Mapping):
        return {name: _without_places(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(part) for part in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    return PurePath(text).name if "/" in text and "://" not in text else text
