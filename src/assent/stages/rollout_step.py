"""One round of RLHF between sampling and training: scores, reference, values, rewards, advantages.

Legend: S completions of the round, L tokens of the longest, N tokens of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from assent.config.stages import PpoConfig
from assent.engine.learner import Learner
from assent.engine.references import Reader
from assent.models.batch import TokenCompletion, TokenGroup
from assent.objectives.advantages import gae, token_rewards, whiten
from assent.objectives.kl import kl
from assent.objectives.reduce import as_rows
from assent.types import Rollout


@dataclass(frozen=True, slots=True)
class Round:
    """`groups` carry, per token, what the objectives read: old_logprobs, advantages, old_values, returns."""

    groups: list[TokenGroup]
    metrics: dict[str, float]
    kl_nats: float
    """Mean KL to the reference in nats per completion (k1): what the adaptive controller steers."""


def to_groups(rollouts: Sequence[Rollout], num_completions: int) -> list[TokenGroup]:
    """Prompt-major rollouts as groups of `num_completions`, with the sampler's log-probabilities as `old_logprobs`."""
    groups = []
    for start in range(0, len(rollouts), num_completions):
        mates = rollouts[start : start + num_completions]
        groups.append(
            TokenGroup(
                prompt_ids=mates[0].prompt_ids,
                completions=tuple(TokenCompletion(ids=rollout.ids) for rollout in mates),
                token={"old_logprobs": [np.asarray(rollout.logprobs, dtype=np.float32) for rollout in mates]},
                source=f"prompt {mates[0].prompt_index}",
            )
        )
    return groups


def build_round(
    config: PpoConfig,
    rollouts: Sequence[Rollout],
    scores: Sequence[float],
    *,
    reference: Reader,
    critic: Learner,
    kl_coef: float,
) -> Round:
    """Scores, KL, values and advantages of one round. `scores` are the reward's, one for each rollout, in order."""
    groups = to_groups(rollouts, config.num_completions)
    old = torch.from_numpy(np.concatenate([array for group in groups for array in group.token["old_logprobs"]]))
    lengths = torch.tensor([len(rollout.ids) for rollout in rollouts])
    sequence = torch.repeat_interleave(torch.arange(len(rollouts)), lengths)
    under_reference = reference.read(groups, want={"logprobs"}).logprobs
    old_values = critic.read(groups, want={"values"}).values
    assert under_reference is not None
    assert old_values is not None

    ended = torch.tensor([rollout.finish_reason == "stop" for rollout in rollouts])
    raw = torch.tensor(scores, dtype=torch.float32)
    penalised = raw - config.missing_eos_penalty * (~ended).float()
    divergence = kl("k1", old, under_reference)  # of the policy that sampled, from its own samples
    rows, mask = as_rows(divergence, sequence, len(rollouts))
    rewards = token_rewards(rows, penalised, mask, kl_coef=kl_coef)
    values, _ = as_rows(old_values, sequence, len(rollouts))
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, mean=True, std=True)

    per_completion = rows.sum(1)
    k3, _ = as_rows(kl("k3", old, under_reference), sequence, len(rollouts))
    error = (returns - values)[mask]
    metrics = {
        "objective/kl": float(per_completion.mean()),
        "objective/kl_k3": float(k3.sum(1).mean()),
        "objective/entropy": float(-old.sum() / len(rollouts)),
        "objective/non_score_reward": float(-kl_coef * per_completion.mean()),
        "objective/rlhf_reward": float((penalised - kl_coef * per_completion).mean()),
        "objective/scores": float(raw.mean()),
        "objective/scores_std": float(raw.std(correction=0)),
        "objective/kl_coef": kl_coef,
        "val/num_eos_tokens": float(ended.sum()),
        "val/explained_variance": float(1 - error.var(correction=0) / returns[mask].var(correction=0).clamp(min=1e-8)),
        "rollout/completion_length": float(lengths.float().mean()),
        "rollout/eos_rate": float(ended.float().mean()),
    }
    fields = {"advantages": advantages[mask], "returns": returns[mask], "old_values": old_values}
    return Round(_with_token_fields(groups, fields, lengths), metrics, float(per_completion.mean()))


def _with_token_fields(groups: Sequence[TokenGroup], fields: dict[str, Tensor], lengths: Tensor) -> list[TokenGroup]:
    """Groups with the flat (N,) fields added, cut at the completions' lengths."""
    pieces = {name: [piece.numpy() for piece in flat.split(lengths.tolist())] for name, flat in fields.items()}
    result, start = [], 0
    for group in groups:
        end = start + len(group.completions)
        token = {**group.token, **{name: arrays[start:end] for name, arrays in pieces.items()}}
        result.append(replace(group, token=token))
        start = end
    return result
