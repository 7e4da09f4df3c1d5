"""How often do the evaluation's intervals contain the truth, over simulated evaluations?

    python benchmarks/coverage.py [--evaluations 2000] [--prompts 150]

Every interval is a nominal 95% one. Prompts differ in how well they suit a policy, and each has several answers, so
answers are not independent. The truth is what endless prompts would give; it is computed apart, with high precision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.special import expit

from assent.evaluation.kl import kl_estimates
from assent.evaluation.win_rate import win_rate
from assent.statistics.comparisons import length_controlled
from assent.statistics.intervals import Estimate, mean_interval, paired_difference, proportion_interval
from assent.statistics.ratings import bradley_terry

ANSWERS = 4
MANY = 400_000
Simulation = tuple[Callable[[np.random.Generator, int], Estimate | None], float]
"""One simulated evaluation of so many prompts, and the truth."""


def by_prompt(generator: np.random.Generator, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """(P · K,) each answer's prompt, and how well that prompt suits the policy (the same for its K answers)."""
    return np.repeat(np.arange(prompts), ANSWERS), np.repeat(generator.normal(size=prompts), ANSWERS)


def mean_score() -> Simulation:
    def one(generator: np.random.Generator, prompts: int) -> Estimate:
        of, taste = by_prompt(generator, prompts)
        return mean_interval(0.3 + taste + generator.exponential(size=len(of)), clusters=of)

    return one, 1.3


def share(rate: float) -> Callable[[], Simulation]:
    def simulation() -> Simulation:
        def one(generator: np.random.Generator, prompts: int) -> Estimate:
            of, _ = by_prompt(generator, prompts)
            p = np.repeat(generator.beta(4 * rate, 4 * (1 - rate), size=prompts), ANSWERS)
            return proportion_interval((generator.random(len(of)) < p).astype(float), clusters=of)

        return one, rate

    return simulation


def wins() -> Simulation:
    """Scores are normal around each prompt's own difference. Differences have mean 0.3 and deviation 1."""

    def one(generator: np.random.Generator, prompts: int) -> Estimate:
        gap = generator.normal(0.3, 1.0, size=(prompts, 1))
        a, b = gap + generator.normal(size=(prompts, ANSWERS)), generator.normal(size=(prompts, ANSWERS))
        return win_rate(a, b)

    return one, float(stats.norm.cdf(0.3 / np.sqrt(3)))


def difference() -> Simulation:
    def one(generator: np.random.Generator, prompts: int) -> Estimate:
        of, taste = by_prompt(generator, prompts)
        own = np.repeat(generator.normal(0.2, 0.5, size=prompts), ANSWERS)
        a, b = (3 * taste + generator.normal(size=len(of)) for _ in range(2))
        return paired_difference(a + own, b, clusters=of)

    return one, 0.2


def at_equal_length() -> Simulation:
    def drawn(generator: np.random.Generator, prompts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of, taste = by_prompt(generator, prompts)
        delta = generator.normal(0.7, 1.0, size=len(of))
        return of, delta, expit(0.3 + 0.8 * taste + 1.5 * np.tanh(delta))

    def one(generator: np.random.Generator, prompts: int) -> Estimate | None:
        of, delta, p = drawn(generator, prompts)
        found = length_controlled((generator.random(len(of)) < p).astype(float), delta, clusters=of)
        return None if found is None else found.win_rate

    _, delta, p = drawn(np.random.default_rng(1), MANY)
    truth = length_controlled(p, delta)
    assert truth is not None
    return one, truth.win_rate.value


def rating() -> Simulation:
    def drawn(generator: np.random.Generator, prompts: int) -> dict[tuple[str, str], np.ndarray]:
        strength = {name: s + 0.8 * generator.normal(size=prompts) for name, s in (("a", 0.0), ("b", 0.4), ("c", 0.9))}
        pairs = (("b", "a"), ("c", "a"), ("c", "b"))
        return {(x, y): generator.binomial(ANSWERS, expit(strength[x] - strength[y])) / ANSWERS for x, y in pairs}

    def one(generator: np.random.Generator, prompts: int) -> Estimate | None:
        return bradley_terry(drawn(generator, prompts), baseline="a")["c"]

    truth = bradley_terry(drawn(np.random.default_rng(1), MANY), baseline="a")["c"]
    assert truth is not None
    return one, truth.value


def kl(estimator: str) -> Callable[[], Simulation]:
    """Completions of ten tokens over five words. Policy and reference are fixed, and differ by prompt."""
    generator = np.random.default_rng(3)
    pool = 4000
    policy, reference = (generator.dirichlet(np.full(5, 4.0), size=pool) for _ in range(2))
    truth = 10 * float((policy * np.log(policy / reference)).sum(1).mean())

    def simulation() -> Simulation:
        def one(generator: np.random.Generator, prompts: int) -> Estimate:
            of = np.repeat(generator.integers(pool, size=prompts), ANSWERS)
            uniform = generator.random((len(of), 10, 1))
            words = (uniform > policy[of].cumsum(1)[:, None, :]).sum(2).clip(max=4)
            rows = np.arange(len(of))[:, None]
            logs = [np.log(table[of][rows, words]) for table in (policy, reference)]
            estimates = kl_estimates(list(logs[0]), list(logs[1]), clusters=np.repeat(np.arange(prompts), ANSWERS))
            found: Estimate = getattr(estimates, estimator)
            return found

        return one, truth

    return simulation


SIMULATIONS: dict[str, Callable[[], Simulation]] = {
    "mean score": mean_score,
    "share near 1/2": share(0.5),
    "share of 1 in 20": share(0.05),
    "win rate": wins,
    "paired difference": difference,
    "win rate at equal length": at_equal_length,
    "Bradley–Terry rating": rating,
    "KL by k1": kl("k1"),
    "KL by k3": kl("k3"),
}


def coverage(name: str, *, evaluations: int, prompts: int) -> tuple[float, int]:
    """Share of the evaluations whose interval contains the truth, and how many had no figure."""
    one, truth = SIMULATIONS[name]()
    inside = without = 0
    for seed in range(evaluations):
        found = one(np.random.default_rng([7, seed]), prompts)
        without += found is None
        inside += found is not None and found.low <= truth <= found.high
    return inside / max(1, evaluations - without), without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=150)
    given = parser.parse_args()
    print(f"{given.evaluations} evaluations of {given.prompts} prompts with {ANSWERS} answers each; nominal 95%")
    for name in SIMULATIONS:
        start = time.perf_counter()
        share_, without = coverage(name, evaluations=given.evaluations, prompts=given.prompts)
        absent = f", {without} without a figure" if without else ""
        print(f"{name:<26} {share_:.1%}   ({time.perf_counter() - start:.0f} s{absent})", flush=True)


if __name__ == "__main__":
    main()
