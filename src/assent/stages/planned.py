"""What the plan says of a run that is about to start, so that the run can be compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from assent.config.online import OnlineOptions
from assent.config.options import StageOptions
from assent.config.rewards import ModelSource
from assent.engine.ledger import Planned
from assent.engine.random import Batches
from assent.engine.runtime import Runtime
from assent.errors import ModelError
from assent.models.batch import TokenGroup
from assent.models.folders import resolve_folder
from assent.models.meta_shape import shape_of
from assent.models.shape import GivenLengths, Lengths, ModelShape
from assent.planning.memory import PROGRAM, predict
from assent.planning.setup import Setup
from assent.planning.time import HeldOut, calibrated, duration

NO_PLAN = "this run has no plan to be compared with"
"""Begins the note of a run whose plan failed; `plan --measure` looks for it."""
MOST_STEPS = 200
"""Updates among which the one with the most tokens is looked for."""


def planned(
    config: StageOptions,
    command: str,
    *,
    order: Batches,
    rows: Sequence[TokenGroup],
    runtime: Runtime,
    note: Callable[[str], None],
    held_out: Sequence[TokenGroup] = (),
    asked: Sequence[Sequence[int]] = (),
) -> Planned | None:
    """Memory above what the process holds before the run, and the time where this machine is calibrated. None for a
    model whose configuration does not tell its sizes, and, with a note, where the plan itself fails.

    held_out, asked   rows that are measured on while it trains, and tokens of the prompts that are answered
    """
    try:
        return _planned(config, command, order=order, rows=rows, runtime=runtime, held_out=held_out, asked=asked)
    except Exception as error:  # any error: a plan only says what to expect, and never ends a run
        note(f"{NO_PLAN}: {type(error).__name__}: {(str(error) or '-').splitlines()[0]}")
        return None


def _planned(
    config: StageOptions,
    command: str,
    *,
    order: Batches,
    rows: Sequence[TokenGroup],
    runtime: Runtime,
    held_out: Sequence[TokenGroup],
    asked: Sequence[Sequence[int]],
) -> Planned | None:
    try:
        shape = _shape_of(config.model, config.revision)
        reward = _reward_of(config)
    except ModelError:
        return None
    setup = Setup.of(
        command, config, threads=torch.get_num_threads(), processes=runtime.num_processes, sharded=runtime.is_sharded
    )
    kind = "cuda" if runtime.device.type == "cuda" else "cpu"
    steps = [
        _lengths(setup, [rows[i] for i in order.indices(step)]) for step in range(min(order.num_steps, MOST_STEPS))
    ]
    largest = max(steps, key=_tokens)
    memory = predict(setup, shape, largest, device=kind, reward=reward)
    seconds = None
    if kind == "cpu" and (rates := calibrated()) is not None:
        some = [group for step in steps for group in step]
        measured = _held_out(config, setup, held_out, asked, steps=order.num_steps)
        found = duration(setup, shape, some, rates=rates, steps=order.num_steps, reward=reward, held_out=measured)
        seconds = found.seconds
    # On CUDA tensors alone are measured, without the context and what the allocator reserves.
    highest = memory.peak if kind == "cpu" else memory.allocated - PROGRAM[kind]
    return Planned(highest, seconds, memory.peak_moment)


def _shape_of(path: str, revision: str | None = None) -> ModelShape:
    return shape_of(resolve_folder(path, revision=revision))[0]


def _reward_of(config: StageOptions) -> ModelShape | None:
    """Of the first reward that is a model."""
    if not isinstance(config, OnlineOptions):
        return None
    sources = [source for source in config.reward if isinstance(source, ModelSource)]
    return _shape_of(sources[0].reward) if sources else None


def _lengths(setup: Setup, groups: Sequence[TokenGroup]) -> list[Lengths]:
    """As they are trained: an online stage's prompts with completions of the largest length."""
    if not setup.is_online:
        return list(groups)
    number, length = setup.num_completions, setup.max_new_tokens
    return [GivenLengths(len(g.prompt_ids), (length,) * number, number * length) for g in groups]


def _held_out(
    config: StageOptions,
    setup: Setup,
    rows: Sequence[TokenGroup],
    asked: Sequence[Sequence[int]],
    *,
    steps: int,
) -> HeldOut:
    """An online stage answers held-out prompts, and reads no held-out rows."""
    length = config.eval_max_new_tokens
    return HeldOut(
        times=HeldOut.number(steps=steps, eval_steps=config.eval_steps),
        rows=() if setup.is_online else rows,
        prompts=[GivenLengths(len(ids), (length,), length) for ids in asked],
    )


def _tokens(groups: Sequence[Lengths]) -> int:
    return sum(g.prompt_length + sum(g.completion_lengths) for g in groups)
