"""Gates: limits that a pipeline enforces on what its stages measured.

A limit is kept only if the interval's end that is nearer to it keeps it: a gate asks what was shown, not what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from assent.config.gate import GateConfig

Record = Mapping[str, Any]
"""Part of evaluation.json or of a run's metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit. `value` and `end` (the interval's end that counts) are None where nothing was measured."""

    what: str
    limit: float
    largest: bool
    value: float | None
    end: float | None

    @property
    def kept(self) -> bool:
        if self.end is None:
            return False
        return self.end <= self.limit if self.largest else self.end >= self.limit

    def line(self) -> str:
        limit = f"at {'most' if self.largest else 'least'} {self.limit:g}"
        if self.value is None:
            return f"{self.what}: not measured, {limit} wanted"
        if self.end is None:
            return f"{self.what}: {self.value:.3g}, too few prompts for an interval, {limit} wanted"
        side = "upper" if self.largest else "lower"
        verb = "kept" if self.kept else "not kept"
        return f"{self.what}: {self.value:.3g} ({side} end {self.end:.3g}), {limit} wanted: {verb}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kept": self.kept}


def checks_of(config: GateConfig, *, evaluation: Record | None, metrics: Record) -> list[Check]:
    """Every limit of the gate. `evaluation`: evaluation.json. `metrics`: the result of the training run, by name."""
    found: list[Check] = []
    if evaluation is not None:
        policy = next((one for one in evaluation["policies"] if one["name"] == config.policy), None)
        found += _of_policy(config, policy)
    for name, limit in config.min_held_out.items():
        value = metrics.get(name)
        found.append(Check(what=name, limit=limit, largest=False, value=value, end=metrics.get(f"{name}_low")))
    return found


def _of_policy(config: GateConfig, policy: Record | None) -> Iterator[Check]:
    sampled: Record = {} if policy is None else policy["sampled"]
    if config.max_kl_nats is not None:
        kl = None if policy is None else policy["kl"]
        yield _check("KL to the reference, nats", config.max_kl_nats, _kl(kl), largest=True)
    if config.min_win_rate is not None:
        yield _check("win rate", config.min_win_rate, sampled.get("win_rate"))
    for name, limit in config.max_safety.items():
        yield _check(name, limit, sampled.get("safety", {}).get(name), largest=True)
    for name, limit in config.min_slice_win_rate.items():
        column, _, value = name.partition("=")
        figures = sampled.get("slices", {}).get(column, {}).get(value, {})
        yield _check(f"win rate where {name}", limit, figures.get("win_rate"))


def _kl(kl: Record | None) -> Record | None:
    return None if kl is None else kl["k1"] or kl["best_of_n"]


def _check(what: str, limit: float, estimate: Record | None, *, largest: bool = False) -> Check:
    if estimate is None:
        return Check(what=what, limit=limit, largest=largest, value=None, end=None)
    end = estimate["high"] if largest else estimate["low"]
    return Check(what=what, limit=limit, largest=largest, value=estimate["value"], end=end)
