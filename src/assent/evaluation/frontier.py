"""Proxy and gold reward at every distance from the reference: best-of-N by a proxy, and trained policies.

Measurements are kept by row, so that all intervals and fits are over the same prompts (laws.py). Rows of one prompt are
one unit (`clusters`): a prompt that stands twice is not two.

Legend: P rows of prompts, M completions of the reference for each prompt, C points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assent.evaluation.laws import LAWS, Curve, beyond_peak, find_peak, fit_law, more_gold_at_equal_kl
from assent.evaluation.policies import reference_logprobs
from assent.inference.best_of_n import best_of_n_kl_bound, chances_of_best, shared_by_ties
from assent.inference.curve import Drawn, best_of_n_kl_estimates, drawn_of
from assent.rewards.base import Reward, score_rollouts
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup, Rollout

if TYPE_CHECKING:
    from assent.models.module import AlignmentModel

MIN_POINTS = 3
"""Points with KL above 0 that fitting a law needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A reward that stands in for gold. `pairs`: comparisons it was trained on, if its run is known."""

    name: str
    reward: Reward
    pairs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of one policy: (P, K) scores by gold and by each proxy, and P rows of its K completions."""

    gold: np.ndarray
    proxies: Mapping[str, np.ndarray]
    drawn: Sequence[Sequence[Drawn]]
    kl: np.ndarray | None = None
    """(P, K) log π − log π_ref of each completion; its mean under π is the KL (k1). None for the reference itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveData:
    """One curve, by prompt (P, C). `proxy`: scores by the proxy it was trained against; None if that is not among the
    proxies, or if there was none (as for DPO)."""

    name: str
    method: str
    proxy_name: str | None
    pairs: int | None
    labels: Sequence[Mapping[str, Any]]
    """For each point its `label`, and `n`, or `run` and `step`."""
    kl: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray | None
    kl_bounds: Sequence[float] | None = None
    """Best-of-N only: log N − (N − 1)/N for each point."""


def measure(
    rollouts: Sequence[Rollout],
    groups: Sequence[PromptGroup],
    *,
    gold: Reward,
    proxies: Sequence[Proxy],
    reference: AlignmentModel | None,
) -> Measured:
    """Scores and distances of rollouts, which are ordered by prompt with equally many for each of the P groups.

    reference   reads the rollouts' ids; None if the reference sampled them
    """
    each = len(rollouts) // len(groups)
    shape = (len(groups), each)
    drawn = drawn_of(rollouts)
    kl = None
    if reference is not None:
        under = [float(part.sum()) for part in reference_logprobs(reference, rollouts)]
        kl = (np.array([logprob for _, logprob in drawn]) - np.array(under)).reshape(shape)
    return Measured(
        gold=np.reshape(score_rollouts(gold, rollouts, groups), shape),
        proxies={proxy.name: np.reshape(score_rollouts(proxy.reward, rollouts, groups), shape) for proxy in proxies},
        drawn=[drawn[start : start + each] for start in range(0, len(drawn), each)],
        kl=kl,
    )


def sizes_up_to(largest: int) -> list[int]:
    """N = 1, 2, 3, 4, 6, 8, 12, 16 … up to and including `largest`."""
    powers = [2**k for k in range(int(math.log2(largest)) + 1)]
    return sorted({n for n in (*powers, *(p * 3 // 2 for p in powers if p > 1)) if n <= largest} | {largest})


def best_of_n_curve(proxy: Proxy, reference: Measured, *, sizes: Sequence[int]) -> CurveData:
    """Best-of-N by the proxy for every N of `sizes`, estimated from the reference's M completions."""
    scores = reference.proxies[proxy.name]
    gold, own, kl = (np.empty((len(scores), len(sizes))) for _ in range(3))
    weights = np.array([chances_of_best(scores.shape[1], n) for n in sizes])
    for p, row in enumerate(scores):
        order = np.argsort(row, kind="stable")
        gold[p] = weights @ shared_by_ties(row, reference.gold[p])[order]
        own[p] = weights @ row[order]
        kl[p] = best_of_n_kl_estimates(row, sizes, drawn=reference.drawn[p])
    return CurveData(
        name=f"best-of-n {proxy.name}",
        method="best-of-n",
        proxy_name=proxy.name,
        pairs=proxy.pairs,
        labels=[{"label": f"n = {n}", "n": n} for n in sizes],
        kl=kl,
        gold=gold,
        proxy=own,
        kl_bounds=[best_of_n_kl_bound(n) for n in sizes],
    )


def analyse(
    curve: CurveData,
    reference: Measured,
    *,
    seed: int,
    confidence: float = 0.95,
    clusters: np.ndarray | None = None,
) -> dict[str, Any]:
    """One entry of `methods` in frontier.json (reporting/SCHEMA.md). Points are ordered by KL.

    clusters   (P,) the unit that each row belongs to, 0 … U - 1; None: each row is one
    """
    gain = curve.gold - reference.gold.mean(1, keepdims=True)
    order = np.argsort(curve.kl.mean(0), kind="stable")
    points = Curve(kl=curve.kl[:, order], gain=gain[:, order], clusters=clusters)
    d, _ = points.means()

    def estimate(values: np.ndarray | None, c: int) -> dict[str, Any] | None:
        if values is None:
            return None
        return mean_interval(values[:, c], clusters=clusters, confidence=confidence).as_dict()

    figures = [
        {
            **curve.labels[c],
            "d": float(d[place]),
            "kl": estimate(curve.kl, c),
            "kl_bound": None if curve.kl_bounds is None else curve.kl_bounds[c],
            "proxy": estimate(curve.proxy, c),
            "gold": estimate(curve.gold, c),
            "gain": estimate(gain, c),
        }
        for place, c in enumerate(order)
    ]
    peak = find_peak(points, seed=seed, confidence=confidence)
    enough = int((d > 0).sum()) >= MIN_POINTS
    beyond = beyond_peak(points, peak) if enough and peak.found else None
    intercept = float(reference.gold.mean())
    start = {"score": "gold", "intercept": intercept}
    label = "reference" if peak.index < 0 else figures[peak.index]["label"]
    highest = {"label": label, "sqrt_kl": peak.d, "low": peak.d_ends[0], "high": peak.d_ends[1]}
    highest |= {"gold": intercept + peak.gain, "gain": peak.gain}
    return {
        "name": curve.name,
        "method": curve.method,
        "proxy": curve.proxy_name,
        "pairs": curve.pairs,
        "points": figures,
        "highest": {**highest, "drop": peak.drop.as_dict()},
        "peak": highest if peak.found else None,
        "fits": [
            {**start, **fit_law(law, points, seed=seed, confidence=confidence).as_dict()} for law in LAWS if enough
        ],
        "beyond_peak": None if beyond is None else beyond.as_dict(),
    }


def compare_at_equal_kl(
    curves: Sequence[CurveData], *, seed: int, confidence: float = 0.95, clusters: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """For each trained curve, best-of-N's gold minus its own at equal KL, up to best-of-N's peak.

    Best-of-N uses the proxy that the curve was trained against; if there is none, the proxies trained on as many
    pairs; if there are none either, every proxy.
    """
    choosing = [curve for curve in curves if curve.method == "best-of-n"]
    found = []
    for trained in (curve for curve in curves if curve.method != "best-of-n"):
        own = [c for c in choosing if c.proxy_name == trained.proxy_name and c.proxy_name is not None]
        same = [c for c in choosing if c.pairs == trained.pairs and c.pairs is not None]
        for best in own or same or choosing:
            whole = Curve(kl=best.kl, gain=best.gold - best.gold[:, :1], clusters=clusters)
            upward = slice(0, find_peak(whole, seed=seed, num_resamples=2).index + 1 or None)
            difference = more_gold_at_equal_kl(
                Curve(kl=whole.kl[:, upward], gain=whole.gain[:, upward], clusters=clusters),
                Curve(kl=trained.kl, gain=trained.gold - best.gold[:, :1]),
                seed=seed,
                confidence=confidence,
            )
            found.append({"best_of_n": best.name, "curve": trained.name, "more_gold_at_equal_kl": difference})
    return found
