"""assent plan --calibrate: how fast this machine's CPU trains, reads and samples, from small random models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import LlamaConfig, LlamaForCausalLM

from assent.config.stages import SftConfig
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.adapters import Base, add_adapter
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.module import AlignmentModel
from assent.models.shape import ModelShape
from assent.planning.memory import Learned
from assent.planning.setup import Setup
from assent.planning.time import Work, keep_calibration, one_read, one_round, one_update
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.environment import versions
from assent.stages.run_models import module_of
from assent.stages.sft import SftObjective

SHAPES = ({"layers": 2, "width": 128, "vocab_size": 1024}, {"layers": 4, "width": 384, "vocab_size": 4096})
LENGTHS = ((8, 64), (4, 256), (1, 1024))
"""Rows of an update, and tokens of each one's completion."""
ROUNDS = ((32, 16), (8, 32))
"""Completions of a round, and tokens of each."""
SECONDS = 50.0
"""After which nothing new is measured."""


@dataclass(frozen=True, slots=True)
class Timed:
    kind: str
    work: Work
    seconds: float


def calibrate() -> tuple[dict[str, Any], list[str]]:
    """Measures, stores, and says what was found. The machine should have nothing else to do."""
    started = time.perf_counter()
    timed: list[Timed] = []
    starts: list[float] = []
    for shape in SHAPES:
        before = time.perf_counter()
        learner, planned = _learner(shape, lora_r=0)
        starts.append(time.perf_counter() - before)
        timed += _trained(learner, planned, started)
        timed += _sampled(learner, planned, started)
        timed += _trained(*_learner(shape, lora_r=8), started)
    found: dict[str, Any] = {kind: _fitted(timed, kind) for kind in ("training", "reading", "sampling")}
    found |= {
        "start": min(starts),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "threads": torch.get_num_threads(),
        "torch": versions()["torch"],
        "points": [{"kind": one.kind, "work": list(one.work), "seconds": one.seconds} for one in timed],
        "residual": _residual(timed, found),
    }
    path = keep_calibration(found)
    lines = [
        f"measured {len(timed)} kinds of work in {time.perf_counter() - started:.0f} s, "
        f"with {found['threads']} threads: {path}",
        f"  training reaches {1e-9 / max(found['training'][0], 1e-15):.1f} GFLOP/s in its products",
        f"  the formula is within {found['residual']:.0%} of each measurement",
    ]
    return {**found, "path": str(path)}, lines


def _learner(sizes: dict[str, int], *, lora_r: int) -> tuple[Learner, Learned]:
    width, layers = sizes["width"], sizes["layers"]
    config = LlamaConfig(
        vocab_size=sizes["vocab_size"], hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=2048,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    options = SftConfig(model="-", data="-", output_dir="-", device="cpu", lora_r=lora_r)
    model: Any = LlamaForCausalLM(config).eval()
    if lora_r:
        model = add_adapter(model, options, base=Base("-"), seed=0)
    learner = Learner(AlignmentModel(model, kind="policy"), runtime=Runtime("cpu"), optim=options, total_steps=99)
    shape = ModelShape.of(config.to_dict())
    setup = Setup.of("sft", options, threads=torch.get_num_threads())
    return learner, Learned(setup, shape, "cpu", scorer=False)


def _trained(learner: Learner, planned: Learned, started: float) -> list[Timed]:
    found = []
    for rows, length in LENGTHS:
        if time.perf_counter() - started > SECONDS:
            break
        groups = _groups(rows, length, vocabulary=planned.shape.sizes.vocab_size)
        update, read = partial(learner.update, groups, SftObjective()), partial(learner.read, groups, want={"logprobs"})
        found.append(Timed("training", one_update(planned, groups), _best(update)))
        found.append(Timed("reading", one_read(planned, groups), _best(read)))
    return found


def _sampled(learner: Learner, planned: Learned, started: float) -> list[Timed]:
    sampler = TorchSampler(module_of(learner).hf, _NoText(), eos_ids=())
    sampler.load({}, "0")
    found = []
    for rows, length in ROUNDS:
        if time.perf_counter() - started > SECONDS:
            break
        groups = _groups(rows, length, vocabulary=planned.shape.sizes.vocab_size)
        params = SamplingParams(max_new_tokens=length)
        prompts = [group.prompt_ids for group in groups]
        draw = partial(sampler.sample, prompts, num_completions=1, params=params, seed=SeedKey(0, "calibration", 0))
        found.append(Timed("sampling", one_round(planned, groups), _best(draw)))
    return found


class _NoText:
    """Nobody reads what is sampled here."""

    def batch_decode(self, ids: Sequence[Any], **_: Any) -> list[str]:
        return [""] * len(ids)


def _groups(rows: int, length: int, *, vocabulary: int) -> list[TokenGroup]:
    """Each row has a completion of `length` tokens, after a prompt of half as many."""
    ids = np.random.default_rng(0).integers(5, vocabulary, (rows, 2, length))
    return [TokenGroup(tuple(a[: length // 2].tolist()), (TokenCompletion(tuple(b.tolist())),)) for a, b in ids]


def _best(work: Callable[[], Any], *, repeats: int = 3) -> float:
    """Seconds of the fastest of a few, after one that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        before = time.perf_counter()
        work()
        taken.append(time.perf_counter() - before)
    return min(taken)


def _fitted(timed: Sequence[Timed], kind: str) -> list[float]:
    """Seconds for each count, none negative, with which the relative errors are least."""
    own = [one for one in timed if one.kind == kind]
    rows = np.array([[count / one.seconds for count in one.work] for one in own])
    scale = np.abs(rows).max(0)
    scale[scale == 0] = 1.0
    found, _ = nnls(rows / scale, np.ones(len(own)))
    return [float(x) for x in found / scale]


def _residual(timed: Sequence[Timed], found: dict[str, Any]) -> float:
    """The largest relative error."""
    planned = [sum(a * b for a, b in zip(found[one.kind], one.work, strict=True)) for one in timed]
    return max(abs(guess / one.seconds - 1) for guess, one in zip(planned, timed, strict=True))
