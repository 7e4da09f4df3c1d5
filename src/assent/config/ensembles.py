"""How the members of a reward ensemble make one reward: `mean`, `min`, `mean-std:K`, `weights:A,B,…`. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import model_validator

from assent.config.options import StageDefaults
from assent.errors import ConfigError

FORMS = "mean, min, mean-std:K (K a number, 0 or more) or weights:A,B,… (a number for each member)"


@dataclass(frozen=True, slots=True)
class Combination:
    """`mean-std`: mean − k · standard deviation over the members (Coste et al., arXiv:2310.02743, take the variance);
    `weights`: Σ w_m r_m, as given."""

    kind: Literal["mean", "min", "mean-std", "weights"] = "mean"
    k: float = 0.0
    weights: tuple[float, ...] = ()

    @staticmethod
    def parse(text: str) -> Combination:
        """Reads one of the four forms. ConfigError for anything else."""
        kind, _, rest = text.partition(":")
        try:
            numbers = tuple(float(part) for part in rest.split(",")) if rest else ()
        except ValueError:
            numbers = (math.nan,)
        sound = all(map(math.isfinite, numbers))
        if kind in ("mean", "min") and ":" not in text:
            return Combination("mean" if kind == "mean" else "min")
        if kind == "mean-std" and len(numbers) == 1 and sound and numbers[0] >= 0:
            return Combination("mean-std", k=numbers[0])
        if kind == "weights" and numbers and sound and any(numbers):
            return Combination("weights", weights=numbers)
        raise ConfigError("no such way to combine an ensemble's members", got=text, expected=FORMS)

    def check(self, members: int, *, name: str) -> None:
        """ConfigError if a reward with this number of members cannot be combined in this way."""
        if members == 1:
            raise ConfigError(
                "reward_ensemble has no effect: the reward has a single member", got=name, fix="leave it out"
            )
        if self.kind == "weights" and len(self.weights) != members:
            raise ConfigError(
                f"reward_ensemble needs a weight for each member of {name}",
                got=len(self.weights),
                expected=members,
                fix=f"give weights:A,B,… with {members} numbers",
            )


class EnsembleOptions(StageDefaults):
    """How to combine the members of a reward ensemble."""

    reward_ensemble: str | None = None
    """How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean minus K standard
    deviations) or weights:A,B,…. Default: mean."""

    @model_validator(mode="after")
    def _combination_is_known(self) -> Self:
        if self.reward_ensemble is not None:
            Combination.parse(self.reward_ensemble)
        return self
