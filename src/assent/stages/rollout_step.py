"""One round of RLHF between sampling and training: scores, reference, values, rewards, advantages.

Legend: S completions of the round, L tokens of the longest one, N tokens of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from assent.config.algorithms import implementation
from assent.config.online import CriticOptions, OnlineOptions
from assent.engine.learner import Learner
from assent.engine.references import Reader
from assent.errors import NonFiniteError, RunError
from assent.models.batch import Outputs, TokenGroup
from assent.objectives.advantages import (
    ADVANTAGES,
    Episodes,
    Moments,
    at_the_end,
    shaped_rewards,
    token_rewards,
    whiten,
)
from assent.objectives.kl import kl
from assent.objectives.reduce import as_rows
from assent.stages.scored import in_the_loss, left_out, scored_of
from assent.types import PromptGroup, Rollout

LARGEST_REWARD = 1e15
"""A million squares of this size sum to less than float32's largest number, 3e38."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round that is ready for training. `groups` hold, for each token, the numbers that objectives read: old_logprobs
    and advantages; old_values and returns with a critic; reference_logprobs if the KL penalty is part of the loss;
    importance with an importance-sampling cap."""

    groups: list[TokenGroup]
    metrics: dict[str, float]
    kl_nats: float
    """Mean KL to the reference in nats per completion (k1). The adaptive controller steers it."""
    score_moments: list[float]
    """Count, sum and sum of squares of the scores so far, for the next round's scaling."""


def build_round(
    config: OnlineOptions,
    rollouts: Sequence[Rollout],
    scores: Sequence[float],
    *,
    reference: Reader,
    critic: Learner | None,
    potential: Reader | None = None,
    trainer: Reader | None = None,
    kl_coef: float,
    score_moments: Sequence[float] = (0.0, 0.0, 0.0),
    step_ends: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[PromptGroup] = (),
) -> Round:
    """Computes KL, values, rewards and advantages of one round. `scores`: the reward's, one for each rollout, in order;
    a rollout without a score is left out of all of it.

    trainer         the policy that is trained, if the sampler may compute differently; its log-probabilities then serve
                    as the old policy's, and each token gets a truncated importance weight
    score_moments   count, sum and sum of squares of the scores of earlier rounds
    step_ends       for each rollout, the last token of each step; `scores.steps` has the steps' rewards
    prompts         the round's prompts, see `to_groups`
    Every process builds the whole round, so means and whitening are over all processes.
    """
    metrics, num_sampled = _sample_metrics(rollouts), len(rollouts)
    scored = scored_of(config, rollouts, scores, step_ends=step_ends, prompts=prompts)
    groups, rollouts, sizes = scored.groups, scored.rollouts, scored.sizes
    old = torch.from_numpy(np.concatenate([array for group in groups for array in group.token["old_logprobs"]]))
    lengths = torch.tensor([len(rollout.ids) for rollout in rollouts])
    sequence = torch.repeat_interleave(torch.arange(len(rollouts)), lengths)
    importance = {} if trainer is None else _importance(config, trainer, groups, old)
    old = importance.get("old_logprobs", old)
    under_reference = reference.read(groups, want={"logprobs"}).logprobs
    assert under_reference is not None
    ended = torch.tensor([rollout.finish_reason == "stop" for rollout in rollouts])
    raw = _of_reward(scored.scores, rollouts)
    penalised = raw - config.missing_eos_penalty * (~ended).float()
    in_reward = config.kl_penalty == "reward"
    coef_in_reward = kl_coef if in_reward else 0.0
    # KL of the policy that sampled, estimated on its own samples
    kl_rows = {name: as_rows(kl(name, old, under_reference), sequence, len(rollouts))[0] for name in KL_METRICS}
    _, mask = as_rows(old, sequence, len(rollouts))
    fields = importance if in_reward else {**importance, "reference_logprobs": under_reference}
    steps, at_ends = _of_steps(scored.steps, scored.step_ends, mask)
    earned, mean_earned, moments = _earned(config, penalised, steps, mask, ended, score_moments)
    values = last_values = None
    if critic is not None:
        read = critic.read(groups, want={"values", "last_values"})
        assert read.values is not None
        assert read.last_values is not None
        fields["old_values"] = read.values
        values, _ = as_rows(read.values, sequence, len(rollouts))
        if config.bootstrap_truncated:
            last_values = torch.where(ended, 0.0, read.last_values)
    rewards = token_rewards(kl_rows["k1"], earned, mask, kl_coef=coef_in_reward)
    if potential is not None:
        read = potential.read(groups, want={"values", "last_values"})
        rewards = _shaped(config, rewards, mask, read, ended, sequence)
    episodes = Episodes(
        rewards=rewards, mask=mask, prompt=scored.prompt, values=values, last_values=last_values, step_ends=at_ends
    )
    advantages, returns = _advantages(config, episodes)
    fields["advantages"] = advantages[mask]
    metrics |= _kl_metrics(kl_rows, sizes) | _score_metrics(config, raw, sizes)
    if "importance" in importance:
        metrics["rollout/importance_mean"] = float(importance["importance"].mean())
    if values is not None and returns is not None:
        fields["returns"] = returns[mask]
        error = (returns - values)[mask].var(correction=0)
        metrics["val/explained_variance"] = float(1 - error / returns[mask].var(correction=0).clamp(min=1e-8))
    nats = metrics["objective/kl"]
    metrics |= {
        "objective/entropy": float(-old.sum() / len(rollouts)),
        "objective/non_score_reward": 0.0 - coef_in_reward * nats,
        "objective/rlhf_reward": mean_earned - coef_in_reward * nats,
        "objective/kl_coef": kl_coef,
    }
    trained = in_the_loss(config, _with_token_fields(groups, fields, lengths), ended)
    metrics |= left_out(num_sampled, trained)
    return Round(trained, metrics, nats, moments)


def _of_reward(scores: Sequence[float], rollouts: Sequence[Rollout]) -> Tensor:
    """The scores as (S,) float32. NonFiniteError, with the completion, for a score whose square is not finite."""
    raw = torch.tensor(scores, dtype=torch.float32)
    if raw.abs().max() > LARGEST_REWARD:
        at = int(raw.abs().argmax())
        raise NonFiniteError(
            "a reward is too large: normalisation and critic square it, and the squares are beyond float32",
            got=f"{float(raw[at]):.3g} for {rollouts[at].text!r}",
            expected=f"at most {LARGEST_REWARD:.0e}",
            fix="divide the rewards by a constant",
        )
    return raw


def _advantages(config: OnlineOptions, episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """(S, L) advantages, and (S, L) targets of the critic, if there is one. RunError if they have another shape or are
    not finite."""
    triple = config.triple
    advantages, returns = implementation(ADVANTAGES, triple.advantage)(episodes, **config.options_of(triple.parts[0]))
    given = {"advantages": advantages} | ({"returns (the critic's targets)": returns} if triple.value else {})
    for what, found in given.items():
        if not isinstance(found, Tensor) or found.shape != episodes.mask.shape:
            raise RunError(
                f"algorithm {triple.name} did not return {what} for each token of each completion",
                got=tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__,
                expected=f"a tensor of {tuple(episodes.mask.shape)}",
                fix="look at the algorithm's advantage function",
            )
        if not bool(found[episodes.mask].isfinite().all()):
            raise NonFiniteError(
                f"algorithm {triple.name} returned {what} that are not finite",
                got=f"NaN or infinity, from rewards of up to {float(episodes.rewards.abs().max()):.3g} per token",
                expected="finite numbers",
                fix="look at the rewards and at objective/kl; with your own algorithm, look at its advantage function",
            )
    return advantages, returns


def _importance(
    config: OnlineOptions, trainer: Reader, groups: Sequence[TokenGroup], sampled: Tensor
) -> dict[str, Tensor]:
    """The trainer's log-probabilities (N,), and the weights min(pi_trainer / pi_sampler, cap) (Ionides 2008)."""
    read = trainer.read(groups, want={"logprobs"}).logprobs
    assert read is not None
    assert config.importance_sampling_cap is not None
    return {"old_logprobs": read, "importance": (read - sampled).exp().clamp(max=config.importance_sampling_cap)}


def _shaped(
    config: OnlineOptions, rewards: Tensor, mask: Tensor, read: Outputs, ended: Tensor, sequence: Tensor
) -> Tensor:
    """(S, L) rewards plus the rise of the potential. The potential is zero at an episode's end, but not at a cut."""
    assert isinstance(config, CriticOptions)
    assert read.values is not None
    assert read.last_values is not None
    potentials, _ = as_rows(read.values, sequence, len(rewards))
    last = torch.where(ended, 0.0, read.last_values) if config.bootstrap_truncated else None
    return shaped_rewards(rewards, potentials, mask, gamma=config.gamma, last_potentials=last)


def _of_steps(
    steps: Sequence[Sequence[float]] | None, step_ends: Sequence[Sequence[int]] | None, mask: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(S, L) rewards of steps, at the tokens that end them, otherwise zero; and a mask of these tokens. A completion
    that has only other rewards is one step."""
    placed = torch.zeros(mask.shape)
    if steps is None or step_ends is None:
        return placed, None
    ends = torch.zeros_like(mask)
    for i, (numbers, at) in enumerate(zip(steps, step_ends, strict=True)):
        if not numbers:
            ends[i, int(mask[i].sum()) - 1] = True
            continue
        for number, t in zip(numbers, at, strict=True):
            placed[i, t] += number
            ends[i, t] = True
    return placed, ends


def _earned(
    config: OnlineOptions, scores: Tensor, steps: Tensor, mask: Tensor, ended: Tensor, before: Sequence[float]
) -> tuple[Tensor, float, list[float]]:
    """(S, L) the reward at each token: steps (S, L) at their ends, the rest of scores (S,) at the last token; with
    `scale_scores`, divided by the scores' running standard deviation. Returns also the mean over completions, cut ones
    included, and the moments to keep."""
    earned = steps + at_the_end(scores - steps.sum(1), mask)
    kept = list(before)
    if config.applies("scale_scores") and config.scale_scores:
        everything = torch.ones_like(scores, dtype=torch.bool)
        moments = Moments(*(torch.tensor(x, dtype=torch.float64) for x in before)) + Moments.of(scores, everything)
        kept = [float(x) for x in (moments.count, moments.total, moments.squares)]
        earned = whiten(earned, mask, mean=False, std=True, moments=moments)
    mean = float(earned.sum(1).mean())
    if config.bootstrap_truncated:  # a cut completion's worth is unknown: the critic estimates it
        earned = torch.where(at_the_end((~ended).float(), mask).bool(), 0.0, earned)
    return earned, mean, kept


KL_METRICS = {"k1": "objective/kl", "k2": "objective/kl_k2", "k3": "objective/kl_k3"}


def _kl_metrics(kl_rows: Mapping[str, Tensor], sizes: Sequence[int]) -> dict[str, float]:
    """Each estimator's mean over completions, and its standard error if there are at least two prompts.

    Prompts are independent, but completions of one prompt are not. So the error is that of the mean of prompts' means.
    sizes   the number of completions of each prompt
    """
    metrics: dict[str, float] = {}
    for name, rows in kl_rows.items():
        sums = rows.sum(1)
        by_prompt = torch.stack([own.mean() for own in sums.split(list(sizes))])
        label = KL_METRICS[name]
        metrics[label] = float(by_prompt.mean() if len(set(sizes)) == 1 else sums.mean())
        if len(by_prompt) > 1:
            metrics[f"{label}_se"] = float(by_prompt.std() / len(by_prompt) ** 0.5)
    return metrics


def _score_metrics(config: OnlineOptions, raw: Tensor, sizes: Sequence[int]) -> dict[str, float]:
    metrics = {"objective/scores": float(raw.mean()), "objective/scores_std": float(raw.std(correction=0))}
    if config.triple.needs_mates:
        alike = [bool((own == own[0]).all()) for own in raw.split(list(sizes))]
        metrics["frac_reward_zero_std"] = float(torch.tensor(alike).float().mean())
    return metrics


def _sample_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Figures of all that was sampled, scored or not."""
    ended = torch.tensor([rollout.finish_reason == "stop" for rollout in rollouts])
    return {
        "val/num_eos_tokens": float(ended.sum()),
        "rollout/completion_length": float(torch.tensor([len(rollout.ids) for rollout in rollouts]).float().mean()),
        "rollout/eos_rate": float(ended.float().mean()),
    }


def _with_token_fields(groups: Sequence[TokenGroup], fields: dict[str, Tensor], lengths: Tensor) -> list[TokenGroup]:
    """Adds flat (N,) fields to the groups, cut at the completions' lengths."""
    pieces = {name: [piece.numpy() for piece in flat.split(lengths.tolist())] for name, flat in fields.items()}
    result, start = [], 0
    for group in groups:
        end = start + len(group.completions)
        token = {**group.token, **{name: arrays[start:end] for name, arrays in pieces.items()}}
        result.append(replace(group, token=token))
        start = end
    return result
