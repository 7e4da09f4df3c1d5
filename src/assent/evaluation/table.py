"""The table of a comparison of policies: what was measured, as records, as JSON and as lines of text. Torch-free."""

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
    """One way of decoding (greedy or sampled), over P prompts. Every interval is clustered by prompt.

    None: it is not known, or there is nothing to compare with.
    """

    gold: Estimate | None
    """Mean score; None where a judge compared answers and scored none."""
    win_rate: Estimate | None
    """Against the baseline decoded the same way; ties half. None for the baseline itself."""
    length: Estimate | None
    """Mean tokens of a completion, EOS included; None for a file that does not say."""
    eos_rate: Estimate | None
    """Share that ended by themselves."""
    scores: tuple[tuple[float, ...], ...]
    """P rows, one score for each completion: what intervals over several evaluations (seeds) are made from."""
    characters: Estimate
    """Mean length in characters."""
    difference: Estimate | None = None
    """Mean score less the baseline's on the same prompts."""
    length_controlled: LengthControl | None = None
    """The win rate at equal length."""
    prompts_needed: int | None = None
    """Prompts with which the win rate's interval would be as narrow as was asked for."""
    entropy: Estimate | None = None
    """−Σ log π of a sampled completion, in nats."""
    k1: Estimate | None = None
    """KL to the reference in nats per completion, by k1."""
    k3: Estimate | None = None
    """The same by k3."""
    distinct_1: Estimate | None = None
    """Different words over all words in a prompt's completions, mean over prompts."""
    distinct_2: Estimate | None = None
    """The same of pairs of neighbouring words."""
    refusal_rate: Estimate | None = None
    """Share of refusals: by the safety function where it says, else by how they open."""
    safety: Mapping[str, Estimate] = field(default_factory=dict)
    """Faults and attributes by name, each of its own completions: never averaged."""
    slices: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)
    """Column to value to the figures of its prompts."""

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

    `estimate`: k1 and k3 from sampled completions. `best_of_n`: the bound log n - (n - 1)/n less what ties take away
    (inference/curve.py), and what the policy that was chosen from is away from the reference.
    """

    kind: Literal["estimate", "best_of_n"]
    value: float
    """k1, or that of best-of-n."""
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
        """`4.21 ±0.30`, half a 95% interval."""
        estimate = self.k1 or self.best_of_n
        assert estimate is not None
        return plus_minus(estimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """What one policy did. `greedy` is None for best-of-n, which has no greedy form."""

    name: str
    sampled: Figures
    greedy: Figures | None
    kl: KLFigures | None
    """None where it cannot be measured: completions from a file, or no reference."""
    rating: Estimate | None = None
    """Bradley–Terry, in Elo points, the baseline at 0; None with two policies, and where it is not finite."""
    ledger: Mapping[str, float] = field(default_factory=dict)
    """`cost/*` of making it, as its stages logged them."""

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
    """Several policies on the same prompts."""

    rows: tuple[PolicyRow, ...]
    baseline: str
    reference: str | None
    """Name of the policy that KL is measured against; None: it is not."""
    scorer: str
    num_prompts: int
    confidence: float
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """max_new_tokens, temperature, samples_per_prompt, seed."""
    precision: float | None = None
    """Half-width of a win rate's interval that `prompts_needed` is about."""
    judge: Mapping[str, Any] | None = None
    """Of a judge that compares: how often its two orders agree, how often the first answer wins, calls, no verdicts."""
    wins: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Policy to rival to win rate, sampled answers, where more than two were compared."""
    samples: tuple[Mapping[str, Any], ...] = ()
    """`{prompt, completions: {policy: {text, score}}}`, one for each prompt."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More figures to keep beside the table: `reward_model` is one that the report knows."""

    def row(self, name: str) -> PolicyRow:
        return next(row for row in self.rows if row.name == name)

    def as_dict(self) -> dict[str, Any]:
        """`evaluation.json`; its schema stands in reporting/SCHEMA.md."""
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
        """`evaluation.json` in a folder, which is made where it is missing."""
        path = Path(folder) / "evaluation.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.as_dict())
        return path


def plus_minus(estimate: Estimate) -> str:
    """`0.41 ±0.03`: value and half its interval, which is symmetric for a mean. Never `-0.00`."""
    reach, value = estimate.high - estimate.value, round(estimate.value, 2) + 0.0
    return f"{value:.2f} ±{reach:.2f}" if math.isfinite(reach) else f"{value:.2f}"
