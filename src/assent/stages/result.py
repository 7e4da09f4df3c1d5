"""What a stage gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StageResult:
    """`metrics` are the last values of what was logged, held-out figures included."""

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
