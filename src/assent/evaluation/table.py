"""The table of a comparison of policies: what was measured, as records, as JSON and as lines of text. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from assent.evaluation.intervals import Estimate
from assent.runs.files import write_json

LEDGER_COLUMNS = {
    "cost/labels": "labels",
    "cost/completions_sampled": "sampled",
    "cost/reward_calls": "rewards",
    "cost/flops": "TFLOP",
    "cost/seconds": "seconds",
    "cost/peak_memory_bytes": "peak MB",
    "cost/models_resident": "models",
}
_LEDGER_UNIT = {"cost/flops": 1e12, "cost/peak_memory_bytes": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One way of decoding (greedy or sampled), over P prompts. Every interval is clustered by prompt."""

    gold: Estimate
    """Mean score."""
    win_rate: Estimate | None
    """Against the baseline decoded the same way; ties half. None for the baseline itself."""
    length: Estimate
    """Mean tokens of a completion, EOS included."""
    eos_rate: Estimate
    """Share that ended by themselves."""
    scores: tuple[tuple[float, ...], ...]
    """P rows, one score for each completion: what intervals over several evaluations (seeds) are made from."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "gold": self.gold.as_dict(),
            "win_rate": None if self.win_rate is None else self.win_rate.as_dict(),
            "length": self.length.as_dict(),
            "eos_rate": self.eos_rate.as_dict(),
            "scores": [list(row) for row in self.scores],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KLFigures:
    """KL(policy || reference) in nats per completion.

    `estimate`: k1 and k3 from sampled completions. `bound`: log n - (n - 1)/n of best-of-n, from above, no interval.
    """

    kind: Literal["estimate", "bound"]
    value: float
    """k1 where it is estimated."""
    k1: Estimate | None = None
    k3: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        k1, k3 = (None if e is None else e.as_dict() for e in (self.k1, self.k3))
        return {"kind": self.kind, "value": self.value, "k1": k1, "k3": k3}

    def text(self) -> str:
        """`4.21 ±0.30`, half a 95% interval; `≤1.83` for a bound."""
        if self.k1 is None:
            return f"≤{self.value:.2f}"
        return _plus_minus(self.k1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """What one policy did. `greedy` is None for best-of-n, which has no greedy form."""

    name: str
    sampled: Figures
    greedy: Figures | None
    kl: KLFigures
    ledger: Mapping[str, float] = field(default_factory=dict)
    """`cost/*` of making it, as its stages logged them."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sampled": self.sampled.as_dict(),
            "greedy": None if self.greedy is None else self.greedy.as_dict(),
            "kl": self.kl.as_dict(),
            "ledger": dict(self.ledger),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable:
    """Several policies on the same prompts."""

    rows: tuple[PolicyRow, ...]
    baseline: str
    reference: str
    """Name of the policy that KL is measured against."""
    scorer: str
    num_prompts: int
    confidence: float
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """max_new_tokens, temperature, samples_per_prompt, seed."""
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

    def lines(self) -> list[str]:
        """Plain text within 80 columns: sampled figures, greedy figures, the ledger."""
        percent = f"{self.confidence:.0%}"
        lines = [f"{self.num_prompts} prompts, scored by {_cut(self.scorer, 20)}; {percent} intervals over prompts"]
        for decoding in ("sampled", "greedy"):
            head = ("score", f"wins vs {_cut(self.baseline, 9)}", "KL, nats" if decoding == "sampled" else "")
            body = [self._cells(row, decoding) for row in self.rows if getattr(row, decoding) is not None]
            lines += ["", *_aligned([(decoding, *head, "tokens", "ended"), *body])]
        return lines + self._ledger_lines()

    @staticmethod
    def _cells(row: PolicyRow, decoding: str) -> tuple[str, ...]:
        figures: Figures = getattr(row, decoding)
        win_rate = "—" if figures.win_rate is None else figures.win_rate.text()
        kl = row.kl.text() if decoding == "sampled" else ""
        ended = f"{figures.eos_rate.value:.0%}"
        return (row.name, _plus_minus(figures.gold), win_rate, kl, f"{figures.length.value:.1f}", ended)

    def _ledger_lines(self) -> list[str]:
        names = [name for name in LEDGER_COLUMNS if any(name in row.ledger for row in self.rows)]
        if not names:
            return []
        body = [
            (row.name, *(_amount(row.ledger[n] / _LEDGER_UNIT.get(n, 1)) if n in row.ledger else "—" for n in names))
            for row in self.rows
        ]
        return ["", *_aligned([("cost", *(LEDGER_COLUMNS[name] for name in names)), *body])]


def _plus_minus(estimate: Estimate) -> str:
    """`0.41 ±0.03`: value and half its interval, which is symmetric for a mean. Never `-0.00`."""
    reach, value = estimate.high - estimate.value, round(estimate.value, 2) + 0.0
    return f"{value:.2f} ±{reach:.2f}" if math.isfinite(reach) else f"{value:.2f}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _aligned(table: Sequence[Sequence[str]], *, widest_name: int = 16) -> list[str]:
    """First column left, the others right; a rule under the head; a long name is cut."""
    rows = [(_cut(row[0], widest_name), *row[1:]) for row in table]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [line.rstrip() for line in (lines[0], "─" * max(map(len, lines)), *lines[1:])]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
