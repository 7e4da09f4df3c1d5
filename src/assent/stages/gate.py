"""The step-0 gate (law 5): checks before the first update that the run computes what its configuration says.

The log has each check: passed, or not applicable, with the reason. A violation stops the run and names the likely
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
from assent.stages.scoring import Members
from assent.types import PromptGroup, Rollout

# The tolerances are about ten times (bfloat16: two to eight times) the largest deviation on healthy runs. These were
# measured on the CPU, with the sandbox's base model (1 M parameters) and a tiny one, on completions of 2 to 1800 tokens
# (tests/unit/stages/test_gate_tolerances.py):
#     float32    mean 8e-7     token 3e-5   sum 1.2e-6 of Σ|logp|   score 1.8e-6
#     bfloat16   mean 7e-3     token 0.12   sum 3.7e-4 of Σ|logp|   score 0.013        (autocast or weights)
# `mean`, `token`: deviation of a token's log-probability, on average and at most. A fault in the wiring shows in the
# mean over all tokens (a temperature 3% off: 3e-2 on the base model). The largest of many rounding errors grows with
# their number, so its bound is looser; it catches faults at a few tokens.
# `sum`: deviation of a completion's log-probability, as a share of Σ|logp|, because rounding grows with Σ|logp|.
# `least_sum`: deviation of a sum that is always allowed, in nats.
# `score`: deviation of a reward model's score, as a share of the score if that is above 1.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"mean": 1e-5, "token": 1e-3, "sum": 1e-5, "least_sum": 1e-4, "score": 1e-4},
    "bfloat16": {"mean": 0.03, "token": 1.0, "sum": 3e-3, "least_sum": 0.25, "score": 0.1},
}

MOST_MISMATCH = 1e-4
"""Largest mean distance of sampler and trainer, in nats per token, in float32. Ten times the gate's, because weights
grow in training."""

GROUPS, ALONE, ENOUGH = 4, 2, 64
"""Groups of the first step that are read before it, as it may be large. ALONE of them are read once more, each by
itself. Both are more until they have ENOUGH counted tokens, as the mean of few is noise."""

LEAK = "padding, packing or positions leak between rows; report this {model}'s architecture"


class Gate:
    """Collects the checks of one run. `precision` is that of the forward pass: float32 or bfloat16."""

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


def groups_to_read(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """The shortest GROUPS of the first step's groups, in their order: what the gate looks for shows in any row, and a
    long one costs many times as much."""
    return [groups[i] for i in sorted(_shortest(groups, GROUPS))]


def _shortest(groups: Sequence[TokenGroup], least: int) -> list[int]:
    """Places of the shortest groups: `least` of them, and more until they have ENOUGH counted tokens."""
    found: list[int] = []
    for index in sorted(range(len(groups)), key=lambda i: groups[i].num_tokens):
        if len(found) < least or sum(groups[i].num_counted for i in found) < ENOUGH:
            found.append(index)
    return found


def precision_of(config: DeviceOptions) -> str:
    """The row of TOLERANCES for a configuration's `dtype` and `mixed_precision`."""
    bfloat16 = config.mixed_precision == "bf16" or config.dtype == "bfloat16"
    return "bfloat16" if bfloat16 else "float32"


def check_loss_tokens(gate: Gate, groups: Sequence[TokenGroup], num_read: int) -> None:
    """The loss reads all counted tokens of the completions and no others."""
    counted = sum(completion.num_counted for group in groups for completion in group.completions)
    gate.check(
        "loss_tokens",
        float(num_read),
        expected=float(counted),
        tolerance=0.0,
        cause="the completion mask is shifted or lost",
    )


def check_positions(gate: Gate, groups: Sequence[TokenGroup]) -> None:
    """Each counted token is read at the position of its predecessor, each score at its completion's last token."""
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
        cause="the completion mask, or the place where completions begin and end, is shifted against the tokens",
    )


def check_policy(gate: Gate, learner: Learner, groups: Sequence[TokenGroup]) -> Tensor:
    """The checks of every policy that learns from given completions. Returns its log-probabilities, (N,).

    groups   those of `groups_to_read`
    """
    logprobs = learner.read(groups, want={"logprobs"}).logprobs
    assert logprobs is not None
    check_loss_tokens(gate, groups, logprobs.shape[0])
    check_positions(gate, groups)
    check_batch_mates(gate, learner, groups, want="logprobs", together=logprobs)
    return logprobs


def check_log_ratios(gate: Gate, per_token: Tensor, reference: Tensor, batch: GroupBatch) -> float:
    """Policy and reference give every completion of `batch` the same log-probability, so margins are zero.

    per_token (N,): the policy's; reference (S,): the reference's sums. Returns the tolerance of a sum, in nats.
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
    """Two log-probabilities of each token agree. `name` checks their mean distance, `name`_max the largest one.

    log_ratios (N,): their differences.
    """
    distances = log_ratios.abs()
    gate.check(name, float(distances.mean()), expected=0.0, tolerance=gate.tolerances["mean"], cause=cause)
    gate.check(f"{name}_max", float(distances.max()), expected=0.0, tolerance=gate.tolerances["token"], cause=cause)


def check_ratio(gate: Gate, logprobs: Tensor, rollouts: Sequence[Rollout]) -> None:
    """The trainer gives sampled tokens the log-probabilities (N,) that the sampler gave them."""
    check_tokens(
        gate,
        "ratio",
        logprobs - torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs]),
        cause="sampler and trainer disagree: temperature, dropout, positions, or the sampler has other weights",
    )


def sampler_mismatch(learner: Learner, groups: Sequence[TokenGroup], *, config: StageOptions, step: int) -> float:
    """The largest distance in nats between a token's log-probability under the trainer and under the sampler. `groups`
    hold the sampler's as `old_logprobs`. The learner must have the weights that it had when they were sampled.

    RunError if the distance is more than rounding: in float32, if its mean over these tokens is above `MOST_MISMATCH`
    and no importance weights correct for it. The bound is on the mean because at a single token a router that is nearly
    undecided may choose another expert. Healthy runs of the sandbox stay below 3e-5 at every token, even if their
    gradients explode (benchmarks/rlhf.py). In bfloat16, rounding can be as large as the effect of other weights.
    """
    read = learner.read(groups, want={"logprobs"}).logprobs
    assert read is not None
    sampled = np.concatenate([array for group in groups for array in group.token["old_logprobs"]])
    distances = (read - torch.from_numpy(sampled)).abs()
    largest, mean = float(distances.max()), float(distances.mean())
    exact = precision_of(config) == "float32" and config.importance_sampling_cap is None
    if exact and not mean <= MOST_MISMATCH:
        raise RunError(
            f"round {step + 1}: sampler and trainer disagree on the tokens that were just sampled",
            got=f"a mean of {mean:.3g} nats per token, and {largest:.3g} at most",
            expected=f"a mean of at most {MOST_MISMATCH:g}, which is rounding in float32",
            fix="the sampler has other weights than the trainer, or computes differently: use --sampler torch, or "
            "--importance-sampling-cap if the command has it; and report this model's architecture",
        )
    return largest


def check_reward_batch_mates(
    gate: Gate, reward: Reward, rollouts: Sequence[Rollout], prompts: Sequence[PromptGroup], *, dtype: str
) -> None:
    """A reward model gives a completion the same score alone and among others. `dtype`: of its weights."""
    name = "score_alone_or_together"
    some = [rollout for rollout in rollouts if rollout.prompt_index < 4]
    if not judges_alone(reward):
        gate.skip(name, reason="the reward is a function or a server, which may look at the whole round")
        return
    if len(some) < 2:
        gate.skip(name, reason="the first round has a single completion")
        return
    scores = score_rollouts(reward, some, prompts)
    # texts that are too long are cut together with their prompt's other completions, so these are no strangers to them
    are_cut = any(figure.endswith("texts_shortened") for figure in scores.statistics)
    parts = [[i for i, r in enumerate(some) if (r.prompt_index if are_cut else i) == n] for n in range(len(some))]
    together, alone = torch.tensor(scores), torch.zeros(len(some))
    for part in filter(None, parts):
        alone[part] = torch.tensor(score_rollouts(reward, [some[i] for i in part], prompts))
    cause = LEAK.format(model="reward model")
    _check_scores(gate, name, together, alone, tolerance=TOLERANCES[dtype]["score"], cause=cause)


def _check_scores(gate: Gate, name: str, together: Tensor, alone: Tensor, *, tolerance: float, cause: str) -> None:
    """Scores agree. `tolerance` is a share of the largest score if that is above 1."""
    gate.check(
        name,
        float((together - alone).abs().max()),
        expected=0.0,
        tolerance=tolerance * max(1.0, float(alone.abs().max())),
        cause=cause,
    )


def check_batch_mates(
    gate: Gate, learner: Learner | Members, groups: Sequence[TokenGroup], *, want: str, together: Tensor
) -> None:
    """A completion has the same log-probabilities or score alone and among others. The shortest are read again.

    together   what one reading of `groups` gave, in their order
    """
    name = "score_alone_or_together" if want == "scores" else "logprobs_alone_or_together"
    if len(groups) < 2:
        gate.skip(name, reason="the first batch has a single group")
        return
    again = _shortest(groups, ALONE)
    sizes = [len(group.completions) if want == "scores" else group.num_counted for group in groups]
    pieces = together.split(sizes)
    together = torch.cat([pieces[i] for i in again])
    alone = torch.cat([getattr(learner.read([groups[i]], want={want}), want) for i in again])
    cause = LEAK.format(model="model")
    if want == "logprobs":
        return check_tokens(gate, name, together - alone, cause=cause)
    _check_scores(gate, name, together, alone, tolerance=gate.tolerances["score"], cause=cause)
