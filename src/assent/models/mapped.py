"""Weights that stay in their file: safetensors are mapped into memory, so a model of the file's own type takes none."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from assent.models.adapters import is_adapter
from assent.models.folders import resolve_folder

_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def type_in_file(path: str | Path, *, revision: str | None = None) -> str | None:
    """The type of all weights in a model's folder; None for several types, other types, and an adapter."""
    folder = resolve_folder(path, revision=revision)
    if is_adapter(folder):
        return None
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            found |= {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    return _NAMES.get(found.pop()) if len(found) == 1 else None
