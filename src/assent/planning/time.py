"""How long a stage takes, and what it costs: FLOPs over a rate. A range, never a point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from assent.models.shape import Cost, GivenLengths, Lengths, ModelShape
from assent.planning.activations import adapter_parameters
from assent.planning.devices import Device
from assent.planning.setup import Setup
from assent.runs.files import user_cache

WIDTH = 0.25
"""Half of a calibrated range's width."""
CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of work on one device, by what is counted. `measured`: by --calibrate on this machine.

    training, sampling   FLOP/s that are reached, from low to high
    """

    training: tuple[float, float]
    sampling: tuple[float, float]
    measured: bool
    source: str


@dataclass(frozen=True, slots=True)
class Duration:
    """flops     by part of the work: reading, sampling, training
    tokens    that training reads, a shared prompt once
    steps     optimiser updates, all learners together
    seconds   from low to high
    """

    flops: dict[str, float]
    tokens: int
    steps: int
    seconds: tuple[float, float]
    rates: Rates

    @property
    def hours(self) -> tuple[float, float]:
        return self.seconds[0] / 3600, self.seconds[1] / 3600

    def money(self, price_per_hour: float, *, devices: int = 1) -> tuple[float, float]:
        """At a price for each device and hour."""
        return self.hours[0] * price_per_hour * devices, self.hours[1] * price_per_hour * devices


def rates_of(device: Device, *, dtype: str = "bfloat16", calibration: dict[str, Any] | None = None) -> Rates | None:
    """Calibrated rates if there are any, otherwise the device table's with the stated utilisation. None: neither."""
    if calibration is not None:
        training, sampling = calibration["training"], calibration["sampling"]
        low, high = 1 - WIDTH, 1 + WIDTH
        return Rates(
            (training * low, training * high),
            (sampling * low, sampling * high),
            True,
            f"measured {calibration['date']}",
        )
    if not device.rates:
        return None
    rate = device.rates.get(dtype, device.rates["float32"])
    training, sampling = device.training, device.sampling
    # A token that is sampled reads every weight once for all its rows: the memory's bandwidth is the limit.
    width = 2 if dtype == "bfloat16" else 4
    by_bandwidth = (device.bandwidth or 0.0) / width * 2
    return Rates(
        (rate * training[0] * device.count, rate * training[1] * device.count),
        (by_bandwidth * sampling[0] * device.count, by_bandwidth * sampling[1] * device.count),
        False,
        f"{device.source}; utilisation {training[0]:.0%} to {training[1]:.0%}, stated and not measured",
    )


def stored_calibration(folder: Path | None = None) -> dict[str, Any] | None:
    """What `assent plan --calibrate` has measured on this machine."""
    path = (folder or user_cache()) / CALIBRATION
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def duration(
    setup: Setup,
    shape: ModelShape,
    groups: Sequence[Lengths],
    *,
    rates: Rates,
    steps: int | None = None,
    passes: float = 1.0,
    reward: ModelShape | None = None,
) -> Duration:
    """groups   a sample of the rows, or all of them; of an online stage prompts with completions of expected lengths
    steps    updates of a stage on given data, or rounds of an online stage; None: `passes` over the groups
    """
    number = ceil(len(groups) * passes / setup.batch_size) if steps is None else steps
    rows = number * setup.batch_size if steps is not None else len(groups) * passes
    scale = rows / len(groups)
    cost = _cost(setup, shape)
    update = cost.update(groups) * scale
    flops: dict[str, float] = {}
    tokens = int(scale * sum(g.prompt_length + sum(g.completion_lengths) for g in groups))
    updates = number
    if setup.is_online:
        passes_each = setup.epochs
        flops["training"] = update * passes_each * (2 if setup.has_critic else 1)
        reads = 2 + (1 if setup.has_critic else 0)  # the reference, the check of the policy, the critic
        flops["reading"] = cost.forward(groups) * scale * reads
        if reward is not None:
            flops["reading"] += reward.cost().score(groups) * scale
        flops["sampling"] = sum(cost.sample(g.prompt_length, g.completion_lengths) for g in groups) * scale
        updates = number * setup.epochs * setup.mini_batches * (2 if setup.has_critic else 1)
        tokens *= setup.epochs
    else:
        flops["training"] = update
        if setup.reads_reference:
            flops["reading"] = cost.forward(groups) * min(scale, 1.0)
    work = flops["training"] + flops.get("reading", 0.0)
    # A round of sampling reads the weights once for each token of the longest completion.
    sampled = flops.get("sampling", 0.0)
    if not rates.measured and sampled:
        longest = max((max(g.completion_lengths, default=0) for g in groups), default=0)
        sampled = 2.0 * shape.num_parameters / 2 * longest * number
    seconds = tuple(work / rates.training[i] + (sampled / rates.sampling[i] if sampled else 0.0) for i in (1, 0))
    return Duration(flops, tokens, updates, (seconds[0], seconds[1]), rates)


def expected_rollouts(prompts: Sequence[int], *, num_completions: int, length: int) -> list[GivenLengths]:
    """Prompts with completions of `length` tokens each: what a round of an online stage is expected to sample."""
    return [GivenLengths(p, (length,) * num_completions, length * num_completions) for p in prompts]


def _cost(setup: Setup, shape: ModelShape) -> Cost:
    cost = shape.cost()
    if not setup.lora_r:
        return cost
    own = adapter_parameters(shape, setup)
    return Cost(
        cost.trunk_weights + own,
        cost.head_weights,
        cost.attention_width,
        cost.shared,
        own / (cost.trunk_weights + own + cost.head_weights),
    )
