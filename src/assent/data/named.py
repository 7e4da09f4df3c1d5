"""Reads what an option of a command names: with its split, and its columns under our names."""

from __future__ import annotations

from typing import Any

from assent.config.data import DataOptions
from assent.data.loading import Dataset, load_groups

SPLIT_OF = {"data": "split", "file": "split", "test_data": "test_split"}
"""Options that name data, and those that name its split. Other data is one file, or has the split `train`."""


def load_named(config: DataOptions, name: str = "data", **options: Any) -> Dataset:
    """The rows of `config.NAME`. `options` are those of `load_groups`; raises what it raises."""
    path, split = getattr(config, name), getattr(config, SPLIT_OF.get(name, ""), None)
    own = name in ("data", "file") or path == getattr(config, "data", None)
    return load_groups(path, split=split, columns=config.columns, own_columns=own, **options)
