"""From data to model: what each stage took from earlier ones, according to its options, and where to draw the lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from assent.reporting.sources import Stage

ROW_HEIGHT = 64
LINKS, LINE, LETTERS = 2, 16, 85
"""Lines of links that a row has room for, the height of one more, and the letters of a line on a narrow screen."""
NAME_LINE = 20
"""From a row's top to the middle of its first line, where its dot is. All sizes are in pixels."""
RAIL_WIDTH = 46
_NAMED = re.compile(r"\$\{([\w-]+)\.[^}]+\}")
_INPUTS = {
    "model",
    "policies",
    "data",
    "eval_data",
    "file",
    "text_files",
    "samples",
    "prompts",
    "reference",
    "reward",
    "reward_model",
    "reward_pairs",
    "critic",
    "judge",
}
_NOT_INPUTS = {"output_dir", "ledgers", "labels", "reference_cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An option whose values came from `origins`: earlier stages, or files and models from outside."""

    option: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    command: str
    links: tuple[Link, ...]
    y: float
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Rows in the order in which the stages ran; `paths` are SVG path data for the arcs between them."""

    rows: tuple[Row, ...]
    paths: tuple[str, ...]
    width: int
    height: int


def lineage_of(stages: Sequence[Stage]) -> Lineage:
    rows: list[Row] = []
    paths: list[str] = []
    top = 0
    for index, stage in enumerate(stages):
        origins: dict[str, dict[str, int | None]] = {}
        for option, origin, from_stage in _origins(stage.options, stages[:index]):
            origins.setdefault(option, {})[origin] = from_stage
        links = tuple(Link(option=option, origins=tuple(names)) for option, names in origins.items())
        height = _height(links)
        rows.append(Row(name=stage.name, command=stage.command, links=links, y=top + NAME_LINE, height=height))
        top += height
        taken = {i for names in origins.values() for i in names.values() if i is not None}
        paths += [_arc(rows[origin].y, rows[index].y) for origin in sorted(taken)]
    return Lineage(rows=tuple(rows), paths=tuple(paths), width=RAIL_WIDTH, height=top)


def _height(links: Sequence[Link]) -> int:
    letters = sum(len(f"{link.option} ← {', '.join(link.origins)} · ") for link in links)
    return ROW_HEIGHT + LINE * max(0, -(-letters // LETTERS) - LINKS)


def _origins(options: Mapping[str, Any], earlier: Sequence[Stage]) -> Iterator[tuple[str, str, int | None]]:
    """(option, origin, its stage) of values that name an earlier stage (`${sft.model}`) or are in its folder, and of
    the known inputs from outside, which have no stage."""
    for option, value in _flat(options):
        if not isinstance(value, str) or option in _NOT_INPUTS:
            continue
        named = _NAMED.search(value)
        for index in reversed(range(len(earlier))):
            stage = earlier[index]
            if (named and named[1] == stage.name) or (not named and _inside(value, stage.folder, stage.written_to)):
                yield option, stage.name, index
                break
        else:
            if option in _INPUTS:
                yield option, PurePath(value).name or value, None


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each single value with its option's name, also those in lists and mappings (`policies: {dpo: …}`). For a reward's
    source this is what scores; for an implicit reward, its two models."""
    for key, value in options.items():
        if isinstance(value, Mapping) and isinstance(value.get("reward"), str):
            yield from _flat({key: value.get("members") or value["reward"]})
        elif isinstance(value, str) and value.startswith("implicit:"):
            yield from _flat({key: value.removeprefix("implicit:").split(",")})
        elif isinstance(value, (Mapping, list, tuple)):
            for item in value.values() if isinstance(value, Mapping) else value:
                yield from _flat({key: item})
        else:
            yield key, value


def _inside(value: str, *folders: str | PurePath) -> bool:
    """Whether the path is in one of the folders. An absolute path is never in a relative folder."""
    path = PurePath(value)
    within = [PurePath(folder).parts for folder in folders if str(folder) and PurePath(folder).parts]
    return any(path.parts[: len(parts)] == parts for parts in within)


def _arc(start: float, end: float) -> str:
    """An arc from one row's dot to another's, which bends further to the left for larger distances."""
    x = RAIL_WIDTH - 9
    bulge = min(RAIL_WIDTH - 12, 9 * math.sqrt((end - start) / ROW_HEIGHT))
    if end - start <= ROW_HEIGHT:
        return f"M{x} {start:g}V{end:g}"
    return f"M{x} {start:g}C{x - bulge * 1.35:.1f} {start + 14:g} {x - bulge * 1.35:.1f} {end - 14:g} {x} {end:g}"
