"""`collect`, a stage of a loop: preferences from files and from people's store as one file, once all are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from assent.commands.label import check_packages
from assent.config.iterate import CollectConfig
from assent.data.loading import load_groups, write_groups
from assent.data.texts import counted
from assent.errors import DataError, DataFileNotFoundError, WaitingError
from assent.runs.progress import Progress, Silent


def collect(config: CollectConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `labels` (file), `output_dir`, `number` (rows).

    Raises WaitingError while a file or a review is missing, and DataError for a file without preferences.
    """
    missing = [path for path in config.files if not Path(path).exists()]
    if missing:
        raise WaitingError(
            f"labels are not there yet: {', '.join(missing)}",
            fix=(f"have {config.completions} labelled, " if config.completions else "")
            + "put the labels there, and repeat the command",
        )
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    say = (progress or Silent()).line
    files = list(config.files)
    if config.store is not None:
        files.append(_export_from_store(config, folder, say))
    found = []
    layouts = set()
    for path in files:
        dataset = load_groups(path)
        for note in dataset.lines():
            say(f"{path}: {note}")
        groups = list(dataset)
        if any(group.preference is None or group.preference.ranking is None for group in groups):
            raise DataError(f"{path} has rows without a preference", expected="comparisons or rankings")
        layouts.add("comparisons" if dataset.layout == "comparisons" else "rankings")
        found += groups
    labels = folder / "labels.jsonl"
    write_groups(labels, found, "comparisons" if layouts == {"comparisons"} else "rankings")
    return {"output_dir": str(folder), "labels": str(labels), "number": len(found)}


def _export_from_store(config: CollectConfig, folder: Path, say: Callable[[str], object]) -> str:
    """The file to which people's labels of the completions were exported.

    Raises WaitingError while the store holds none, or a review of them is not done.
    """
    assert config.store is not None
    assert config.completions is not None
    check_packages("collect with a store")
    from assent.feedback.store import exporting
    from assent.feedback.store.database import open_database
    from assent.feedback.store.items import items_of
    from assent.feedback.store.reading import reviews_left, skipped

    groups = list(load_groups(config.completions, is_to_be_judged=True))
    how = f"label them, and repeat the command: assent label --completions {config.completions} --store"
    try:
        database = open_database(config.store, create=False)
    except DataFileNotFoundError as error:
        raise WaitingError(f"labels are not there yet: {error.what}", fix=f"{how} {config.store}") from None
    with database:
        with database.reading() as connection:
            numbers = items_of(connection, groups)
            left, without_takers = reviews_left(connection, sorted(numbers)), skipped(connection, sorted(numbers))
        if left:
            what = f"labels are not there yet: {counted(left, 'review')} to do in {database.name}"
            fix = f"{how} {database.name}"
            if without_takers:  # who skipped an item does not get it again
                were, them = ("was", "it") if without_takers == 1 else ("were", "them")
                fix += (
                    f". {counted(without_takers, 'item')} {were} skipped by somebody, who does not get {them} again: "
                    "ask another person (--invite NAME), or give collect the other labels as a file (--export)"
                )
            raise WaitingError(what, fix=fix)
        found = exporting.select(database, only=numbers)
        if not found.rows:
            what = f"labels are not there yet: {database.name} has none of {config.completions}"
            raise WaitingError(what, fix=f"{how} {database.name}")
        file = str(folder / "from-store.jsonl")
        layout = exporting.choose_layout(found.rows)
        exporting.write_export(database, file, found, layout)
        for line in exporting.lines_of(found, file, layout):
            say(line)
    return file
