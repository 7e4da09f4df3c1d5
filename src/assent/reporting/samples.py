"""Samples to read: those with the winner's largest gains over the baseline, and its largest losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assent.reporting.sources import Stage

SHOWN = 4
"""Gains and losses shown, each."""
LONGEST = 4000
"""Most characters of a text; a note says how many were cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    policy: str
    text: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A prompt with the baseline's answer, the winner's answer and the others."""

    prompt: tuple[Turn, ...]
    before: Answer
    after: Answer
    others: tuple[Answer, ...]

    @property
    def gain(self) -> float:
        return self.after.score - self.before.score


def contrasts(evaluation: Mapping[str, Any] | None, winner: str | None) -> dict[str, Any] | None:
    """`gains` and `losses`, largest first, and how many prompts gained, lost and stayed equal. None without samples."""
    if evaluation is None or winner is None or not evaluation.get("samples"):
        return None
    baseline = evaluation["baseline"]
    found = [
        _contrast(sample, baseline, winner)
        for sample in evaluation["samples"]
        if all((sample["completions"].get(name) or {}).get("score") is not None for name in (baseline, winner))
    ]
    if not found or winner == baseline:
        return None
    ordered = sorted(found, key=lambda contrast: -contrast.gain)
    gains = [contrast for contrast in ordered if contrast.gain > 0]
    losses = [contrast for contrast in reversed(ordered) if contrast.gain < 0]
    return {
        "winner": winner,
        "baseline": baseline,
        "gains": gains[:SHOWN],
        "losses": losses[:SHOWN],
        "num_gains": len(gains),
        "num_losses": len(losses),
        "num_equal": len(found) - len(gains) - len(losses),
    }


def last_samples(stage: Stage) -> list[dict[str, Any]]:
    """The stage's last logged samples, for a run without an evaluation."""
    if not stage.samples:
        return []
    last = max(row.get("step", 0) for row in stage.samples)
    rows = [row for row in stage.samples if row.get("step", 0) == last]
    return [
        {
            "step": last,
            "prompt": _turns(row.get("prompt", "")),
            "text": _cut(str(row.get("completion", ""))),
            "score": row.get("score"),
        }
        for row in rows[: 2 * SHOWN]
    ]


def _contrast(sample: Mapping[str, Any], baseline: str, winner: str) -> Contrast:
    answers = {
        name: Answer(policy=name, text=_cut(answer["text"]), score=float(answer["score"]))
        for name, answer in sample["completions"].items()
        if answer["score"] is not None
    }
    return Contrast(
        prompt=_turns(sample["prompt"]),
        before=answers.pop(baseline),
        after=answers.pop(winner),
        others=tuple(answers.values()),
    )


def _turns(prompt: Any) -> tuple[Turn, ...]:
    if isinstance(prompt, str):
        return (Turn(role="", text=_cut(prompt)),)
    return tuple(Turn(role=str(m.get("role", "")), text=_cut(str(m.get("content", "")))) for m in prompt)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"
