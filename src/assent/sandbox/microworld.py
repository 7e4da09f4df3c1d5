"""A world that is small enough to enumerate: completions of at most four tokens out of at most 32, in float64.

It has a reference policy (a Markov chain over tokens) and a reward on whole completions. The optimum of
E[r] − β·KL(π‖π_ref) is π_ref·exp(r/β)/Z (Rafailov et al., arXiv:2305.18290, eq. 4). The distribution of the best of N
samples, its KL and its mean reward are exact too, with ties.

Legend: S completions, V tokens (the last one is the end of the sequence).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from assent.errors import ConfigError

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class MicroWorld:
    """A world with `vocabulary` tokens and completions of at most `length` tokens, including the end token."""

    vocabulary: int = 6
    length: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (2 <= self.vocabulary <= 32 and 1 <= self.length <= 4):
            raise ConfigError(
                "the micro-world must be small enough to enumerate",
                got=f"vocabulary {self.vocabulary}, length {self.length}",
                expected="2 to 32 tokens, length 1 to 4",
            )

    @property
    def end(self) -> int:
        """Id of the end token: the last one of the vocabulary."""
        return self.vocabulary - 1

    @cached_property
    def completions(self) -> NDArray[np.int64]:
        """(S, length): all completions; shorter ones are filled with the end token, one without it was cut."""
        rows = np.zeros((1, 0), dtype=np.int64)
        for _ in range(self.length):
            ended = rows[:, -1] == self.end if rows.shape[1] else np.zeros(len(rows), dtype=bool)
            grown = np.concatenate([np.repeat(rows[~ended], self.vocabulary, axis=0),
                                    np.tile(np.arange(self.vocabulary), (~ended).sum())[:, None]], axis=1)  # fmt: skip
            stayed = np.concatenate([rows[ended], np.full((ended.sum(), 1), self.end)], axis=1)
            rows = np.concatenate([grown, stayed])
        return rows[np.lexsort(rows.T[::-1])]

    @cached_property
    def transitions(self) -> Vector:
        """(V, V): row s has the log-probabilities of the token after token s. The end token's row is also the start."""
        logits = np.random.default_rng([self.seed, 1]).normal(size=(self.vocabulary, self.vocabulary))
        return logits - _logsumexp(logits, axis=1)[:, None]

    @cached_property
    def reference(self) -> Vector:
        """(S,): log π_ref of each completion."""
        total = np.zeros(len(self.completions))
        before = np.full(len(self.completions), self.end)
        alive = np.ones(len(self.completions), dtype=bool)
        for place in range(self.length):
            token = self.completions[:, place]
            total += np.where(alive, self.transitions[before, token], 0.0)
            alive &= token != self.end
            before = token
        return total

    @cached_property
    def reward(self) -> Vector:
        """(S,): each completion's reward, in [0, 1] and rounded to tenths so that ties occur."""
        worth = np.random.default_rng([self.seed, 2]).normal(size=self.vocabulary)
        raw = np.asarray(worth[self.completions].sum(axis=1), dtype=np.float64)
        return np.round((raw - raw.min()) / np.ptp(raw), 1)

    def optimum(self, beta: float) -> tuple[Vector, float]:
        """(S,) log-probabilities of the policy that maximises E[r] − β·KL(π‖π_ref), and log Z."""
        tilted = self.reference + self.reward / beta
        log_z = float(_logsumexp(tilted))
        return tilted - log_z, log_z

    def best_of(self, n: int, reward: Vector | None = None) -> Vector:
        """(S,) log-probabilities of the best of `n` samples of the reference; equal samples are equally likely.

        P(s) = π_ref(s)·(F(r)ⁿ − F(r⁻)ⁿ)/(F(r) − F(r⁻)), with F the distribution function of the reward r = r(s).
        """
        reward = self.reward if reward is None else reward
        probability = np.exp(self.reference)
        levels, place = np.unique(reward, return_inverse=True)
        mass = np.bincount(place, weights=probability, minlength=len(levels))
        upper = np.cumsum(mass) / mass.sum()
        lower = np.concatenate([[0.0], upper[:-1]])
        with np.errstate(divide="ignore"):  # what almost never wins has probability 0
            return self.reference + np.log((upper**n - lower**n) / (upper - lower))[place]

    @staticmethod
    def kl(log_p: Vector, log_q: Vector) -> float:
        """KL(p‖q) in nats; p may hold zeros (−inf)."""
        p = np.exp(log_p)
        held = p > 0
        return float(np.sum(p[held] * (log_p[held] - log_q[held])))

    def mean_reward(self, log_p: Vector) -> float:
        return float(np.exp(log_p) @ self.reward)

    def preference(self, first: int, second: int) -> float:
        """Bradley–Terry probability that completion `first` beats `second` (row numbers of `completions`)."""
        return float(1.0 / (1.0 + np.exp(self.reward[second] - self.reward[first])))


def _logsumexp(x: Vector, axis: int | None = None) -> Vector:
    top = x.max(axis=axis, keepdims=True)
    return np.squeeze(np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top, axis=axis)
