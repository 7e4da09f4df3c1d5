"""Several policies on the same prompts: samples their answers, judges them, and measures the KL to the reference.

Each policy answers every prompt once greedily and several times at temperature 1, or its answers are in a file. A
scorer scores the texts, or a judge compares them. For the KL, the reference reads the sampled ids, never a second
tokenization. Best-of-n can be one of the policies: a reward keeps the best of n samples of another policy.

Legend: P prompts, K completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assent.data.texts import as_plain
from assent.errors import ConfigError, DataError
from assent.evaluation.answers import Answers, Completions, key
from assent.evaluation.figures import Subject, figures_of
from assent.evaluation.kl import kl_values
from assent.evaluation.safety import Measure, measured
from assent.evaluation.table import Figures, KLFigures, PolicyRow, PolicyTable
from assent.evaluation.versus import Comparisons, Decodings, compare_all, judge_record, ratings_of, wins_of
from assent.inference.best_of_n import best_index, best_of_n_kl_bound
from assent.inference.curve import best_of_n_kl_estimate, drawn_of
from assent.judging.verdicts import PairJudge
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.models.shape import split_by_budget
from assent.rewards.base import Reward
from assent.rollouts.kept import KeptDraws
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup, Rollout

if TYPE_CHECKING:
    from assent.models.module import AlignmentModel

_Distance = tuple[np.ndarray, np.ndarray] | None
"""k1 and k3 of each answer."""


DEFAULT_SAMPLES = 4
"""Completions of each prompt if no number is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy and its name."""

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
    reward: Reward

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError("best-of-n needs an n of at least 1", got=self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """What judges the answers: either a scorer or a comparer, and separately from them a measure of safety."""

    scorer: Reward | None = None
    comparer: PairJudge | None = None
    safety: Measure | None = None

    def __post_init__(self) -> None:
        if (self.scorer is None) == (self.comparer is None):
            raise ConfigError(
                "answers need one judge: a scorer, or a judge that compares them", expected="one of the two"
            )

    @property
    def name(self) -> str:
        judge = self.scorer or self.comparer
        assert judge is not None
        return judge.name


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What is the same for all policies: P prompts, how they are answered, and what the answers are judged by."""

    groups: Sequence[PromptGroup]
    """(P,) the prompts with their columns, as the scorer sees them."""
    prompt_ids: Sequence[tuple[int, ...]] = ()
    """(P,) the prompts as tokens; needed if a model answers."""
    judges: Judges
    baseline: str
    """Name of the policy that the others are compared with."""
    reference: AlignmentModel | None = None
    """KL is measured to it: an AlignmentModel of kind "policy" at temperature 1. None: KL is not measured."""
    reference_name: str | None = None
    """The reference's name in the table; None: the baseline's."""
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
    def names(self) -> Sequence[Any]:
        """(P,) clusters."""
        return [key(group.prompt) for group in self.groups] if self.clusters is None else list(self.clusters)


def evaluate_policies(
    policies: Sequence[Policy],
    plan: EvaluationPlan,
    *,
    on_policy: Callable[[str], None] | None = None,
    on_comparisons: Callable[[int], None] | None = None,
) -> PolicyTable:
    """All policies answer the same prompts; the table shows them side by side.

    on_policy        called with each policy's name after its turn, for a progress bar
    on_comparisons   called with the number of comparisons that a judge has made since the last call

    Raises ConfigError if the baseline is not among the policies or if names repeat, DataError if there are no prompts
    or if prompts and ids differ in number.
    """
    sampled = any(policy.open is not None for policy in policies)
    _check(policies, plan, plan.prompt_ids if sampled else plan.groups)
    answers: dict[str, Decodings] = {}
    distances: dict[str, _Distance] = {}
    for policy in policies:
        answers[policy.name] = {kind: _judged(plan, drawn) for kind, drawn in _draw(plan, policy).items()}
        distances[policy.name] = _distance(plan, policy, answers[policy.name]["sampled"])
        if on_policy is not None:
            on_policy(policy.name)
    comparer = plan.judges.comparer
    compared = compare_all(answers, plan.groups, baseline=plan.baseline, comparer=comparer, advance=on_comparisons)
    rows = [_row(plan, policy, answers, distances[policy.name], compared) for policy in policies]
    decoding = {
        "max_new_tokens": plan.max_new_tokens if sampled else None,
        "temperature": 1.0 if sampled else None,
        "samples_per_prompt": plan.samples_per_prompt or (DEFAULT_SAMPLES if sampled else None),
        "seed": plan.seed,
    }
    return _table(plan, rows, compared, answers, decoding)


def _table(
    plan: EvaluationPlan,
    rows: Sequence[PolicyRow],
    compared: Comparisons,
    answers: Mapping[str, Decodings],
    decoding: Mapping[str, Any],
) -> PolicyTable:
    options: dict[str, Any] = {"clusters": plan.names, "confidence": plan.confidence}
    ratings = ratings_of(compared, baseline=plan.baseline, **options)
    return PolicyTable(
        rows=tuple(replace(row, rating=ratings.get(row.name)) for row in rows),
        baseline=plan.baseline,
        reference=None if plan.reference is None else plan.reference_name or plan.baseline,
        scorer=plan.judges.name,
        num_prompts=len(plan.groups),
        confidence=plan.confidence,
        decoding=decoding,
        precision=plan.precision,
        judge=judge_record(compared, **options),
        wins=wins_of(compared, **options),
        samples=tuple(_samples(plan.groups, answers)),
    )


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


def _check(policies: Sequence[Policy], plan: EvaluationPlan, prompt_ids: Sequence[Any]) -> None:
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ConfigError("two policies have the same name", got=", ".join(names))
    if plan.baseline not in names:
        raise ConfigError("the baseline is not among the policies", got=plan.baseline, expected=", ".join(names))
    if not plan.groups or len(plan.groups) != len(prompt_ids):
        raise DataError(
            "an evaluation needs prompts, and the ids of each",
            got=f"{len(plan.groups)} prompts, {len(prompt_ids)} with ids",
        )


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
        return Answers.of_rollouts(sample(plan.prompt_ids, num_completions=number, params=params, seed=key))

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


def _distance(plan: EvaluationPlan, policy: Policy, drawn: Answers) -> _Distance:
    """k1 and k3 of each sampled answer; None for answers of a file, and if there is no reference."""
    if plan.reference is None or drawn.rollouts is None:
        return None
    read = reference_logprobs(plan.reference, drawn.rollouts, max_tokens=plan.max_tokens)
    return kl_values([rollout.logprobs for rollout in drawn.rollouts], read)


def _row(
    plan: EvaluationPlan,
    policy: Policy,
    answers: Mapping[str, Decodings],
    distance: _Distance,
    compared: Comparisons,
) -> PolicyRow:
    figures: dict[str, Figures | None] = {"sampled": None, "greedy": None}
    for decoding, own in answers[policy.name].items():
        is_sampled = decoding == "sampled"
        is_pure_sample = is_sampled and not isinstance(policy, BestOfN)
        subject = Subject(
            answers=own,
            num_prompts=len(plan.groups),
            clusters=plan.names,
            against=compared.get((decoding, policy.name, plan.baseline)),
            baseline=answers[plan.baseline].get(decoding),
            k1=distance[0] if distance is not None and is_pure_sample else None,
            k3=distance[1] if distance is not None and is_pure_sample else None,
            is_pure_sample=is_pure_sample,
            confidence=plan.confidence,
            half_width=plan.precision,
        )
        figures[decoding] = figures_of(subject, plan.slices if is_sampled else None)
    sampled = figures["sampled"]
    assert sampled is not None
    kl = None
    if isinstance(policy, BestOfN):
        kl = _best_of_n_kl(plan, policy, answers[policy.name]["sampled"], distance)
    elif sampled.k1 is not None:
        kl = KLFigures(kind="estimate", value=sampled.k1.value, k1=sampled.k1, k3=sampled.k3)
    return PolicyRow(name=policy.name, sampled=sampled, greedy=figures["greedy"], kl=kl, ledger=policy.ledger)


def _best_of_n_kl(plan: EvaluationPlan, policy: BestOfN, kept: Answers, distance: _Distance) -> KLFigures | None:
    """KL(best-of-n || reference) = KL(best-of-n || policy) + E[log policy − log reference] over the kept answers.

    For completions in a file without a reference, only the first part: the KL to the policy that wrote them.
    """
    if plan.reference is not None and distance is None:
        return None
    moved = np.asarray(kept.choice_kl) + (0.0 if distance is None else distance[0])
    names = [plan.names[p] for p in kept.prompt_index]
    estimate = mean_interval(moved, clusters=names, confidence=plan.confidence)
    return KLFigures(
        kind="best_of_n", value=estimate.value, best_of_n=estimate, choice_bound=best_of_n_kl_bound(policy.n)
    )


def _samples(groups: Sequence[PromptGroup], answers: Mapping[str, Decodings]) -> list[dict[str, Any]]:
    """For each prompt, every policy's greedy answer, or its first one if there is none, and its score."""
    samples: list[dict[str, Any]] = [{"prompt": as_plain(group.prompt), "completions": {}} for group in groups]
    for name, decodings in answers.items():
        shown = decodings.get("greedy", decodings["sampled"])
        scores: Sequence[float | None] = shown.scores or [None] * len(shown.texts)
        for prompt, text, score in zip(shown.prompt_index, shown.texts, scores, strict=True):
            samples[prompt]["completions"].setdefault(name, {"text": text, "score": score})
    return samples
