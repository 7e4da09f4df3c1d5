"""How long a stage takes, and what it costs: counts of work times seconds for each. A range, never a point.

The seconds for a count come from a calibration of this machine's CPU (`assent plan --calibrate`), or from the table of
devices with the stated utilisation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from assent.models.shape import Cost, GivenLengths, Lengths, ModelShape
from assent.planning.activations import adapter_parameters, kept
from assent.planning.devices import Device
from assent.planning.memory import Learned
from assent.planning.setup import Setup
from assent.runs.files import user_cache, write_json

SPREAD = 0.25
"""Half the width of a calibrated range, as a share of its middle."""
CALIBRATION = "calibration.json"
GATE_GROUPS = 6
"""Groups that the checks before the first update read: four of the first step, and two of them again, or a few short
ones more. They are its shortest, so this is the most that they cost."""


class Work(NamedTuple):
    """flops   of products and attention
    moved   bytes that passes keep and read again; of sampling the weights, once for each step
    layers  layers that are called, once for each pass
    stepped numbers that the optimiser steps
    """

    flops: float = 0.0
    moved: float = 0.0
    layers: float = 0.0
    stepped: float = 0.0

    def times(self, number: float) -> Work:
        return Work(*(number * count for count in self))

    def plus(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds for each count of `Work`, by kind of work.

    start    seconds until the first step, and from the last to the end
    spread   the least and the most that are expected, as shares of the seconds
    """

    training: tuple[float, ...]
    reading: tuple[float, ...]
    sampling: tuple[float, ...]
    start: float
    spread: tuple[float, float]
    is_measured: bool
    source: str

    def seconds(self, kind: str, work: Work) -> float:
        return sum(each * count for each, count in zip(getattr(self, kind), work, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Measuring on held-out data while a stage trains (stages/validation.py).

    times     how often
    rows      that the loss is read of; `share`: of them are held out
    prompts   that are answered, with completions of the lengths to expect
    """

    times: int = 0
    rows: Sequence[Lengths] = ()
    share: float = 1.0
    prompts: Sequence[Lengths] = ()

    @staticmethod
    def number(*, steps: int, eval_steps: int) -> int:
        """Measurements: before the first step, every `eval_steps`, and after the last; 0: only then."""
        return 2 + (steps - 1) // eval_steps if eval_steps else 1


NOTHING_HELD_OUT = HeldOut()


@dataclass(frozen=True, slots=True)
class Duration:
    """work      by kind: training, reading, sampling
    tokens    that training reads, a shared prompt once
    steps     optimiser updates, of all learners
    seconds   from low to high
    """

    work: dict[str, Work]
    tokens: int
    steps: int
    seconds: tuple[float, float]
    source: str

    @property
    def flops(self) -> float:
        return sum(one.flops for one in self.work.values())

    @property
    def hours(self) -> tuple[float, float]:
        return self.seconds[0] / 3600, self.seconds[1] / 3600

    def money(self, price_per_hour: float, *, devices: int = 1) -> tuple[float, float]:
        """At a price for each device and hour."""
        return self.hours[0] * price_per_hour * devices, self.hours[1] * price_per_hour * devices

    def as_dict(self) -> dict[str, Any]:
        return {
            "flops": {kind: work.flops for kind, work in self.work.items()},
            "tokens": self.tokens,
            "updates": self.steps,
            "seconds": list(self.seconds),
            "source": self.source,
        }


def rates_of(device: Device, *, dtype: str = "float32", folder: Path | None = None) -> Rates | None:
    """This machine's calibration for its CPU, otherwise the table's rates with the stated utilisation. None: neither is
    there, as for a GPU that the table lacks."""
    if device.kind == "cpu":
        return calibrated(folder)
    if not device.rates:
        return None
    rate = device.rates.get(dtype, device.rates["float32"]) * device.count
    bandwidth = (device.bandwidth or 0.0) * device.count
    (low, high), (slow, fast) = device.training, device.sampling
    middle, sampled = 2 / (1 / low + 1 / high), 2 / (1 / slow + 1 / fast)
    least = min(middle / high, sampled / fast)
    return Rates(
        training=(1 / (rate * middle), 0.0, 0.0, 0.0),
        reading=(1 / (rate * middle), 0.0, 0.0, 0.0),
        sampling=(0.0, 1 / (bandwidth * sampled), 0.0, 0.0),
        start=0.0,
        spread=(least, max(middle / low, sampled / slow)),
        is_measured=False,
        source=f"{device.source}; {low:.0%} to {high:.0%} of it, stated and not measured",
    )


def calibrated(folder: Path | None = None) -> Rates | None:
    """What `assent plan --calibrate` has measured on this machine's CPU."""
    path = (folder or user_cache()) / CALIBRATION
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds = {kind: tuple(found[kind]) for kind in ("training", "reading", "sampling")}
    spread = (1 - SPREAD, 1 + SPREAD)
    source = f"measured on this machine, {found['date']}, {found['threads']} threads"
    return Rates(**kinds, start=found["start"], spread=spread, is_measured=True, source=source)


def keep_calibration(found: dict[str, Any], folder: Path | None = None) -> Path:
    """Stores what was measured under the user's cache folder."""
    path = (folder or user_cache()) / CALIBRATION
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return path


def duration(
    setup: Setup,
    shape: ModelShape,
    groups: Sequence[Lengths],
    *,
    rates: Rates,
    steps: int,
    device: str = "cpu",
    reward: ModelShape | None = None,
    held_out: HeldOut = NOTHING_HELD_OUT,
) -> Duration:
    """groups   a sample of the rows, or all; of an online stage prompts with completions of the lengths to expect
    steps    updates of a stage on given data, or rounds of an online stage
    """
    share = steps * setup.batch_size / len(groups)
    scorer = setup.command == "reward"
    learners = [Learned(setup, shape, device, scorer=scorer)]
    if setup.has_critic:
        learners.append(Learned(setup, reward or shape, device, scorer=True))
    updates = steps * setup.epochs * setup.mini_batches
    work = {"training": Work()}
    for learner in learners:
        each = _update(learner, groups).times(share * setup.epochs)
        work["training"] = work["training"].plus(each).plus(Work(stepped=learner.trained * updates))
    once = _read(learners[0], groups)
    first = once.times(min(GATE_GROUPS, 2 * setup.batch_size) / len(groups))
    if setup.is_online:
        reads = once.times((2 + setup.has_critic) * share)  # the reference, the check of the policy, the critic
        if reward is not None:
            reads = reads.plus(once.times(share))
        work["reading"] = reads.plus(first)
        work["sampling"] = _sampled(setup, shape, groups).times(share)
    else:
        work["reading"] = first.plus(once.times(min(share, 1.0)) if setup.reads_reference else Work())
    for kind, more in _measuring(learners[0], held_out, scored=reward is not None).items():
        work[kind] = work.get(kind, Work()).plus(more)
    middle = rates.start + sum(rates.seconds(kind, one) for kind, one in work.items())
    tokens = int(share * setup.epochs * _tokens(groups))
    seconds = (middle * rates.spread[0], middle * rates.spread[1])
    return Duration(work, tokens, updates * len(learners), seconds, rates.source)


def _measuring(learner: Learned, held_out: HeldOut, *, scored: bool) -> dict[str, Work]:
    """Of all measurements. The reference reads the rows once; answers are read by the policy, the reference and a
    reward model."""
    found = {}
    if held_out.rows and held_out.times:
        reads = held_out.times + learner.setup.reads_reference
        found["reading"] = _read(learner, held_out.rows).times(held_out.share * reads)
    if held_out.prompts and held_out.times:
        reads = held_out.times * (2 + scored)
        found["reading"] = found.get("reading", Work()).plus(_read(learner, held_out.prompts).times(reads))
        found["sampling"] = one_round(learner, held_out.prompts).times(held_out.times)
    return found


def one_update(learner: Learned, groups: Sequence[Lengths]) -> Work:
    """Of one update that reads all groups, its step included."""
    whole = replace(learner, setup=replace(learner.setup, batch_size=len(groups)))
    return _update(whole, groups).plus(Work(stepped=learner.trained))


def one_read(learner: Learned, groups: Sequence[Lengths]) -> Work:
    """Of reading all groups once."""
    return _read(replace(learner, setup=replace(learner.setup, batch_size=len(groups))), groups)


def one_round(learner: Learned, groups: Sequence[Lengths]) -> Work:
    """Of sampling all groups' completions together."""
    return _sampled(replace(learner.setup, batch_size=len(groups)), learner.shape, groups)


def _update(learner: Learned, groups: Sequence[Lengths]) -> Work:
    """Forward and backward passes of one reading of the groups, in updates of `batch_size`."""
    return _counted(learner, groups, cost_of(learner).update(groups))


def _read(learner: Learned, groups: Sequence[Lengths]) -> Work:
    return _counted(learner, groups, cost_of(learner).forward(groups))


def _counted(learner: Learned, groups: Sequence[Lengths], flops: float) -> Work:
    size = learner.setup.batch_size
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    passes = [one for part in parts for one in learner.passes(part)]
    moved = sum(kept(learner.layers, one) for one in passes)
    return Work(flops, moved, float(len(passes) * learner.shape.sizes.num_layers))


def _sampled(setup: Setup, shape: ModelShape, groups: Sequence[Lengths]) -> Work:
    """Each round takes as many steps as its longest completion has tokens; each reads all weights."""
    cost = cost_of(Learned(setup, shape, "cpu", scorer=False))
    flops = sum(cost.sample(g.prompt_length, g.completion_lengths) for g in groups)
    longest = max((max(g.completion_lengths, default=0) for g in groups), default=0)
    rounds = ceil(len(groups) / setup.batch_size)
    steps = float(rounds * longest)
    return Work(flops, steps * shape.num_parameters * setup.weight_bytes, steps * shape.sizes.num_layers)


def cost_of(learner: Learned) -> Cost:
    """FLOPs of the passes, with the adapters, and the head that is read."""
    setup, cost = learner.setup, learner.shape.cost()
    if learner.scorer:
        cost = replace(cost, head_weights=learner.shape.sizes.hidden_size)
    if not setup.lora_r:
        return cost
    own = adapter_parameters(learner.shape, setup)
    trunk = cost.trunk_weights + own
    return replace(cost, trunk_weights=trunk, trained_share=own / (trunk + cost.head_weights))


def _tokens(groups: Sequence[Lengths]) -> int:
    return sum(group.prompt_length + sum(group.completion_lengths) for group in groups)


def rollouts(prompts: Sequence[int], *, num_completions: int, length: int) -> list[Lengths]:
    """Prompts with completions of `length` tokens each, as a round of an online stage is expected to sample."""
    return [GivenLengths(p, (length,) * num_completions, length * num_completions) for p in prompts]
