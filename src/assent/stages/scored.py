"""Which completions of a round take part: those with a score, and in the loss those that were not cut.

Legend: S completions with a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assent.config.online import OnlineOptions
from assent.errors import RunError
from assent.models.batch import TokenGroup
from assent.stages.sampling import to_groups
from assent.types import PromptGroup, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scored completions of a round, prompt by prompt. A prompt without any is not among them.

    rollouts, scores    (S,)
    steps, step_ends    (S,) lists, if the reward gives numbers to steps
    prompt              (S,) the number of each one's group
    """

    groups: list[TokenGroup]
    rollouts: list[Rollout]
    scores: list[float]
    steps: list[Sequence[float]] | None
    step_ends: list[Sequence[int]] | None
    prompt: Tensor

    @property
    def sizes(self) -> list[int]:
        """The number of completions of each group."""
        return [len(group.completions) for group in self.groups]


def scored_of(
    config: OnlineOptions,
    rollouts: Sequence[Rollout],
    scores: Sequence[float],
    *,
    step_ends: Sequence[Sequence[int]] | None,
    prompts: Sequence[PromptGroup],
) -> Scored:
    """Leaves out what the reward abstained on (`Scores.abstained`), and what is then alone if the algorithm compares a
    prompt's completions. Raises RunError if nothing is left."""
    k = config.num_completions
    gone: Sequence[bool] = getattr(scores, "abstained", [False] * len(rollouts))
    by_prompt = [[i for i in range(start, start + k) if not gone[i]] for start in range(0, len(rollouts), k)]
    fewest = 2 if config.triple.needs_mates else 1
    by_prompt = [own if len(own) >= fewest else [] for own in by_prompt]
    kept = [i for own in by_prompt for i in own]
    if not kept:
        raise RunError(
            "no completion of this round can be learned from",
            got=f"{sum(gone)} of {len(rollouts)} completions without a score",
            expected=f"a prompt with {fewest} or more scored completions",
            fix="look at what the reward abstains on; raise --num-completions, or add a source that scores these",
        )
    groups = [
        group.only([i % k for i in own])
        for group, own in zip(to_groups(rollouts, k, prompts), by_prompt, strict=True)
        if own
    ]
    steps = getattr(scores, "steps", None)
    sizes = torch.tensor([len(group.completions) for group in groups])
    return Scored(
        groups=groups,
        rollouts=[rollouts[i] for i in kept],
        scores=[scores[i] for i in kept],
        steps=None if steps is None else [steps[i] for i in kept],
        step_ends=None if step_ends is None else [step_ends[i] for i in kept],
        prompt=torch.repeat_interleave(torch.arange(len(groups)), sizes),
    )


def left_out(num_sampled: int, groups: Sequence[TokenGroup]) -> dict[str, float]:
    """The count of completions that are not in the groups that are trained on, if there are any."""
    count = num_sampled - sum(len(group.completions) for group in groups)
    return {"rollout/left_out": float(count)} if count else {}


def in_the_loss(config: OnlineOptions, groups: Sequence[TokenGroup], ended: Tensor) -> list[TokenGroup]:
    """The groups; with mask_truncated_completions without the completions that were cut. `ended` (S,). Raises RunError
    if all of them were cut."""
    if not config.mask_truncated_completions:
        return list(groups)
    kept, start = [], 0
    for group in groups:
        own = ended[start : start + len(group.completions)].nonzero()[:, 0].tolist()
        start += len(group.completions)
        if own:
            kept.append(group.only(own))
    if not kept:
        raise RunError(
            "every completion of this round was cut, so mask_truncated_completions leaves nothing to learn from",
            got=f"{len(ended)} completions of {config.max_new_tokens} tokens",
            expected="at least one that ends by itself",
            fix="raise --max-new-tokens, or leave --mask-truncated-completions out",
        )
    return kept
