"""Competing constraints of a product: the settings of the measured point that is best among those that keep them all.

A point is one trained or enumerated policy: its settings (weights of rewards, beta, clip …) and what was measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.config.loading import unknown_name
from assent.data.readers import read_rows
from assent.data.texts import RowError
from assent.errors import ConfigError, DataError
from assent.runs.files import bytes_of

Point = Mapping[str, Any]
LIMIT = re.compile(r"\s*([\w./-]+)\s*(<=|>=)\s*(-?[\d.]+(?:[eE]-?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """`name` at most (or at least) `bound`."""

    name: str
    largest: bool
    bound: float

    @classmethod
    def of(cls, text: str) -> Limit:
        """`tokens<=40` or `helpful>=0.5`. Raises ConfigError for another text."""
        if (match := LIMIT.fullmatch(text)) is None:
            raise ConfigError("a limit cannot be read", got=text, expected="NAME<=VALUE or NAME>=VALUE: tokens<=40")
        return cls(match[1], match[2] == "<=", float(match[3]))

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.largest else '>='} {self.bound:g}"

    def value(self, point: Point) -> float:
        """The end of the interval that counts (NAME_high or NAME_low), or the figure if it has none."""
        end = f"{self.name}_{'high' if self.largest else 'low'}"
        return float(point[end] if point.get(end) is not None else point[self.name])

    def keeps(self, point: Point) -> bool:
        return self.value(point) <= self.bound if self.largest else self.value(point) >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best point that keeps all limits. `settings` are its values that are neither limited nor maximised."""

    point: Point
    settings: Mapping[str, Any]
    maximised: str
    limits: tuple[Limit, ...]
    kept: int
    """Points that keep all limits."""
    points: int
    costs: Mapping[str, float]
    """What each limit costs: how much more of what is maximised there would be without it alone."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "figures": {name: self.point[name] for name in (self.maximised, *(limit.name for limit in self.limits))},
            "kept": self.kept,
            "points": self.points,
            "costs": dict(self.costs),
        }

    def lines(self) -> list[str]:
        """What was chosen, and what each limit costs."""
        settings = ", ".join(f"{name} {_shown(value)}" for name, value in self.settings.items())
        found = [f"{self.kept} of {self.points} measured points keep all limits; the best of them: {settings}"]
        found.append(f"{self.maximised} {_shown(self.point[self.maximised])}")
        for limit in self.limits:
            cost = self.costs[str(limit)]
            found.append(f"{limit}: {_shown(self.point[limit.name])}; without this limit {cost:+.3g} {self.maximised}")
        return found


def best_point(points: Sequence[Point], *, maximise: str, limits: Sequence[Limit]) -> Chosen:
    """The point that keeps all limits and has most of `maximise`; the first of equals.

    Raises ConfigError for a name that a point lacks, and where no point keeps all limits: it says which one to relax.
    """
    for name in (maximise, *(limit.name for limit in limits)):
        if missing := next((point for point in points if point.get(name) is None), None):
            raise unknown_name("figure of the frontier", name, missing)
    kept = [point for point in points if all(limit.keeps(point) for limit in limits)]
    if not kept:
        raise _none_keeps(points, maximise, limits)
    chosen = max(kept, key=lambda point: float(point[maximise]))
    figures = {maximise, *(limit.name for limit in limits)}
    figures |= {f"{name}_{end}" for name in figures for end in ("low", "high")}
    costs = {}
    for limit in limits:
        freer = [point for point in points if all(other.keeps(point) for other in limits if other != limit)]
        costs[str(limit)] = max(float(point[maximise]) for point in freer) - float(chosen[maximise])
    return Chosen(
        point=chosen,
        settings={name: value for name, value in chosen.items() if name not in figures},
        maximised=maximise,
        limits=tuple(limits),
        kept=len(kept),
        points=len(points),
        costs=costs,
    )


def _none_keeps(points: Sequence[Point], maximise: str, limits: Sequence[Limit]) -> ConfigError:
    reachable = []
    for limit in limits:
        freer = [point for point in points if all(other.keeps(point) for other in limits if other != limit)]
        if freer:
            nearest = (min if limit.largest else max)(limit.value(point) for point in freer)
            reachable.append(f"{limit.name} {'<=' if limit.largest else '>='} {nearest:g}")
    fix = f"relax one: {' or '.join(reachable)}" if reachable else "relax more than one, or measure other settings"
    return ConfigError(
        f"none of {len(points)} measured points keeps all limits", got=", ".join(map(str, limits)), fix=fix
    )


def read_points(path: str | Path) -> list[dict[str, Any]]:
    """Points of a JSONL, JSON or CSV file (one row each), or of the frontier.json of `assent frontier`.

    Of the latter a point's settings are `method` and `label`; its figures are gold and kl. Numbers may be
    text, as in CSV. Raises DataError for a file without points.
    """
    file = Path(path)
    if file.name == "frontier.json":
        found = json.loads(bytes_of(file))
        points = [_flat(method["method"], point) for method in found["methods"] for point in method["points"]]
    else:
        points = [_plain(row, f"{path}:{number}") for number, row in read_rows(file, hashlib.sha256())]
    if not points:
        raise DataError(f"{path} holds no point", fix="measure some: assent frontier, or a table of your own")
    return points


def _flat(method: str, point: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"method": method, "label": point["label"]}
    for name in ("gold", "kl"):
        flat |= {name: point[name]["value"], f"{name}_low": point[name]["low"], f"{name}_high": point[name]["high"]}
    return flat


def _plain(row: Mapping[str, Any] | RowError, where: str) -> dict[str, Any]:
    if isinstance(row, RowError):
        raise DataError(f"{where}: {row}", expected="one measured point on each line")
    return {name: _number(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
