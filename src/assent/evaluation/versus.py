"""Compares every policy's answers with every other's: wins, ratings, and the judge's record.

Legend: P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from assent.evaluation.figures import Compared, compare_by_judge, compare_scores
from assent.evaluation.policies import Decodings
from assent.judging.verdicts import PairJudge
from assent.statistics.intervals import Estimate, proportion_interval
from assent.statistics.ratings import bradley_terry
from assent.types import PromptGroup

Comparisons = dict[tuple[str, str, str], Compared]
"""Decoding, policy and rival to their comparison."""


def compare_all(
    answers: Mapping[str, Decodings],
    groups: Sequence[PromptGroup],
    *,
    baseline: str,
    comparer: PairJudge | None,
    advance: Callable[[int], None] | None = None,
) -> Comparisons:
    """Compares every policy with the baseline in each decoding, and all policies' sampled answers with each other.

    They are compared by their scores, or by `comparer` in both orders.
    """
    found: Comparisons = {}
    for first, second in combinations(answers, 2):
        a, b = (second, first) if first == baseline else (first, second)
        for decoding in ("sampled", "greedy") if b == baseline else ("sampled",):
            one, two = answers[a].get(decoding), answers[b].get(decoding)
            if one is None or two is None:
                continue
            found[decoding, a, b] = (
                compare_scores(one, two, len(groups))
                if comparer is None
                else compare_by_judge(comparer, one, two, groups, advance)
            )
    return found


def ratings_of(
    compared: Comparisons, *, baseline: str, clusters: Sequence[Any], confidence: float
) -> dict[str, Estimate | None]:
    """Bradley–Terry ratings of the sampled answers, if there are more than two policies."""
    shares = {(a, b): one.by_prompt(len(clusters)) for (kind, a, b), one in compared.items() if kind == "sampled"}
    if len(shares) < 2:
        return {}
    return bradley_terry(shares, baseline=baseline, clusters=clusters, confidence=confidence)


def wins_of(compared: Comparisons, *, clusters: Sequence[Any], confidence: float) -> dict[str, dict[str, Estimate]]:
    """Policy to rival to the win rate of sampled answers, if there are more than two policies."""
    pairs = [(a, b, one) for (kind, a, b), one in compared.items() if kind == "sampled"]
    wins: dict[str, dict[str, Estimate]] = {}
    for a, b, one in pairs if len(pairs) > 1 else ():
        shares = one.by_prompt(len(clusters))
        for winner, loser, values in ((a, b, shares), (b, a, 1 - shares)):
            rate = proportion_interval(values, clusters=clusters, confidence=confidence)
            wins.setdefault(winner, {})[loser] = rate
    return wins


def judge_record(compared: Comparisons, *, clusters: Sequence[Any], confidence: float) -> dict[str, Any] | None:
    """How a judge behaved over all its comparisons; None if answers were scored.

    `consistent`: share of comparisons in which both orders agree. `first_wins`: share of verdicts for the answer that
    was shown first, ½ without bias. `calls`: verdicts requested. `invalid`: replies that were not a verdict.
    """
    verdicts = [(one.verdicts, one.prompts) for one in compared.values() if one.verdicts is not None]
    if not verdicts:
        return None
    names = np.array([p for _, prompts in verdicts for p in prompts])
    record: dict[str, Any] = {
        "calls": sum(v.calls for v, _ in verdicts),
        "invalid": sum(v.invalid for v, _ in verdicts),
    }
    for name in ("consistent", "first_wins"):
        values = np.concatenate([getattr(v, name) for v, _ in verdicts])
        known = np.flatnonzero(~np.isnan(values))
        record[name] = None
        if len(known):
            of = [clusters[p] for p in names[known]]
            record[name] = proportion_interval(values[known], clusters=of, confidence=confidence).as_dict()
    return record
