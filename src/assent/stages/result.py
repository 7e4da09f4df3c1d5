"""The result that a stage returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StageResult:
    """`metrics` holds the last logged value of each metric, held-out figures included."""

    output_dir: Path
    model_path: Path
    steps: int
    metrics: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        return {
            "output_dir": str(self.output_dir),
            "model_path": str(self.model_path),
            "steps": self.steps,
            "metrics": self.metrics,
        }
