"""Finds what a name means: a file, a folder of files, a folder that `datasets` saved, or a dataset on the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.data import texts
from assent.data.given import find
from assent.data.readers import SUFFIXES, check_regular, file_suffix
from assent.errors import DataError, DataFileNotFoundError, UsageError

if TYPE_CHECKING:
    import datasets

HUB_TIMEOUT_SECONDS = 10
CHOSEN = "split "
"""How the note begins that says which split is read."""
NEEDS_SUBSET = re.compile(r"Config name is missing|BuilderConfig .* not found")
"""What `datasets` says of a dataset with several configurations, of which none or an unknown one is named."""

SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test",
               "evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation",
               "dev": "validation"}  # fmt: skip
"""Words in file and folder names that name a split (the rule of `datasets`)."""


@dataclass(frozen=True)
class Source:
    """Files, to be read one after the other, or a table of `datasets`, or what a Python caller holds in memory."""

    name: str
    files: list[Path] = field(default_factory=list)
    table: datasets.Dataset | None = None
    rows: Sequence[Any] | None = None
    """Rows, or groups, of a Python caller."""
    notes: list[str] = field(default_factory=list)
    """What to say of the choice: the split that was read because none was named."""


def open_source(name: str, *, split: str | None, revision: str | None) -> Source:
    if not name.strip():
        raise UsageError("the name of the data is empty", got=repr(name), expected="a file, a folder, or a hub name")
    if (held := find(name)) is not None:
        return _of_memory(held, name, split=split, revision=revision)
    path = Path(name).expanduser()
    if not _exists(path):
        repository, _, subset = name.partition(":")
        if looks_like_file(repository) or not (subset or repository == name):
            raise missing_file(path)
        return _open_hub(repository, subset or None, split=split, revision=revision)
    if revision is not None:
        raise UsageError(f"{name} is a local path: `revision` applies to hub datasets only", got=f"revision {revision}")
    if path.is_dir():
        return _open_folder(path, split)
    check_regular(path)
    if split is not None:
        raise UsageError(f"{name} is one file: `split` applies to folders and hub datasets only", got=f"split {split}")
    if file_suffix(path) is None:
        raise DataError(
            f"{name} has an unknown format",
            got=path.suffix or "no suffix",
            expected=", ".join(SUFFIXES) + ", each also with .gz",
            fix="rename or convert the file",
        )
    return Source(name, [path])


def _of_memory(held: Any, name: str, *, split: str | None, revision: str | None) -> Source:
    if revision is not None:
        raise UsageError("`revision` applies to hub datasets only", got=f"revision {revision}")
    if not isinstance(held, Sequence):
        return _from_loaded(held, name, split)
    if split is not None:
        raise UsageError(f"{name} has no splits", got=f"split {split}")
    return Source(name, rows=held)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any path can be
        return False


def looks_like_file(name: str) -> bool:
    """True for a name that cannot be `owner/name` or `name` on the hub."""
    is_hub_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) is not None
    return not is_hub_name or file_suffix(Path(name)) is not None or name.endswith((".gz", ".txt", ".tsv", ".arrow"))


def missing_file(path: Path) -> DataFileNotFoundError:
    folder = path.parent
    close = None
    if folder.is_dir():
        close = texts.nearest(path.name, (item.name for item in folder.iterdir()))
    return DataFileNotFoundError(
        f"there is no file {path}",
        expected="a file (" + ", ".join(SUFFIXES) + ", each also with .gz), a folder, or a hub name owner/name",
        fix=f"did you mean {folder / close}?" if close else None if folder.is_dir() else f"there is no folder {folder}",
    )


def _choose_split(found: list[str], split: str | None, name: str) -> tuple[str, list[str]]:
    """The split to read, and what to say of it. Without a name: `train`, or the only one."""
    if split is None and (len(found) == 1 or "train" in found):
        chosen = "train" if "train" in found else found[0]
        others = [other for other in found if other != chosen]
        return chosen, [f"{CHOSEN}{chosen} is read; others: {', '.join(others)}"] if others else []
    if split in found:
        return split, []
    close = texts.nearest(split, found) if split is not None else None
    what = f"{name} has no split {split!r}" if split is not None else f"{name} has several splits, none named `train`"
    fix = f"did you mean {close}?" if close else "name one of them: --split, or --eval-split for held-out data"
    raise DataError(what, got=split, expected=", ".join(found), fix=fix)


def _open_folder(path: Path, split: str | None) -> Source:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        import datasets

        _check_saved(path)
        try:
            loaded: Any = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} is not a readable folder of `datasets`: {error}") from None
        return _from_loaded(loaded, str(path), split)
    files = sorted(
        item for item in path.rglob("*") if not item.is_dir() and file_suffix(item) and not _is_hidden(item, path)
    )
    for file in files:
        if not file.exists():
            raise DataError(f"{file} is a link to a file that is not there", fix="remove the link, or mend it")
        check_regular(file)
    if not files:
        raise DataError(
            f"the folder {path} has no data files",
            got=", ".join(sorted(item.name for item in path.iterdir())[:8]) or "an empty folder",
            expected="data files (" + ", ".join(SUFFIXES) + "), or a folder that `datasets` saved with save_to_disk",
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(path)), []).append(file)
    chosen, notes = _choose_split(list(by_split), split, str(path))
    return Source(f"{path}[{chosen}]" if len(by_split) > 1 else str(path), by_split[chosen], notes=notes)


def _check_saved(path: Path) -> None:
    """A folder that `datasets` saved holds ordinary files, and names none outside itself. Raises DataError."""
    for item in path.rglob("*"):
        check_regular(item)
        if item.name != "state.json" or not item.is_file():
            continue
        try:
            named = [str(file["filename"]) for file in json.loads(item.read_text(encoding="utf-8"))["_data_files"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{item} does not name the files of the data: {type(error).__name__}") from None
        for name in named:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"{item} names a file outside its folder", got=name, expected="a file beside it")


def _is_hidden(item: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in item.relative_to(root).parts)


def _split_of(file: Path) -> str:
    words = re.split(r"[^a-z]+", str(file).lower())
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "train")


def _from_loaded(loaded: Any, name: str, split: str | None) -> Source:
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        chosen, notes = _choose_split(list(loaded), split, name)
        return Source(f"{name}[{chosen}]" if len(loaded) > 1 else name, table=loaded[chosen], notes=notes)
    if split is not None:
        raise UsageError(f"{name} has no splits", got=f"split {split}")
    return Source(name, table=loaded)


def _open_hub(name: str, subset: str | None, *, split: str | None, revision: str | None) -> Source:
    """`subset`: one of several configurations of the dataset, as GSM8K has `main` and `socratic`."""
    import datasets

    offline = _unreachable(name, revision)
    try:
        with _offline(offline is not None):  # offline, only the cache is used, without minutes of retries
            loaded = datasets.load_dataset(name, subset, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if offline is not None:
            raise DataError(
                f"there is no file or folder {name!r} here, and the hub cannot be reached to look for it",
                got=offline,
                expected="a file, a folder, or a hub name (with a network, or in the cache of `datasets`)",
                fix="check the path; without a network, download the dataset on another machine and give its folder",
            ) from None
        fix = f"name one of its subsets: {name}:SUBSET" if NEEDS_SUBSET.search(str(error)) else None
        raise DataError(f"the hub dataset {name!r} cannot be loaded: {error}", fix=fix) from None
    return _from_loaded(loaded, name if subset is None else f"{name}:{subset}", split)


def _unreachable(name: str, revision: str | None) -> str | None:
    """Asks the hub once: None if it answered, the reason if it is out of reach. Raises DataError if it refused."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/datasets/{name}"
    try:
        huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except GatedRepoError:
        raise DataError(
            f"the hub dataset {name!r} is gated", fix=f"ask for access at {page}, then run: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise DataError(
            f"there is no file or folder {name!r} here, and no such dataset on the hub",
            fix=f"check the name at {page}; for a private dataset run: hf auth login",
        ) from None
    except RevisionNotFoundError:
        raise DataError(f"the hub dataset {name!r} has no revision {revision!r}", fix=f"see {page}") from None
    except Exception as error:  # the network errors' classes change with the library's version
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    """`HF_HUB_OFFLINE=1` for one call: both libraries read it from the environment at import only."""
    import datasets.config
    import huggingface_hub.constants

    before = (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    if on:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
