"""Runs that are made once and kept: a folder of small files, each with a run's log and options, named by the run."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assent.diagnosis.case import Case, make_case
from assent.sandbox.faults.registry import FAULTS
from assent.sandbox.faults.running import perform
from assent.sandbox.faults.settings import STAGES, Setting, healthy
from assent.sandbox.faults.tasks import CALIBRATION, FAMILIES

VERSION = 3
"""Of what faults do. Another one makes every run again."""
Purpose = Literal["calibration", "report"]
FIRST_SEED = {"calibration": 1_000, "report": 100_000}
"""Seeds of the two purposes never meet, as long as there are fewer than 99,000."""
WITHOUT_GOLD = 2
"""Every second run does not log gold, which few people have; a fault that only gold shows always does."""


@dataclass(frozen=True)
class Planned:
    """A run to make: `faults` of one stage (none: healthy), the seed's number and the strength."""

    stage: str
    faults: tuple[str, ...]
    purpose: Purpose
    number: int
    strength: float = 1.0

    @property
    def seed(self) -> int:
        return FIRST_SEED[self.purpose] + self.number

    @property
    def family(self) -> str:
        """The held-out family is met in reporting alone. Faults begin with different ones."""
        return in_turn(CALIBRATION if self.purpose == "calibration" else tuple(FAMILIES), self.number, self.name)

    @property
    def name(self) -> str:
        return "+".join(self.faults) or f"healthy-{self.stage}"

    def setting(self, models: Path) -> Setting:
        setting = healthy(self.stage, self.family, self.seed, models=models)
        for fault in self.faults:
            FAULTS[fault].inject(setting, self.strength)
        return setting


def in_turn(families: Sequence[str], number: int, name: str) -> str:
    """The family of a run: each in turn, and not the same one first under every name."""
    return families[(number + zlib.crc32(name.encode())) % len(families)]


def plan_fault(name: str, purpose: Purpose, seeds: range, strength: float = 1.0) -> Iterator[Planned]:
    """`name` is a fault's, or two faults' with a plus between them."""
    faults = tuple(name.split("+"))
    for number in seeds:
        yield Planned(FAULTS[faults[0]].stage, faults, purpose, number, strength)


def plan_healthy(purpose: Purpose, runs: int, *, first: int = 0) -> Iterator[Planned]:
    """Healthy runs, all stages in turn."""
    for number in range(runs):
        yield Planned(STAGES[number % len(STAGES)], (), purpose, number // len(STAGES) + first + 50_000)


def record_of(
    planned: Planned, runs: Path, *, make: bool = True, making: Callable[[Setting], dict[str, Any]] = perform
) -> dict[str, Any] | None:
    """The run's record: from its file, or made by `making` and kept. None if it is not there and `make` is False."""
    weaker = "" if planned.strength == 1 else f"-at-{planned.strength:g}"  # what a patch was given is in no digest
    name = f"{planned.purpose}-{planned.number}{weaker}"
    return kept(planned.setting(runs / "models"), runs / planned.name, name, make=make, making=making)


def kept(
    setting: Setting,
    folder: Path,
    name: str,
    *,
    make: bool = True,
    making: Callable[[Setting], dict[str, Any]] = perform,
) -> dict[str, Any] | None:
    """The record of a setting, kept in `folder` under a name that has a digest of everything but the code."""
    path = folder / f"{name}-{_digest(setting)}.json.gz"
    if path.exists():
        return json.loads(gzip.decompress(path.read_bytes()))
    if not make:
        return None
    record = making(setting)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(gzip.compress(json.dumps(record).encode(), mtime=0))
    temporary.replace(path)
    return record


def _digest(setting: Setting) -> str:
    """Of everything that makes the run, except the code."""
    named = {"version": VERSION, "options": setting.options, "shown": setting.shown, "known": setting.known}
    text = json.dumps({**named, "rows": [repr(row) for row in (*setting.rows, *setting.held_out)]}, sort_keys=True)
    changes = (patch.__qualname__ for patch in (*setting.patches, *setting.logged, *setting.saved))
    text = text.replace(str(setting.models), "models") + ",".join(changes)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def case_of(record: dict[str, Any], *, with_gold: bool = True) -> Case:
    """What the doctor sees of a record."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    order: list[int] = []
    for row in record["rows"]:
        order.append(int(row["step"]))
        for name, value in row.items():
            if name != "step" and (with_gold or not name.startswith("rewards/gold")):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(value)
    return make_case(columns, config=record["config"], stage=record["stage"], **record["known"])


def outcome(record: dict[str, Any]) -> float | None:
    """How good the run's model is, higher is better: gold of what it writes, or what it gets right of held-out rows."""
    series: dict[str, list[float]] = {}
    for row in record["rows"]:
        for name, value in row.items():
            series.setdefault(name, []).append(value)
    if record["stage"] in ("ppo", "grpo", "rloo", "online-dpo"):
        gold: Sequence[float] = series.get("rewards/gold", ())
        return sum(gold[-5:]) / len(gold[-5:]) if gold else None
    for name, sign in (("eval_accuracy", 1.0), ("eval_rewards/accuracies", 1.0), ("eval_loss", -1.0)):
        if name in series:
            return sign * series[name][-1]
    return None
