"""The step-0 gate (law 5): what must hold before the first update, if the run is wired as it says.

Each check is logged, as passed or as not applicable with the reason. A violation stops the run and names the likely
cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from assent.config.options import DeviceOptions, StageOptions
from assent.engine.learner import Learner
from assent.errors import GateError, RunError
from assent.models.batch import GroupBatch, TokenGroup
from assent.models.packing import pack
from assent.rewards.base import Reward, score_rollouts
from assent.rewards.loading import judges_alone
from assent.runs.log import RunLog
from assent.stages.members import Members
from assent.types import PromptGroup, Rollout

# About ten times, for bfloat16 twice to eight times, the largest deviation seen on healthy runs: those of the sandbox's
# base model (1 M parameters) and of a tiny one, 2 to 1800 tokens, CPU (tests/unit/stages/test_gate_tolerances.py):
#     float32    mean 8e-7     token 3e-5   sum 1.2e-6 of Σ|logp|   score 1.8e-6
#     bfloat16   mean 7e-3     token 0.12   sum 3.7e-4 of Σ|logp|   score 0.013        (autocast or weights)
# `mean`, `token`: of a token's log-probability, on the average and at most. What is wired wrongly shows in the mean of
# all tokens (a temperature 3% off: 3e-2 on the base model); the largest of many rounding errors grows with their number
# and is held to a looser bound, for what goes wrong at few tokens alone.
# `sum`: of a completion's log-probability, as a share of Σ|logp|, for rounding grows with it;
# `least_sum`: what a sum may differ by in any case, in nats; `score`: of a reward model's score,
# as a share of it where it is above 1.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"mean": 1e-5, "token": 1e-3, "sum": 1e-5, "least_sum": 1e-4, "score": 1e-4},
    "bfloat16": {"mean": 0.03, "token": 1.0, "sum": 3e-3, "least_sum": 0.25, "score": 0.1},
}

MOST_MISMATCH = 1e-4
"""Nats a token between sampler and trainer, in float32, in the mean: ten times the gate's, for weights grow."""

LEAK = "padding, packing or positions leak between rows; report this {model}'s architecture"


class Gate:
    """Collects the checks of one run. `precision` is the arithmetic of the forward pass: float32 or bfloat16."""

    def __init__(self, log: RunLog, *, precision: str) -> None:
        self.log = log
        self.tolerances = TOLERANCES[precision]
        self.num_passed = 0

    def check(self, name: str, value: float, *, expected: float, tolerance: float, cause: str) -> None:
        """Raises GateError unless |value − expected| ≤ tolerance (a NaN never passes)."""
        deviation = abs(value - expected)
        self.log.metrics(0, {f"gate/{name}": deviation})
        if not deviation <= tolerance:
            raise GateError(
                f"step-0 check failed: {name}",
                got=f"{value:.6g}",
                expected=f"{expected:.6g} ± {tolerance:g}, before any update",
                fix=f"likely cause: {cause}",
            )
        self.num_passed += 1

    def skip(self, name: str, *, reason: str) -> None:
        self.log.note(f"step-0 check {name}: does not apply, {reason}")

    def done(self) -> None:
        self.log.note(f"step-0 gate: {self.num_passed} checks passed")


def precision_of(config: DeviceOptions) -> str:
    """The gate's row for a configuration with `dtype` and `mixed_precision`."""
    bfloat16 = config.mixed_precision == "bf16" or config.dtype == "bfloat16"
    return "bfloat16" if bfloat16 else "float32"


def check_loss_tokens(gate: Gate, groups: Sequence[TokenGroup], num_read: int) -> None:
    """The loss reads the completions' counted tokens, all of them and nothing else."""
    counted = sum(completion.num_counted for group in groups for completion in group.completions)
    gate.check(
        "loss_tokens",
        float(num_read),
        expected=float(counted),
        tolerance=0.0,
        cause="the completion mask is shifted or lost",
    )


def check_positions(gate: Gate, groups: Sequence[TokenGroup]) -> None:
    """Each counted token is read where its predecessor stands, each score at its completion's last token."""
    batch = pack(groups, device="cpu")
    tokens, ends = [], []
    for group in groups:
        for completion in group.completions:
            row, start = group.prompt_ids + completion.ids, len(group.prompt_ids)
            mask = completion.mask or (True,) * len(completion.ids)
            tokens += [(t - 1, row[t - 1], row[t]) for t, counts in enumerate(mask, start) if counts]
            ends.append((len(row) - 1, row[-1]))
    ids, positions = batch.input_ids, batch.position_ids
    read = (positions[batch.read_at].tolist(), ids[batch.read_at].tolist(), batch.targets.tolist())
    scored = (positions[batch.last_at].tolist(), ids[batch.last_at].tolist())
    misread = sum(a != b for a, b in zip_longest(tokens, zip(*read, strict=True)))
    misread += sum(a != b for a, b in zip_longest(ends, zip(*scored, strict=True)))
    gate.check(
        "positions",
        float(misread),
        expected=0.0,
        tolerance=0.0,
        cause="the completion mask, or where completions begin and end, is shifted against the tokens",
    )


def check_policy(gate: Gate, learner: Learner, groups: Sequence[TokenGroup]) -> Tensor:
    """What holds of every policy that learns from given completions. Returns its log-probabilities, (N,)."""
    logprobs = learner.read(groups, want={"logprobs"}).logprobs
    assert logprobs is not None
    check_loss_tokens(gate, groups, logprobs.shape[0])
    check_positions(gate, groups)
    check_batch_mates(gate, learner, groups, want="logprobs")
    return logprobs


def check_log_ratios(gate: Gate, per_token: Tensor, reference: Tensor, batch: GroupBatch) -> float:
    """Policy and reference give every completion of `batch` the same log-probability: margins are zero.

    per_token (N,) under the policy, reference (S,) sums. Returns the tolerance of a sum, in nats.
    """
    deviations = (batch.sum_by_completion(per_token) - reference).abs()
    sizes = batch.sum_by_completion(per_token.abs())
    tolerance = gate.tolerances["least_sum"] + gate.tolerances["sum"] * float(sizes.max())
    gate.check(
        "log_ratios",
        float(deviations.max()),
        expected=0.0,
        tolerance=tolerance,
        cause="policy and reference differ at the start: another checkpoint, dropout, or a stale reference cache",
    )
    return tolerance


def check_tokens(gate: Gate, name: str, log_ratios: Tensor, *, cause: str) -> None:
    """Log-probabilities (N,) of tokens that should be alike: `name` is their mean distance, `name`_max the largest."""
    distances = log_ratios.abs()
    gate.check(name, float(distances.mean()), expected=0.0, tolerance=gate.tolerances["mean"], cause=cause)
    gate.check(f"{name}_max", float(distances.max()), expected=0.0, tolerance=gate.tolerances["token"], cause=cause)


def sampler_mismatch(learner: Learner, groups: Sequence[TokenGroup], *, config: StageOptions, step: int) -> float:
    """Largest distance in nats of a token's log-probability under the trainer from the sampler's, which `groups` carry
    as `old_logprobs`. The learner is as it was when they were sampled.

    RunError where it is more than rounding: in float32, where the mean over these tokens is above `MOST_MISMATCH`,
    unless importance weights make up for it. Not one token's: a router that is all but undecided may choose another
    expert. Healthy runs of the sandbox stay below 3e-5 at the largest, those whose gradients explode among them
    (benchmarks/rlhf.py); in bfloat16 rounding alone may differ by as much as other weights would.
    """
    read = learner.read(groups, want={"logprobs"}).logprobs
    assert read is not None
    sampled = np.concatenate([array for group in groups for array in group.token["old_logprobs"]])
    distances = (read - torch.from_numpy(sampled)).abs()
    found, mean = float(distances.max()), float(distances.mean())
    exact = precision_of(config) == "float32" and config.importance_sampling_cap is None
    if exact and not mean <= MOST_MISMATCH:
        raise RunError(
            f"round {step + 1}: sampler and trainer disagree on what was just sampled",
            got=f"{mean:.3g} nats a token in the mean, {found:.3g} at most",
            expected=f"a mean of at most {MOST_MISMATCH:g}, rounding in float32",
            fix="the sampler holds other weights than the trainer, or computes differently: use --sampler torch, or "
            "--importance-sampling-cap where the command has it; and report this model's architecture",
        )
    return found


def check_reward_batch_mates(
    gate: Gate, reward: Reward, rollouts: Sequence[Rollout], prompts: Sequence[PromptGroup], *, dtype: str
) -> None:
    """A reward model gives a completion the score alone that it has among others. `dtype` is that of its weights."""
    name = "score_alone_or_together"
    some = [rollout for rollout in rollouts if rollout.prompt_index < 4]
    if not judges_alone(reward):
        gate.skip(name, reason="the reward is a function or a server, which may look at the whole round")
        return
    if len(some) < 2:
        gate.skip(name, reason="the first round holds a single completion")
        return
    together = torch.tensor(score_rollouts(reward, some, prompts))
    alone = torch.tensor([score_rollouts(reward, [rollout], prompts)[0] for rollout in some])
    cause = LEAK.format(model="reward model")
    _check_scores(gate, name, together, alone, tolerance=TOLERANCES[dtype]["score"], cause=cause)


def _check_scores(gate: Gate, name: str, together: Tensor, alone: Tensor, *, tolerance: float, cause: str) -> None:
    """`tolerance` is a share of the largest score where that is above 1."""
    gate.check(
        name,
        float((together - alone).abs().max()),
        expected=0.0,
        tolerance=tolerance * max(1.0, float(alone.abs().max())),
        cause=cause,
    )


def check_batch_mates(gate: Gate, learner: Learner | Members, groups: Sequence[TokenGroup], *, want: str) -> None:
    """A completion's log-probability or score is the same alone as among others."""
    name = "score_alone_or_together" if want == "scores" else "logprobs_alone_or_together"
    groups = list(groups)[:4]
    if len(groups) < 2:
        gate.skip(name, reason="the first batch holds a single group")
        return
    together = getattr(learner.read(groups, want={want}), want)
    alone = torch.cat([getattr(learner.read([group], want={want}), want) for group in groups])
    cause = LEAK.format(model="model")
    if want == "logprobs":
        return check_tokens(gate, name, together - alone, cause=cause)
    _check_scores(gate, name, together, alone, tolerance=gate.tolerances["score"], cause=cause)
