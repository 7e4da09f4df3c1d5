"""A round of two rollouts, and readers that say what a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from assent.config.online import OnlineOptions
from assent.engine.runtime import Runtime
from assent.models.batch import Outputs, TokenGroup
from assent.stages.rollout_step import Round, build_round
from assent.types import Rollout

GIVEN = {"model": "m", "data": "d", "reward": "r", "output_dir": "o"}
SINGLE = {**GIVEN, "num_completions": 1}


class Fixed:
    """A reference or critic that gives the same numbers whatever it reads; it keeps what its updates were given."""

    def __init__(self, *, approxkl: Sequence[float] = (), **outputs: list[float]) -> None:
        self.outputs = Outputs(**{name: torch.tensor(numbers) for name, numbers in outputs.items()})
        self.approxkl, self.updates, self.threads = list(approxkl), [], 0
        self.module, self.runtime = nn.Module(), Runtime("cpu")

    def read(self, groups: Sequence[TokenGroup], *, want: set[str]) -> Outputs:
        assert all(getattr(self.outputs, name) is not None for name in want)
        return self.outputs

    def update(self, groups: Sequence[TokenGroup], objective: Any) -> dict[str, float]:
        self.updates.append([group.source for group in groups])
        self.threads = torch.get_num_threads()
        k3 = self.approxkl[len(self.updates) - 1] if self.approxkl else 0.0
        return {"loss": 1.0, "grad_norm": 1.0, "policy/approxkl_k3": k3, "num_tokens": float(len(self.updates))}


def rollout(number: int, logprobs: list[float], *, cut: bool = False) -> Rollout:
    return Rollout(
        prompt_ids=(3,),
        ids=(4,) * len(logprobs),
        logprobs=tuple(logprobs),
        finish_reason="length" if cut else "stop",
        text="",
        prompt_index=number,
        completion_index=0,
        policy_version="step-0",
    )


ROLLOUTS = [rollout(0, [-1.0, -2.0]), rollout(1, [-0.5], cut=True)]
REFERENCE = [-1.5, -1.0, -0.5]
VALUES = {"values": [0.1, 0.2, 0.3], "last_values": [5.0, 0.6]}


def the_round(config: OnlineOptions, *, scores: Sequence[float] = (2.0, 1.0), **options: Any) -> Round:
    critic: Any = Fixed(**VALUES) if config.triple.value else None
    reference: Any = Fixed(logprobs=REFERENCE)
    options = {"kl_coef": config.kl_coef, "rollouts": ROLLOUTS, **options}
    return build_round(config, options.pop("rollouts"), scores, reference=reference, critic=critic, **options)


def field(batch: Round, name: str) -> list[float]:
    return np.concatenate([array for group in batch.groups for array in group.token[name]]).tolist()
