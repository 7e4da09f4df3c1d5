"""The table of an evaluation: its figures as records and as JSON. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from assent.runs.files import write_json
from assent.statistics.comparisons import LengthControl
from assent.statistics.intervals import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy's figures in one decoding (greedy or sampled), over P prompts. All intervals are clustered by prompt.

    None: unknown, or there is nothing to compare with.
    """

    gold: Estimate | None
    """Mean score; None if a judge compared the answers instead."""
    win_rate: Estimate | None
    """Against the baseline in the same decoding; a tie counts half. None for the baseline itself."""
    length: Estimate | None
    """Mean tokens of a completion, EOS included; None for a file without this column."""
    eos_rate: Estimate | None
    """Share that ended with EOS."""
    scores: tuple[tuple[float, ...], ...]
    """P rows with a score for each completion, from which intervals over several evaluations (seeds) can be made."""
    characters: Estimate
    """Mean length in characters."""
    difference: Estimate | None = None
    """Mean score minus the baseline's on the same prompts."""
    length_controlled: LengthControl | None = None
    """The win rate at equal length."""
    prompts_needed: int | None = None
    """Prompts that it takes for the wanted precision of the win rate."""
    entropy: Estimate | None = None
    """−Σ log π of a sampled completion, in nats."""
    k1: Estimate | None = None
    """KL to the reference in nats per completion, estimated by k1."""
    k3: Estimate | None = None
    """The same, estimated by k3."""
    distinct_1: Estimate | None = None
    """Share of different words in a prompt's completions, mean over prompts."""
    distinct_2: Estimate | None = None
    """The same for pairs of neighbouring words."""
    refusal_rate: Estimate | None = None
    """Share of refusals: by the safety function if it says so, otherwise by how the answers begin."""
    safety: Mapping[str, Estimate] = field(default_factory=dict)
    """Faults and attributes by name, never averaged with each other."""
    slices: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)
    """Column to value to the figures over its prompts."""

    def as_dict(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in self.__slots__ if name not in ("scores", "safety", "slices")}
        return {
            **{
                name: value if value is None or isinstance(value, int) else value.as_dict()
                for name, value in known.items()
            },
            "scores": [list(row) for row in self.scores],
            "safety": {name: estimate.as_dict() for name, estimate in self.safety.items()},
            "slices": {c: {v: figures.as_dict() for v, figures in by.items()} for c, by in self.slices.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KLFigures:
    """KL(policy || reference) in nats per completion.

    `estimate`: k1 and k3 from sampled completions. `best_of_n`: the bound log n - (n - 1)/n minus the effect of ties
    (inference/curve.py), plus the KL of the policy that was sampled to the reference.
    """

    kind: Literal["estimate", "best_of_n"]
    value: float
    """k1, or the estimate for best-of-n."""
    k1: Estimate | None = None
    k3: Estimate | None = None
    best_of_n: Estimate | None = None
    choice_bound: float | None = None
    """log n - (n - 1)/n: the most that choosing can add."""

    def as_dict(self) -> dict[str, Any]:
        of = {name: getattr(self, name) for name in ("k1", "k3", "best_of_n")}
        known = {name: None if e is None else e.as_dict() for name, e in of.items()}
        return {"kind": self.kind, "value": self.value, **known, "choice_bound": self.choice_bound}

    def text(self) -> str:
        """`4.21 ±0.30`: the value and half its interval."""
        estimate = self.k1 or self.best_of_n
        assert estimate is not None
        return plus_minus(estimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One policy's figures. `greedy` is None for best-of-n, which has no greedy form."""

    name: str
    sampled: Figures
    greedy: Figures | None
    kl: KLFigures | None
    """None if it cannot be measured: for completions from a file, or without a reference."""
    rating: Estimate | None = None
    """Bradley–Terry rating in Elo points, the baseline at 0; None with two policies, and if it is not finite."""
    ledger: Mapping[str, float] = field(default_factory=dict)
    """The `cost/*` metrics that its training logged."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sampled": self.sampled.as_dict(),
            "greedy": None if self.greedy is None else self.greedy.as_dict(),
            "kl": None if self.kl is None else self.kl.as_dict(),
            "rating": None if self.rating is None else self.rating.as_dict(),
            "ledger": dict(self.ledger),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable:
    """The figures of several policies on the same prompts."""

    rows: tuple[PolicyRow, ...]
    baseline: str
    reference: str | None
    """Name of the policy that KL is measured to; None: it is not measured."""
    scorer: str
    num_prompts: int
    confidence: float
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """max_new_tokens, temperature, samples_per_prompt, seed."""
    precision: float | None = None
    """Wanted half-width of a win rate's interval, for `prompts_needed`."""
    judge: Mapping[str, Any] | None = None
    """If a judge compared: how often its two orders agree, how often the first answer wins, calls, invalid replies."""
    wins: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Policy to rival to win rate of sampled answers, if there are more than two policies."""
    samples: tuple[Mapping[str, Any], ...] = ()
    """`{prompt, completions: {policy: {text, score}}}`, one for each prompt."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further figures for evaluation.json; the report shows `reward_model`."""

    def row(self, name: str) -> PolicyRow:
        return next(row for row in self.rows if row.name == name)

    def as_dict(self) -> dict[str, Any]:
        """The content of evaluation.json; reporting/SCHEMA.md has its schema."""
        return {
            "schema": 1,
            "baseline": self.baseline,
            "reference": self.reference,
            "scorer": self.scorer,
            "num_prompts": self.num_prompts,
            "confidence": self.confidence,
            "decoding": dict(self.decoding),
            "precision": self.precision,
            "judge": None if self.judge is None else dict(self.judge),
            "wins": {a: {b: rate.as_dict() for b, rate in by.items()} for a, by in self.wins.items()},
            "policies": [row.as_dict() for row in self.rows],
            "samples": [dict(sample) for sample in self.samples],
            **self.extra,
        }

    def write(self, folder: str | Path) -> Path:
        """Writes evaluation.json into a folder, which is created if it is missing, and returns its path."""
        path = Path(folder) / "evaluation.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.as_dict())
        return path


def plus_minus(estimate: Estimate) -> str:
    """`0.41 ±0.03`: the value and half its interval, which is symmetric for a mean. Never `-0.00`."""
    reach, value = estimate.high - estimate.value, round(estimate.value, 2) + 0.0
    return f"{value:.2f} ±{reach:.2f}" if math.isfinite(reach) else f"{value:.2f}"
