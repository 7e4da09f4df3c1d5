"""The step-0 gate (law 5): what must hold before the first update, if the run is wired as it says.

Each check is logged, as passed or as not applicable with the reason. A violation stops the run and names the likely
cause.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from assent.engine.learner import Learner
from assent.errors import GateError
from assent.models.batch import TokenGroup
from assent.runs.log import RunLog

# Largest deviations seen on healthy runs, times about ten (tests/unit/test_stages_gate.py measures the first row).
# `sum`: of a completion's summed log-probability or a margin, in nats; `token`: of one token's log-probability;
# `score`: of a reward model's score.
TOLERANCES: dict[str, dict[str, float]] = {
    "float32": {"sum": 1e-3, "token": 1e-4, "score": 1e-4},
    "bfloat16": {"sum": 2.0, "token": 0.25, "score": 0.1},
}


class Gate:
    """Collects the checks of one run. `precision` is the arithmetic of the forward pass: float32 or bfloat16."""

    def __init__(self, log: RunLog, *, precision: str) -> None:
        self.log = log
        self.tolerances = TOLERANCES[precision]
        self.num_passed = 0

    def check(self, name: str, value: float, *, expected: float, tolerance: float, cause: str) -> None:
        """Raises GateError unless |value − expected| ≤ tolerance (a NaN never passes)."""
        deviation = abs(value - expected)
        self.log.metrics(0, {f"gate/{name}": deviation})
        if not deviation <= tolerance:
            raise GateError(
                f"step-0 check failed: {name}",
                got=f"{value:.6g}",
                expected=f"{expected:.6g} ± {tolerance:g}, before any update",
                fix=f"likely cause: {cause}",
            )
        self.num_passed += 1

    def skip(self, name: str, *, reason: str) -> None:
        self.log.note(f"step-0 check {name}: does not apply, {reason}")

    def done(self) -> None:
        self.log.note(f"step-0 gate: {self.num_passed} checks passed")


def precision_of(config: object) -> str:
    """The gate's row for a configuration with `dtype` and `mixed_precision`."""
    bfloat16 = getattr(config, "mixed_precision", "no") == "bf16" or getattr(config, "dtype", "") == "bfloat16"
    return "bfloat16" if bfloat16 else "float32"


def check_loss_tokens(gate: Gate, groups: Sequence[TokenGroup], num_read: int) -> None:
    """The loss reads the completions' counted tokens, all of them and nothing else."""
    counted = sum(completion.num_counted for group in groups for completion in group.completions)
    gate.check(
        "loss_tokens",
        float(num_read),
        expected=float(counted),
        tolerance=0.0,
        cause="the completion mask is shifted or lost",
    )


def check_batch_mates(gate: Gate, learner: Learner, groups: Sequence[TokenGroup], *, want: str) -> None:
    """A completion's log-probability or score is the same alone as among others."""
    name = "score_alone_or_together" if want == "scores" else "logprobs_alone_or_together"
    groups = list(groups)[:4]
    if len(groups) < 2:
        gate.skip(name, reason="the first batch holds a single group")
        return
    together = getattr(learner.read(groups, want={want}), want)
    alone = torch.cat([getattr(learner.read([group], want={want}), want) for group in groups])
    gate.check(
        name,
        float((together - alone).abs().max()),
        expected=0.0,
        tolerance=gate.tolerances["score" if want == "scores" else "token"],
        cause="padding, packing or positions leak between rows; report this model's architecture",
    )
