"""The sandbox's files without a model: its own writers' answers, compared by gold, by a crowd or by thumbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assent.data.loading import write_groups
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.labellers import sample_and_label
from assent.sandbox.settings import LabelSettings
from assent.sandbox.world import World

LAYOUTS = {"pairs": "comparisons", "rankings": "rankings", "ratings": "ratings", "thumbs": "thumbs"}


def base_model() -> str:
    return str(base_folder(0))


def labelled(path: Path, **settings: Any) -> str:
    """A file of labels; `settings` are those of LabelSettings."""
    chosen = LabelSettings(source="foreign", **settings)
    found = sample_and_label(World(0), chosen, seed=0, sampler=None)
    write_groups(path, found.groups, LAYOUTS[chosen.labels])
    return str(path)


def written(path: Path, number: int) -> str:
    """A file of demonstrations."""
    write_groups(path, demonstrations(World(0), number, 0), "demonstrations")
    return str(path)


def asked(path: Path, number: int, *, split: str = "rl") -> str:
    """A file of prompts."""
    write_groups(path, World(0).prompts(split, number, 0), "prompts")
    return str(path)
