"""A policy's answers to prompts: sampled, scored, measured for safety, and their KL to the reference.

Each policy answers every prompt once greedily and several times at temperature 1, or its answers are in a file. For the
KL, the reference reads the sampled ids, never a second tokenization. Best-of-n can be one of the policies: a reward
keeps the best of n samples of another policy. evaluation/policy_table.py compares the answers.

Legend: P prompts, K completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assent.errors import ConfigError
from assent.evaluation.answers import Answers, Completions, key
from assent.evaluation.kl import kl_values
from assent.evaluation.safety import Measure, measured
from assent.inference.best_of_n import best_index
from assent.inference.curve import best_of_n_kl_estimate, drawn_of
from assent.judging.verdicts import PairJudge
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.models.shape import split_by_budget
from assent.rewards.base import Reward
from assent.rollouts.kept import KeptDraws
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.types import PromptGroup, Rollout

if TYPE_CHECKING:
    from assent.models.module import AlignmentModel

Decodings = Mapping[str, Answers]
"""Answers by decoding: `sampled`, and `greedy` if there is one."""
DEFAULT_SAMPLES = 4
"""Completions of each prompt if no number is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy and its name. With neither `open` nor `completions` its answers are there already."""

    name: str
    open: Callable[[], Sampler] | None = None
    """Called when the policy's turn comes, so that not all models are in memory at once."""
    completions: Completions | None = None
    """Instead of `open`: its answers in a file."""
    kept: KeptDraws | None = None
    """With `open`: what it drew before the run was interrupted."""
    ledger: Mapping[str, float] = field(default_factory=dict)
    """The `cost/*` metrics of training it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN(Policy):
    """Keeps the highest-scoring of n samples, the first one if scores are equal."""

    n: int
    reward: Reward | None = None
    """None: its answers are there already."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError("best-of-n needs an n of at least 1", got=self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """What judges the answers: either a scorer or a comparer, and separately from them a measure of safety.

    With neither, the answers have their scores already.
    """

    scorer: Reward | None = None
    comparer: PairJudge | None = None
    safety: Measure | None = None

    def __post_init__(self) -> None:
        if self.scorer is not None and self.comparer is not None:
            raise ConfigError(
                "answers need one judge: a scorer, or a judge that compares them", expected="one of the two"
            )

    @property
    def name(self) -> str | None:
        judge = self.scorer or self.comparer
        return None if judge is None else judge.name


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What is the same for all policies: P prompts, how they are answered, and what the answers are judged by."""

    groups: Sequence[PromptGroup]
    """(P,) the prompts with their columns, as the scorer sees them."""
    prompt_ids: Sequence[tuple[int, ...]] = ()
    """(P,) the prompts as tokens; needed if a model answers."""
    first: int = 0
    """Number of the first prompt, if they are part of a larger evaluation: what is drawn depends on the number."""
    judges: Judges
    baseline: str
    """Name of the policy that the others are compared with."""
    reference: AlignmentModel | None = None
    """KL is measured to it: an AlignmentModel of kind "policy" at temperature 1. None: KL is not measured."""
    reference_name: str | None = None
    """The reference's name in the table; None: the baseline's, if there is a reference."""
    judge_name: str | None = None
    """The judge's name in the table; None: that of `judges`."""
    max_new_tokens: int
    samples_per_prompt: int | None = 4
    """Completions at temperature 1; of a file, its first ones. None: 4, and all that a file has."""
    seed: int = 0
    max_tokens: int = 8192
    """Tokens in one forward pass of the reference."""
    confidence: float = 0.95
    clusters: Sequence[str] | None = None
    """(P,) the unit of the intervals for each prompt. None: one for each different prompt."""
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column to its values (P,): figures are also given for each value."""
    precision: float | None = None
    """Half-width wanted for the win rates' intervals: the table says how many prompts that takes."""

    def __post_init__(self) -> None:
        if self.samples_per_prompt is not None and self.samples_per_prompt < 1:
            raise ConfigError("samples_per_prompt must be at least 1", got=self.samples_per_prompt)

    @property
    def measures_to(self) -> str | None:
        """The policy that KL is measured to; None: it is not measured."""
        return self.reference_name or (None if self.reference is None else self.baseline)

    @property
    def names(self) -> Sequence[Any]:
        """(P,) clusters."""
        return [key(group.prompt) for group in self.groups] if self.clusters is None else list(self.clusters)


def answers_of(policy: Policy, plan: EvaluationPlan) -> dict[str, Answers]:
    """The policy's answers to the plan's prompts, by decoding: scored, measured, and how far from the reference."""
    answers = {decoding: _judged(plan, drawn) for decoding, drawn in _draw(plan, policy).items()}
    return {**answers, "sampled": _with_distance(plan, answers["sampled"])}


def reference_logprobs(
    reference: AlignmentModel, rollouts: Sequence[Rollout], *, max_tokens: int = 8192
) -> list[np.ndarray]:
    """Log-probabilities of the rollouts' ids under the reference: one array for each rollout, in their order.

    Rollouts of one prompt share its prefix. `max_tokens` bounds one forward pass. There is no gradient.
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


def _draw(plan: EvaluationPlan, policy: Policy) -> Decodings:
    """The policy's answers in each decoding that it has."""
    n = policy.n if isinstance(policy, BestOfN) else None
    if policy.completions is not None:
        found = policy.completions.answers(plan.groups, at_most=n or plan.samples_per_prompt)
        return {"sampled": found if n is None else _best(plan, policy, found)}
    assert policy.open is not None
    opened = cache(policy.open)
    sampling = SamplingParams(max_new_tokens=plan.max_new_tokens, temperature=1.0)

    def draw(decoding: str, params: SamplingParams, number: int) -> Answers:
        key = SeedKey(plan.seed, f"evaluate {policy.name} {decoding}", 0)  # so that policies draw independently
        sample = opened().sample if policy.kept is None else partial(policy.kept.sample, opened)
        numbers = range(plan.first, plan.first + len(plan.prompt_ids))
        return Answers.of_rollouts(
            sample(plan.prompt_ids, num_completions=number, params=params, seed=key, prompt_numbers=numbers)
        )

    if n is not None:
        return {"sampled": _best(plan, policy, draw("best-of-n", sampling, n))}
    greedy = SamplingParams(max_new_tokens=plan.max_new_tokens, greedy=True)
    return {
        "sampled": draw("sampled", sampling, plan.samples_per_prompt or DEFAULT_SAMPLES),
        "greedy": draw("greedy", greedy, 1),
    }


def _best(plan: EvaluationPlan, policy: Policy, drawn: Answers) -> Answers:
    """Keeps each prompt's highest-scoring answer, the first one if scores are equal, and estimates best-of-n's KL."""
    assert isinstance(policy, BestOfN)
    assert policy.reward is not None
    scores = drawn.score(policy.reward, plan.groups)
    kept, moved = [], []
    for row in drawn.places(len(plan.groups)):
        own = [scores[i] for i in row]
        rollouts = drawn.rollouts
        known = [(drawn.texts[i], None) for i in row] if rollouts is None else drawn_of([rollouts[i] for i in row])
        kept.append(row[best_index(own)])
        moved.append(best_of_n_kl_estimate(own, policy.n, drawn=known))
    return replace(drawn.kept(kept), choice_kl=moved)


def _judged(plan: EvaluationPlan, drawn: Answers) -> Answers:
    scorer, safety = plan.judges.scorer, plan.judges.safety
    rows = [plan.groups[p] for p in drawn.prompt_index]
    return replace(
        drawn,
        scores=None if scorer is None else drawn.score(scorer, plan.groups),
        measures={} if safety is None else measured(safety, [row.prompt for row in rows], drawn.texts, rows),
    )


def _with_distance(plan: EvaluationPlan, drawn: Answers) -> Answers:
    """With k1 and k3 of each answer, unless they are a file's or there is no reference."""
    if plan.reference is None or drawn.rollouts is None:
        return drawn
    read = reference_logprobs(plan.reference, drawn.rollouts, max_tokens=plan.max_tokens)
    k1, k3 = kl_values([rollout.logprobs for rollout in drawn.rollouts], read)
    return replace(drawn, k1=k1.tolist(), k3=k3.tolist())
