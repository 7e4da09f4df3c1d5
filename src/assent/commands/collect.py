"""`collect`, a stage of a loop: preferences from several files as one, once all of them are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assent.config.iterate import CollectConfig
from assent.data.loading import load_groups, write_groups
from assent.errors import DataError, WaitingError
from assent.runs.progress import Progress, Silent


def collect(config: CollectConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `labels` (file), `output_dir`, `number` (rows).

    Raises WaitingError while a file is missing, and DataError for a file without preferences.
    """
    missing = [path for path in config.files if not Path(path).exists()]
    if missing:
        raise WaitingError(
            f"labels are not there yet: {', '.join(missing)}",
            fix=(f"have {config.completions} labelled, " if config.completions else "")
            + "put the labels there, and repeat the command",
        )
    found = []
    layouts = set()
    for path in config.files:
        dataset = load_groups(path)
        for note in dataset.lines():
            (progress or Silent()).line(f"{path}: {note}")
        groups = list(dataset)
        if any(group.preference is None or group.preference.ranking is None for group in groups):
            raise DataError(f"{path} has rows without a preference", expected="comparisons or rankings")
        layouts.add("comparisons" if dataset.layout == "comparisons" else "rankings")
        found += groups
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.jsonl"
    write_groups(labels, found, "comparisons" if layouts == {"comparisons"} else "rankings")
    return {"output_dir": str(folder), "labels": str(labels), "number": len(found)}
