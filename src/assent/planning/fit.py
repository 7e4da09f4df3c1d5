"""Whether a stage fits a device: the ways to run it, the largest micro-batch that fits, host memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assent.models.shape import Lengths, ModelShape
from assent.planning.devices import Device
from assent.planning.memory import Memory, learned, predict
from assent.planning.setup import ONLINE, Setup

RANK = 16
"""Of the adapters that are weighed against training all weights."""
METHODS = ("sft", "dpo", "kto", "reward", "ppo", "grpo")
LARGEST_BUDGET = 2**20
CHECKPOINTS = 2
"""That a run keeps (--save-total-limit)."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the stage.

    options   what it adds to the command
    fits      whether `memory` is within the device's
    """

    name: str
    options: str
    setup: Setup
    memory: Memory
    fits: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """ways                    the planned one first
    largest_budget          the largest --micro-batch-tokens with which the planned way fits; 0: none does
    methods                 peak bytes of other methods with rows of the same lengths, with all weights and with LoRA
    host_bytes              of main memory while the weights are loaded
    checkpoint_bytes        on disk, of all checkpoints that are kept and of the result
    """

    ways: tuple[Way, ...]
    methods: dict[str, tuple[float, float]]
    largest_budget: int
    host_bytes: float
    checkpoint_bytes: float

    @property
    def planned(self) -> Way:
        return self.ways[0]

    @property
    def advice(self) -> str:
        """What to change so that it fits; empty where it does."""
        if self.planned.fits:
            return ""
        if self.largest_budget:
            return f"--micro-batch-tokens {self.largest_budget}"
        for way in self.ways[1:]:
            if way.fits:
                return way.options
        return "a smaller model, a larger device, or more of them"

    def as_dict(self) -> dict[str, Any]:
        return {
            "ways": [
                {
                    "name": way.name,
                    "options": way.options,
                    "fits": way.fits,
                    "peak_bytes": way.memory.peak,
                    "allocated_bytes": way.memory.allocated,
                    "moments": {name: dict(held) for name, held in way.memory.moments.items()},
                }
                for way in self.ways
            ],
            "methods": {name: list(peaks) for name, peaks in self.methods.items()},
            "largest_micro_batch_tokens": self.largest_budget,
            "host_bytes_while_loading": self.host_bytes,
            "disk_bytes": self.checkpoint_bytes,
            "advice": self.advice,
        }


def fit(
    setup: Setup, shape: ModelShape, groups: Sequence[Lengths], device: Device, *, reward: ModelShape | None = None
) -> Fit:
    """`groups`: the rows of the largest update (memory.py: predict)."""

    def way(name: str, options: str, one: Setup) -> Way:
        memory = predict(one, shape, groups, device=device.kind, reward=reward)
        return Way(name, options, one, memory, memory.peak <= device.memory_bytes)

    ways = [way("as planned", "", setup)]
    ways += [way(*other) for other in _others(setup, device)]
    budget = _largest_budget(lambda tokens: way("", "", replace(setup, micro_batch_tokens=tokens)).fits, groups)
    methods = _methods(setup, shape, groups, device)
    policy, *_ = learned(setup, shape, device.kind)
    disk = _on_disk(setup, shape, reward=reward)
    return Fit(tuple(ways), methods, budget, 2 * policy.weights, disk)


def _on_disk(setup: Setup, shape: ModelShape, *, reward: ModelShape | None) -> float:
    """Bytes of the checkpoints, which hold every model that is trained and its optimiser, and of the result, which is
    the policy alone. Files are whole, also of sharded weights; of an adapted model they have the adapter alone."""
    models = learned(replace(setup, sharded=False), shape, "cpu", reward=reward)
    return CHECKPOINTS * sum(one.saved + one.optimiser for one in models) + models[0].saved


def _largest_budget(fits: Callable[[int], bool], groups: Sequence[Lengths]) -> int:
    """Halved until it fits, down to the longest group, which no budget divides; 0: not even that one fits."""
    floor = max((g.prompt_length + sum(g.completion_lengths) for g in groups), default=1)
    budget = max(LARGEST_BUDGET, floor)
    while not fits(budget):
        if budget == floor:
            return 0
        budget = max(budget // 2, floor)
    return budget


def _methods(
    setup: Setup, shape: ModelShape, groups: Sequence[Lengths], device: Device
) -> dict[str, tuple[float, float]]:
    """An online method samples as many tokens as the longest completion has, and its reward is a model of this size."""
    longest = max((max(g.completion_lengths, default=0) for g in groups), default=0)
    found = {}
    for command in METHODS:
        online: dict[str, Any] = {"num_completions": 1, "max_new_tokens": longest} if command in ONLINE else {}
        peaks = []
        for rank in (0, setup.lora_r or RANK):
            one = replace(
                setup, command=command, lora_r=rank, in_4bit=False, trunk="separate",
                reads_reference=command not in ("sft", "reward"), **online,
            )  # fmt: skip
            peaks.append(predict(one, shape, groups, device=device.kind, reward=shape).peak)
        found[command] = (peaks[0], peaks[1])
    return found


def _others(setup: Setup, device: Device) -> list[tuple[str, str, Setup]]:
    """Ways that need less, each with the options that choose it."""
    found = []
    adapter = replace(setup, lora_r=setup.lora_r or RANK)
    flag = "" if setup.lora_r else f"--lora-r {RANK}"
    if not setup.lora_r:
        found.append(("LoRA", flag, adapter))
    if setup.has_critic and setup.trunk == "separate":
        found.append(("shared trunk", "--trunk shared", replace(setup, trunk="shared")))
        found.append(("one trunk", f"{flag} --trunk one".strip(), replace(adapter, trunk="one")))
    if device.kind == "cuda" and not setup.in_4bit and setup.trunk != "one":
        found.append(("QLoRA", f"{flag} --load-in-4bit".strip(), replace(adapter, in_4bit=True)))
    if not setup.gradient_checkpointing:
        again = replace(adapter, gradient_checkpointing=True)
        found.append(("LoRA, recomputing", f"{flag} --gradient-checkpointing".strip(), again))
    if device.count > 1:
        sharded = replace(setup, processes=device.count, sharded=True)
        found.append((f"sharded over {device.count}", f"torchrun --nproc-per-node {device.count}", sharded))
    return found
