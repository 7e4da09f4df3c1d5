"""Case 33: the reward model as a proxy: where gold peaks, and what more labels, an ensemble, beta and a stop buy.

The world is a micro-world in which every completion is enumerated, so all rewards and KLs are exact; only labels are
drawn. Reward models (Bradley-Terry on which token follows which) learn from few or many noisy comparisons of the
reference's samples. For every beta, the policy is the exact optimum of E[proxy] - beta KL, which reinforcement learning
approaches.

    python examples/cases/33_reward_model_as_a_proxy.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from assent.config.ensembles import Combination
from assent.evaluation.laws import LAWS, fit
from assent.rewards.reward_model import combine
from assent.sandbox.microworld import MicroWorld

WORLDS = range(10)
FEW, MANY, MEMBERS, SCALE, WEAK = 100, 2000, 5, 4.0, 10.0
BETAS = np.geomspace(8.0, 0.02, 40)
STOPS, JUDGED = range(3, 40, 3), 40
KINDS = {"one model": None, "mean of 5": "mean", "lowest of 5": "min", "mean less deviation": "mean-std:1"}


class Curve(NamedTuple):
    """Figures along falling beta: d = sqrt(KL), and the gains of gold and of the proxy over the reference.

    `stopped` is gold's gain at the beta where people like the policy's own samples most.
    """

    d: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    stopped: float


class Found(NamedTuple):
    """Means over worlds of gold's gain: at the best beta, at the smallest, at the chosen one.

    `at` and `beta` are d and the geometric mean of beta at the best one. `proxy_rises` says whether the proxy rises
    with every fall of beta, in every world. `r2` is each law's.
    """

    peak: float
    at: float
    beta: float
    end: float
    stopped: float
    proxy_rises: bool
    r2: dict[str, float]


def main() -> dict[tuple[str, int], Found]:
    found: dict[tuple[str, int], Found] = {}
    print(f"Means over {len(WORLDS)} worlds: gain of gold over the reference (gold lies in 0 to 1); d = sqrt(KL).\n")
    print(f"{'proxy':<22}{'pairs':>6}{'best beta':>11}{'at beta':>9}{'at d':>7}{'beta -> 0':>11}{'early stop':>12}")
    for pairs in (FEW, MANY):
        for kind, curves in by_kind(pairs).items():
            one = found[kind, pairs] = over_worlds(curves)
            print(f"{kind:<22}{pairs:>6}{one.peak:>11.3f}{one.beta:>9.3f}{one.at:>7.2f}{one.end:>11.3f}"
                  f"{one.stopped:>12.3f}")  # fmt: skip
    few, many, mean = found["one model", FEW], found["one model", MANY], found["mean of 5", FEW]
    print(
        f"\nThe proxy rises to the end. With {FEW} labels gold peaks at d = {few.at:.2f} and falls by "
        f"{few.peak - few.end:.3f}; with {MANY}\nat d = {many.at:.2f} and falls by {many.peak - many.end:.3f}. "
        f"The mean of five models, from the same {FEW} labels, has\n{mean.peak:.3f} at the peak, not {few.peak:.3f}, "
        f"and {mean.end:.3f} at the end, not {few.end:.3f}. A beta chosen by {len(STOPS) * JUDGED} comparisons of the\n"
        f"policies' own samples with the reference's keeps {few.stopped:.3f} of {few.peak:.3f}; it adds nothing to the "
        f"peak, as labels for\nthe reward model do. R2 of the laws on one model's curves: "
        + ", ".join(f"{law} {r2:.2f}" for law, r2 in few.r2.items())
    )
    return found


def by_kind(pairs: int) -> dict[str, list[Curve]]:
    curves: dict[str, list[Curve]] = {kind: [] for kind in KINDS}
    for seed in WORLDS:
        world = MicroWorld(vocabulary=7, length=4, seed=seed)
        for kind, proxy in proxies_of(world, pairs, draw=seed).items():
            curves[kind].append(along_beta(world, proxy, draw=seed))
    return curves


def over_worlds(curves: list[Curve]) -> Found:
    tops = [int(np.argmax(curve.gold)) for curve in curves]
    return Found(
        peak=float(np.mean([curve.gold[top] for curve, top in zip(curves, tops, strict=True)])),
        at=float(np.mean([curve.d[top] for curve, top in zip(curves, tops, strict=True)])),
        beta=float(np.exp(np.mean([np.log(BETAS[top]) for top in tops]))),
        end=float(np.mean([curve.gold[-1] for curve in curves])),
        stopped=float(np.mean([curve.stopped for curve in curves])),
        proxy_rises=all((np.diff(curve.proxy) > -1e-9).all() for curve in curves),
        r2={law: float(np.mean([fit(law, curve.d, curve.gold)[2] for curve in curves])) for law in LAWS},
    )


def along_beta(world: MicroWorld, proxy: np.ndarray, *, draw: int) -> Curve:
    """For each beta the optimum is pi_ref exp(proxy / beta) / Z."""
    tilted = [world.reference + proxy / beta for beta in BETAS]
    policies = [logits - np.logaddexp.reduce(logits) for logits in tilted]
    gold = np.array([world.mean_reward(policy) for policy in policies]) - world.mean_reward(world.reference)
    return Curve(
        d=np.sqrt([max(world.kl(policy, world.reference), 0.0) for policy in policies]),
        gold=gold,
        proxy=np.array([np.exp(policy) @ proxy for policy in policies]) - np.exp(world.reference) @ proxy,
        stopped=gold[stop(world, policies, draw=draw)],
    )


def stop(world: MicroWorld, policies: list[np.ndarray], *, draw: int) -> int:
    """Index of the beta at which noisy judges most often prefer the policy's sample to the reference's."""
    rng = np.random.default_rng([draw, 99])
    wins = {}
    for number in STOPS:
        own, other = (drawn(world, policy, JUDGED, rng) for policy in (policies[number], world.reference))
        wins[number] = (rng.random(JUDGED) < likes(world, own, other)).mean()
    return max(wins, key=lambda number: wins[number])


def drawn(world: MicroWorld, policy: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chance = np.exp(policy)
    return rng.choice(len(chance), count, p=chance / chance.sum())


def likes(world: MicroWorld, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability that a noisy judge prefers the first."""
    return 1 / (1 + np.exp(-SCALE * (world.reward[first] - world.reward[second])))


def proxies_of(world: MicroWorld, pairs: int, *, draw: int) -> dict[str, np.ndarray]:
    """(S,) scores of each kind of proxy: one reward model, and five on resamples of the same comparisons, combined."""
    rng = np.random.default_rng([draw, pairs])
    first, second = (drawn(world, world.reference, pairs, rng) for _ in range(2))
    wins = rng.random(pairs) < likes(world, first, second)
    counts = transitions(world)
    difference = (counts[first] - counts[second]) * np.where(wins, 1, -1)[:, None]
    weights = rng.poisson(1.0, size=(MEMBERS, pairs)).astype(float)
    members = torch.tensor(np.stack([learnt(counts, difference, weight) for weight in weights], axis=1))
    return {
        kind: learnt(counts, difference, np.ones(pairs))
        if form is None
        else combine(members, Combination.parse(form)).numpy()
        for kind, form in KINDS.items()
    }


def learnt(counts: np.ndarray, difference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(S,) Bradley-Terry by weakly regularised maximum likelihood: logistic regression on differences, both ways."""
    both, labels = np.concatenate([difference, -difference]), np.repeat([1, 0], len(difference))
    model = LogisticRegression(C=WEAK, fit_intercept=False, max_iter=500)
    model.fit(both, labels, sample_weight=np.concatenate([weights, weights]))
    return counts @ model.coef_[0]


def transitions(world: MicroWorld) -> np.ndarray:
    """(S, V * V) how often each token follows each other token. The end token's row is also the start."""
    rows, v = world.completions, world.vocabulary
    counts = np.zeros((len(rows), v * v))
    before, alive = np.full(len(rows), world.end), np.ones(len(rows), dtype=bool)
    for place in range(world.length):
        np.add.at(counts, (np.flatnonzero(alive), (before * v + rows[:, place])[alive]), 1)
        alive &= rows[:, place] != world.end
        before = rows[:, place]
    return counts


if __name__ == "__main__":
    main()
