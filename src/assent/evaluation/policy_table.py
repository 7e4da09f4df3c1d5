"""Several policies side by side: their answers are compared, by their scores or by a judge, and become a table.

Legend: P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assent.data.texts import as_plain
from assent.errors import ConfigError, DataError
from assent.evaluation.answers import Answers
from assent.evaluation.figures import Subject, figures_of
from assent.evaluation.policies import DEFAULT_SAMPLES, BestOfN, Decodings, EvaluationPlan, Policy, answers_of
from assent.evaluation.table import Figures, KLFigures, PolicyRow, PolicyTable
from assent.evaluation.versus import Comparisons, compare_all, judge_record, ratings_of, wins_of
from assent.inference.best_of_n import best_of_n_kl_bound
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup


def evaluate_policies(
    policies: Sequence[Policy], plan: EvaluationPlan, *, on_policy: Callable[[str], None] | None = None
) -> PolicyTable:
    """All policies answer the same prompts; the table shows them side by side.

    on_policy   called with each policy's name after its turn, for a progress bar

    Raises ConfigError if the baseline is not among the policies or if names repeat, DataError if there are no prompts
    or if prompts and ids differ in number.
    """
    check_names(policies, plan.baseline)
    sampled = any(policy.open is not None for policy in policies)
    if not plan.groups or len(plan.groups) != len(plan.prompt_ids if sampled else plan.groups):
        raise DataError(
            "an evaluation needs prompts, and the ids of each",
            got=f"{len(plan.groups)} prompts, {len(plan.prompt_ids)} with ids",
        )
    answers: dict[str, Decodings] = {}
    for policy in policies:
        answers[policy.name] = answers_of(policy, plan)
        if on_policy is not None:
            on_policy(policy.name)
    return table_of(policies, answers, plan)


def table_of(
    policies: Sequence[Policy],
    answers: Mapping[str, Decodings],
    plan: EvaluationPlan,
    *,
    on_comparisons: Callable[[int], None] | None = None,
) -> PolicyTable:
    """The table of policies whose answers are known.

    answers          by name, in the policies' order
    on_comparisons   called with the number of comparisons that a judge has made since the last call
    """
    judge = plan.judge_name or plan.judges.name
    if judge is None:
        raise ConfigError("nothing says which answers are better", expected="a scorer, or a judge that compares them")
    compared = compare_all(
        answers, plan.groups, baseline=plan.baseline, comparer=plan.judges.comparer, advance=on_comparisons
    )
    options: dict[str, Any] = {"clusters": plan.names, "confidence": plan.confidence}
    ratings = ratings_of(compared, baseline=plan.baseline, **options)
    rows = (_row(plan, policy, answers, compared) for policy in policies)
    sampled = len(plan.prompt_ids) > 0
    return PolicyTable(
        rows=tuple(replace(row, rating=ratings.get(row.name)) for row in rows),
        baseline=plan.baseline,
        reference=plan.measures_to,
        scorer=judge,
        num_prompts=len(plan.groups),
        confidence=plan.confidence,
        decoding={
            "max_new_tokens": plan.max_new_tokens if sampled else None,
            "temperature": 1.0 if sampled else None,
            "samples_per_prompt": plan.samples_per_prompt or (DEFAULT_SAMPLES if sampled else None),
            "seed": plan.seed,
        },
        precision=plan.precision,
        judge=judge_record(compared, **options),
        wins=wins_of(compared, **options),
        samples=tuple(_samples(plan.groups, answers)),
    )


def check_names(policies: Sequence[Policy], baseline: str) -> None:
    """Raises ConfigError if the baseline is not among the policies or if names repeat."""
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ConfigError("two policies have the same name", got=", ".join(names))
    if baseline not in names:
        raise ConfigError("the baseline is not among the policies", got=baseline, expected=", ".join(names))


def _row(plan: EvaluationPlan, policy: Policy, answers: Mapping[str, Decodings], compared: Comparisons) -> PolicyRow:
    figures: dict[str, Figures | None] = {"sampled": None, "greedy": None}
    for decoding, own in answers[policy.name].items():
        is_sampled = decoding == "sampled"
        subject = Subject(
            answers=own,
            num_prompts=len(plan.groups),
            clusters=plan.names,
            against=compared.get((decoding, policy.name, plan.baseline)),
            baseline=answers[plan.baseline].get(decoding),
            is_pure_sample=is_sampled and not isinstance(policy, BestOfN),
            confidence=plan.confidence,
            half_width=plan.precision,
        )
        figures[decoding] = figures_of(subject, plan.slices if is_sampled else None)
    sampled = figures["sampled"]
    assert sampled is not None
    kl = None
    if isinstance(policy, BestOfN):
        kl = _best_of_n_kl(plan, policy, answers[policy.name]["sampled"])
    elif sampled.k1 is not None:
        kl = KLFigures(kind="estimate", value=sampled.k1.value, k1=sampled.k1, k3=sampled.k3)
    return PolicyRow(name=policy.name, sampled=sampled, greedy=figures["greedy"], kl=kl, ledger=policy.ledger)


def _best_of_n_kl(plan: EvaluationPlan, policy: BestOfN, kept: Answers) -> KLFigures | None:
    """KL(best-of-n || reference) = KL(best-of-n || policy) + E[log policy − log reference] over the kept answers.

    For completions in a file without a reference, only the first part: the KL to the policy that wrote them.
    """
    if plan.measures_to is not None and kept.k1 is None:
        return None
    moved = np.asarray(kept.choice_kl) + (0.0 if kept.k1 is None else np.asarray(kept.k1))
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
