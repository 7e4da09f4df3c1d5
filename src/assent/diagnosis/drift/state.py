"""The monitor's state as one file: arrays and a JSON text in numpy's archive, without pickle, written whole or not.

It holds counts, hashes, and the frequent words of the baseline, but no prompt and no answer, except requests that still
wait for their answer (vLLM's log, batches).

It is no safetensors file: `safetensors.numpy` wrote wrong values for strided arrays, such as a slice of a table.
numpy's archive writes any array as it is; only objects would be pickled, and they are refused.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from assent.diagnosis.drift.baseline import Chosen, Prediction, Tree
from assent.diagnosis.drift.encoding import Bags, Vocabulary
from assent.diagnosis.drift.files import Place
from assent.diagnosis.drift.reference import Reference, Sample
from assent.diagnosis.drift.testing import Day
from assent.diagnosis.drift.watcher import Alert, Watcher
from assent.errors import DataError
from assent.runs.files import replacing, storage_errors

VERSION = 2
Arrays = dict[str, np.ndarray]
DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
          zipfile.BadZipFile, zlib.error)  # fmt: skip
"""What reading raises for a file that is empty, cut, another archive, a single array, or whose parts are missing."""


def save(watcher: Watcher, path: Path, *, options: Mapping[str, Any]) -> None:
    """Writes the state. `options`: what must be the same in the next call, as JSON. Raises StorageError; TypeError for
    an array of objects, which no call could read again."""
    arrays: Arrays = {}
    meta = {"version": VERSION, "options": dict(options), "watcher": _flat(watcher, "w", arrays)}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(path), replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> tuple[Watcher, dict[str, Any]]:
    """The state and its options. Raises DataError for a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop("meta").tobytes())
        version = meta["version"]
        if version == VERSION:
            return _watcher(meta["watcher"], arrays), meta["options"]
    except DAMAGE as error:
        raise DataError(
            f"{path} is no state of the monitor", got=f"{type(error).__name__}: {error}",
            fix="give another --state; a new one is made, and the counting of days begins anew",
        ) from None  # fmt: skip
    raise DataError(f"{path} was written by another version", got=version, expected=VERSION, fix="give another --state")


def _flat(value: Any, name: str, arrays: Arrays) -> Any:
    """JSON of a value; arrays go into `arrays`, and their names stand in their place."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError(f"{name} is an array of {value.dtype}, which would be pickled")
        arrays[name] = value
        return {"array": name}
    if hasattr(value, "__dataclass_fields__"):
        return {one.name: _flat(getattr(value, one.name), f"{name}.{one.name}", arrays) for one in fields(value)}
    if isinstance(value, Mapping):
        return [[key, _flat(part, f"{name}.{key}", arrays)] for key, part in value.items()]
    return list(value) if isinstance(value, tuple) else value


def _watcher(flat: dict[str, Any], arrays: Arrays) -> Watcher:
    def array(part: Any) -> Any:
        return arrays[part["array"]]

    def tables(part: Any) -> dict[str, Any]:
        return {name: array(one) for name, one in part}

    def sample(part: Any) -> Sample:
        words = Bags(array(part["words"]["starts"]), array(part["words"]["places"]))
        return Sample(array(part["key"]), array(part["weekday"]), words)

    def chosen(part: Any) -> Chosen:
        known = {name: array(one) if isinstance(one, dict) else one for name, one in part.items()}
        known["bins"] = tables(part["bins"])
        known["predictions"] = {name: prediction(said) for name, said in part["predictions"]}
        return Chosen(**known)

    def prediction(part: Any) -> Prediction:
        tree = part.pop("tree")
        known = {name: array(one) if isinstance(one, dict) else one for name, one in part.items()}
        return Prediction(
            **known, tree=None if tree is None else Tree(**{key: array(one) for key, one in tree.items()})
        )

    base = flat["reference"]
    reference = Reference(
        prompt_words=Vocabulary(tuple(base["prompt_words"]["words"])),
        completion_words=Vocabulary(tuple(base["completion_words"]["words"])),
        chosen=chosen(base["chosen"]),
        tables=tables(base["tables"]),
        inflation=dict(base["inflation"]),
        sample=sample(base["sample"]),
        slices=tuple(base["slices"]),
        num_rows=base["num_rows"],
        num_days=base["num_days"],
    )
    plain = {name: flat[name] for name in ("alpha", "num_tested", "last_tested", "by_call", "num_calls")}
    return Watcher(
        reference=reference,
        days={day: Day(tables(one["tables"]), sample(one["sample"])) for day, one in flat["days"]},
        hashes={day: array(one) for day, one in flat["hashes"]},
        places={name: Place(**one) for name, one in flat["places"]},
        pending={key: list(halves) for key, halves in flat["pending"]},
        counts=Counter(dict(flat["counts"])),
        alerts={name: Alert(**one) for name, one in flat["alerts"]},
        told=flat["told"],
        **plain,
    )
