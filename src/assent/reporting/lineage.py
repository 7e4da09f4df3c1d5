"""From data to model: which stage took what from which, found in the stages' options, and where to draw the lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from assent.reporting.sources import Stage

ROW_HEIGHT = 58
RAIL_WIDTH = 46
_NAMED = re.compile(r"\$\{([\w-]+)\.[^}]+\}")
_INPUT_OPTIONS = {"model", "data", "eval_data", "reference", "reward", "critic", "policy", "baseline", "prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`option` of the row's stage came from `origin`: an earlier stage, or a file or model from outside."""

    option: str
    origin: str
    from_stage: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    command: str
    links: tuple[Link, ...]
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Rows from top to bottom in the order they ran; `paths` are SVG path data of the arcs between them."""

    rows: tuple[Row, ...]
    paths: tuple[str, ...]
    width: int
    height: int


def lineage_of(stages: Sequence[Stage]) -> Lineage:
    rows, paths = [], []
    for index, stage in enumerate(stages):
        links = list(_links(stage.options, stages[:index]))
        rows.append(
            Row(name=stage.name, command=stage.command, links=tuple(links), y=(index + 0.5) * ROW_HEIGHT)
        )
        for origin in sorted({link.from_stage for link in links if link.from_stage is not None}):
            paths.append(_arc(rows[origin].y, rows[index].y))
    return Lineage(rows=tuple(rows), paths=tuple(paths), width=RAIL_WIDTH, height=ROW_HEIGHT * len(rows))


def _links(options: Mapping[str, Any], earlier: Sequence[Stage]) -> Iterator[Link]:
    """Values that name an earlier stage (`${sft.model}`) or lie in its folder; else the known inputs from outside."""
    for option, value in _flat(options):
        if not isinstance(value, str) or option.split(".")[-1] == "output_dir":
            continue
        named = _NAMED.search(value)
        for index in reversed(range(len(earlier))):
            stage = earlier[index]
            if (named and named[1] == stage.name) or (not named and _inside(value, str(stage.folder))):
                yield Link(option=option, origin=stage.name, from_stage=index)
                break
        else:
            if option in _INPUT_OPTIONS:
                yield Link(option=option, origin=PurePath(value).name or value, from_stage=None)


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from _flat({key: item}, prefix)
        else:
            yield f"{prefix}{key}", value


def _inside(value: str, folder: str) -> bool:
    parts, within = PurePath(value).parts, PurePath(folder).parts
    return parts[: len(within)] == within if value.startswith("/") == folder.startswith("/") else False


def _arc(start: float, end: float) -> str:
    """From one row's dot to another's, bulging to the left with the distance."""
    x = RAIL_WIDTH - 9
    bulge = min(RAIL_WIDTH - 12, 9 * math.sqrt((end - start) / ROW_HEIGHT))
    if end - start <= ROW_HEIGHT:
        return f"M{x} {start:g}V{end:g}"
    return f"M{x} {start:g}C{x - bulge * 1.35:.1f} {start + 14:g} {x - bulge * 1.35:.1f} {end - 14:g} {x} {end:g}"
