"""Reads what an option of a command names: with its split, and its columns under our names."""

from __future__ import annotations

from typing import Any

from assent.config.data import DataOptions
from assent.data.loading import Dataset, load_groups

MAIN = ("data", "file", "completions", "import_labels")
"""Options that name what the command works on. It has the split that is asked for, and all the columns."""


def load_named(config: DataOptions, name: str = "data", **options: Any) -> Dataset:
    """The rows of `config.NAME`. `options` are those of `load_groups`; raises what it raises.

    Other data is one file, or has the split `train`; `test_data` of `compare` has an option for its own.
    """
    path = getattr(config, name)
    split = config.split if name in MAIN else getattr(config, "test_split", None) if name == "test_data" else None
    own = name in MAIN or path == getattr(config, "data", None)
    return load_groups(path, split=split, columns=config.columns, own_columns=own, **options)
