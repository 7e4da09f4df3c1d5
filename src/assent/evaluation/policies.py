"""Several policies on the same prompts: sample, score, and measure the distance to the reference.

Each policy answers every prompt once greedily and several times at temperature 1; a scorer judges the texts; the
reference reads the sampled ids (never a second tokenization) for the KL. Best-of-n stands beside the trained
policies: n samples of a sampler, of which a reward keeps the best.

Legend: P prompts, K completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assent.errors import ConfigError, DataError
from assent.evaluation.intervals import mean_interval, proportion_interval
from assent.evaluation.kl import kl_estimates
from assent.evaluation.table import Figures, KLFigures, PolicyRow, PolicyTable
from assent.evaluation.win_rate import win_rate
from assent.inference.best_of_n import best_of_each, best_of_n_kl_bound
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.packing import pack, split_by_budget
from assent.rewards.base import Reward, score_rollouts
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.types import PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from assent.models.module import AlignmentModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy under its name."""

    name: str
    open: Callable[[], Sampler]
    """Called when its turn comes, so that not all models are in memory at once."""
    ledger: Mapping[str, float] = field(default_factory=dict)
    """`cost/*` of making it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN(Policy):
    """n samples of a sampler, of which the reward's highest is kept; the first of equals."""

    n: int
    reward: Reward

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError("best-of-n needs n of at least 1", got=self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Rollouts of one decoding, prompt-major, with their scores."""

    rollouts: list[Rollout]
    scores: list[float]

    def by_prompt(self, num_prompts: int) -> list[tuple[float, ...]]:
        rows: list[list[float]] = [[] for _ in range(num_prompts)]
        for rollout, score in zip(self.rollouts, self.scores, strict=True):
            rows[rollout.prompt_index].append(score)
        return [tuple(row) for row in rows]


def evaluate_policies(
    policies: Sequence[Policy],
    groups: Sequence[PromptGroup],
    *,
    prompt_ids: Sequence[tuple[int, ...]],
    scorer: Reward,
    reference: AlignmentModel,
    baseline: str,
    reference_name: str | None = None,
    max_new_tokens: int,
    samples_per_prompt: int = 4,
    seed: int = 0,
    max_tokens: int = 8192,
    confidence: float = 0.95,
    clusters: Sequence[str] | None = None,
    on_policy: Callable[[str], None] | None = None,
) -> PolicyTable:
    """Answers of all policies to the same P prompts, side by side.

    groups, prompt_ids   (P,) the prompts as the scorer sees them (with their columns), and as ids
    scorer               judges every text: a gold reward, a reward model, a function
    reference            AlignmentModel of kind "policy" at temperature 1; KL is measured to it
    baseline             name of the policy that win rates are against, decoded the same way
    samples_per_prompt   completions at temperature 1; best-of-n keeps one of n and has no greedy form
    max_tokens           of one forward pass of the reference
    clusters             (P,) what prompts belong together by; none given: every prompt stands alone
    on_policy            called with each policy's name before its turn (progress)

    Raises ConfigError for a baseline that is not among the policies or names that repeat, DataError for no prompts
    or unequal numbers of them.
    """
    _check(policies, groups, prompt_ids=prompt_ids, baseline=baseline, samples_per_prompt=samples_per_prompt)
    names = list(range(len(groups))) if clusters is None else list(clusters)
    answers: dict[str, dict[str, _Answers]] = {}
    distances: dict[str, KLFigures] = {}
    for policy in policies:
        if on_policy is not None:
            on_policy(policy.name)
        drawn = _draw(policy, groups, prompt_ids, max_new_tokens=max_new_tokens, k=samples_per_prompt, seed=seed)
        answers[policy.name] = {decoding: _scored(rollouts, groups, scorer) for decoding, rollouts in drawn.items()}
        if isinstance(policy, BestOfN):
            distances[policy.name] = KLFigures(kind="bound", value=best_of_n_kl_bound(policy.n))
        else:
            distances[policy.name] = _distance(
                drawn["sampled"], reference, names, max_tokens=max_tokens, confidence=confidence
            )
    rows = [
        PolicyRow(
            name=policy.name,
            kl=distances[policy.name],
            ledger=policy.ledger,
            **_both_figures(policy.name, answers, baseline=baseline, clusters=names, confidence=confidence),
        )
        for policy in policies
    ]
    return PolicyTable(
        rows=tuple(rows),
        baseline=baseline,
        reference=reference_name or baseline,
        scorer=scorer.name,
        num_prompts=len(groups),
        confidence=confidence,
        decoding={
            "max_new_tokens": max_new_tokens,
            "temperature": 1.0,
            "samples_per_prompt": samples_per_prompt,
            "seed": seed,
        },
        samples=tuple(_samples(groups, answers)),
    )


def reference_logprobs(
    reference: AlignmentModel, rollouts: Sequence[Rollout], *, max_tokens: int = 8192
) -> list[np.ndarray]:
    """Log-probabilities of the rollouts' own ids under the reference: one array for each rollout, in their order.

    Rollouts of one prompt share its prefix. No gradient; `max_tokens` bounds one forward pass.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, rollout in enumerate(rollouts):
        by_prompt.setdefault(rollout.prompt_ids, []).append(i)
    groups = [
        TokenGroup(prompt, tuple(TokenCompletion(rollouts[i].ids) for i in members))
        for prompt, members in by_prompt.items()
    ]
    members = list(by_prompt.values())
    device = next(reference.parameters()).device
    read: list[np.ndarray] = [np.empty(0)] * len(rollouts)
    with torch.no_grad():
        for batch in split_by_budget(groups, max_tokens=max_tokens, shared=reference.tier != "padded"):
            outputs = reference(pack([groups[g] for g in batch], device=device), frozenset({"logprobs"}))
            order = [i for g in batch for i in members[g]]
            ends = np.cumsum([len(rollouts[i].ids) for i in order])[:-1]
            for i, part in zip(order, np.split(outputs.logprobs.double().cpu().numpy(), ends), strict=True):
                read[i] = part
    return read


def _check(
    policies: Sequence[Policy],
    groups: Sequence[PromptGroup],
    *,
    prompt_ids: Sequence[tuple[int, ...]],
    baseline: str,
    samples_per_prompt: int,
) -> None:
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ConfigError("two policies have the same name", got=", ".join(names))
    if baseline not in names:
        raise ConfigError("the baseline is not among the policies", got=baseline, expected=", ".join(names))
    if not groups or len(groups) != len(prompt_ids):
        raise DataError(
            "an evaluation needs prompts, and the ids of each", got=f"{len(groups)} prompts, {len(prompt_ids)} with ids"
        )
    if samples_per_prompt < 1:
        raise ConfigError("samples_per_prompt must be at least 1", got=samples_per_prompt)


def _draw(
    policy: Policy,
    groups: Sequence[PromptGroup],
    prompt_ids: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    k: int,
    seed: int,
) -> dict[str, list[Rollout]]:
    """The policy's completions for each decoding that it has."""
    sampler = policy.open()
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=1.0)

    def draw(decoding: str, params: SamplingParams, number: int) -> list[Rollout]:
        key = SeedKey(seed, f"evaluate {policy.name} {decoding}", 0)  # independent of the other policies' draws
        return sampler.sample(prompt_ids, num_completions=number, params=params, seed=key)

    if isinstance(policy, BestOfN):
        rollouts = draw("best-of-n", sampling, policy.n)
        chosen = best_of_each(rollouts, score_rollouts(policy.reward, rollouts, groups), n=policy.n)
        return {"sampled": [one.best for one in chosen]}
    greedy = SamplingParams(max_new_tokens=max_new_tokens, greedy=True)
    return {"sampled": draw("sampled", sampling, k), "greedy": draw("greedy", greedy, 1)}


def _scored(rollouts: list[Rollout], groups: Sequence[PromptGroup], scorer: Reward) -> _Answers:
    return _Answers(rollouts=rollouts, scores=score_rollouts(scorer, rollouts, groups))


def _distance(
    rollouts: Sequence[Rollout], reference: AlignmentModel, names: Sequence[Any], *, max_tokens: int, confidence: float
) -> KLFigures:
    kl = kl_estimates(
        [rollout.logprobs for rollout in rollouts],
        reference_logprobs(reference, rollouts, max_tokens=max_tokens),
        clusters=[names[rollout.prompt_index] for rollout in rollouts],
        confidence=confidence,
    )
    return KLFigures(kind="estimate", value=kl.k1.value, k1=kl.k1, k3=kl.k3)


def _both_figures(
    name: str,
    answers: Mapping[str, Mapping[str, _Answers]],
    *,
    baseline: str,
    clusters: Sequence[Any],
    confidence: float,
) -> dict[str, Any]:
    """`sampled` and `greedy` of one policy; win rates against the baseline's answers of the same decoding."""
    figures: dict[str, Figures | None] = {"sampled": None, "greedy": None}
    for decoding, own in answers[name].items():
        scores = own.by_prompt(len(clusters))
        other = answers[baseline].get(decoding)
        names = [clusters[rollout.prompt_index] for rollout in own.rollouts]
        ended = [float(rollout.finish_reason == "stop") for rollout in own.rollouts]
        figures[decoding] = Figures(
            gold=mean_interval(own.scores, clusters=names, confidence=confidence),
            win_rate=None
            if name == baseline or other is None
            else win_rate(scores, other.by_prompt(len(clusters)), clusters=clusters, confidence=confidence),
            length=mean_interval([len(r.ids) for r in own.rollouts], clusters=names, confidence=confidence),
            eos_rate=proportion_interval(ended, clusters=names, confidence=confidence),
            scores=tuple(scores),
        )
    return figures


def _samples(groups: Sequence[PromptGroup], answers: Mapping[str, Mapping[str, _Answers]]) -> list[dict[str, Any]]:
    """For each prompt, every policy's greedy answer (best-of-n: its first) and score."""
    samples: list[dict[str, Any]] = [{"prompt": _plain(group.prompt), "completions": {}} for group in groups]
    for name, decodings in answers.items():
        shown = decodings.get("greedy", decodings["sampled"])
        for rollout, score in zip(shown.rollouts, shown.scores, strict=True):
            entry = {"text": rollout.text, "score": score}
            samples[rollout.prompt_index]["completions"].setdefault(name, entry)
    return samples


def _plain(prompt: Text) -> str | list[dict[str, Any]]:
    return prompt if isinstance(prompt, str) else [message.as_dict() for message in prompt]
