"""The devices that a plan knows by name, and this machine's CPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from assent.config.loading import nearest
from assent.errors import ConfigError

FILE = Path(__file__).with_name("devices.yaml")
_COUNTED = re.compile(r"(\d+)\s*x\s*(.+)", re.IGNORECASE)
_NEAR = 5

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Device:
    """One device, or `count` alike.

    memory_bytes         of each one
    bandwidth            bytes per second of each one's memory; None: not in the table
    rates                FLOP/s of dense products of each one, by dtype; None: not in the table
    training, sampling   the shares of the rates and of the bandwidth that are reached, from low to high
    """

    name: str
    kind: Kind
    memory_bytes: float
    bandwidth: float | None = None
    rates: Mapping[str, float] | None = None
    training: tuple[float, float] = (1.0, 1.0)
    sampling: tuple[float, float] = (1.0, 1.0)
    count: int = 1
    threads: int = 1
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def device(name: str) -> Device:
    """The device of this name: `cpu`, one of `devices.yaml`, or several of one (`8xh100-80gb`).

    A name may leave out the memory where only one device has it (`h100`). ConfigError for an unknown name, with the
    nearest known ones.
    """
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    if wanted == "cpu":
        return this_cpu()
    counted = _COUNTED.fullmatch(wanted)
    count, single = (int(counted.group(1)), counted.group(2)) if counted else (1, wanted)
    known = names()
    alike = [one for one in known if one == single] or [one for one in known if one.rpartition("-")[0] == single]
    if len(alike) != 1 or not count:
        raise _unknown(name, single, alike)
    table = _table()
    entry, shares = table["devices"][alike[0]], table["utilisation"]
    rates = {"float32": entry["fp32"] * 1e12}
    if entry["bf16"] is not None:
        rates["bfloat16"] = entry["bf16"] * 1e12
    return Device(
        name=alike[0] if count == 1 else f"{count}x{alike[0]}",
        kind="cuda",
        memory_bytes=entry["memory_mib"] * 2.0**20,
        bandwidth=entry["bandwidth_gb_s"] * 1e9,
        rates=rates,
        training=tuple(shares["training"]),
        sampling=tuple(shares["sampling"]),
        count=count,
        source=entry["source"],
    )


def names() -> tuple[str, ...]:
    """All known names, `cpu` excepted."""
    return tuple(_table()["devices"])


def this_cpu() -> Device:
    """This machine's CPU, with its memory. Its rates are known once it is calibrated."""
    return Device(
        "cpu", "cpu", _host_memory(), threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1, source="this machine",
    )  # fmt: skip


def _host_memory() -> float:
    """Bytes that the system, or the container's limit, lets a process have."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, float(text))
    return total


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return table


def _unknown(name: str, single: str, alike: list[str]) -> ConfigError:
    if len(alike) > 1:
        return ConfigError(f"{name} names several devices", expected=" or ".join(alike))
    known = ["cpu", *names()]
    near: list[str] = []
    while len(near) < _NEAR and (one := nearest(single, [k for k in known if k not in near])) is not None:
        near.append(one)
    return ConfigError(
        f"unknown device: {name}",
        expected=f"cpu, or one of: {', '.join(known[1:])}; several as 8x{known[-2]}",
        fix=f"did you mean {', '.join(near)}?" if near else None,
    )
