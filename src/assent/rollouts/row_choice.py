"""Chooses tokens inside another engine's batch, whose rows are added, removed and moved, with `choosing.py`.

So a completion depends on seed, prompt and completion number exactly as in the torch sampler (law 7). Its
log-probabilities are the policy's at the sampling temperature, whatever the engine itself would draw or report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.rollouts.choosing import choose
from assent.rollouts.sampler import SamplingParams


@dataclass(slots=True)
class Draw:
    """One completion: its random numbers, and its tokens' log-probabilities, filled in as tokens are chosen."""

    params: SamplingParams
    uniforms: np.ndarray
    logprobs: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.logprobs = np.full(len(self.uniforms), np.nan, dtype=np.float32)

    def __deepcopy__(self, memo: Any) -> Draw:
        """Returns itself: the engine copies a request's parameters, but its choices must be recorded here."""
        return self


class RowChoice:
    """The rows of one running batch: each row's draw, and the tokens that it has so far."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Draw, Sequence[int]]] = {}

    def change(
        self,
        *,
        removed: Sequence[int] = (),
        added: Sequence[tuple[int, Draw, Sequence[int]]] = (),
        moved: Sequence[tuple[int, int, bool]] = (),
    ) -> None:
        """Applies the changes in this order. added: row, draw, its tokens (the engine's own list); moved: from, to,
        swapped."""
        for row in removed:
            self.rows.pop(row, None)
        for row, draw, tokens in added:
            self.rows[row] = (draw, tokens)
        for source, target, swapped in moved:
            first, second = self.rows.pop(source, None), self.rows.pop(target, None)
            if first is not None:
                self.rows[target] = first
            if swapped and second is not None:
                self.rows[source] = second

    def choose(self, logits: Tensor) -> Tensor:
        """(S, V) logits -> the same with all but the chosen token at minus infinity. Records the log-probabilities.

        It also chooses for a row whose prompt is not fully read yet. The engine drops that token, which is then chosen
        again.
        """
        if not self.rows:
            return logits
        rows = [self.rows[i] for i in range(logits.shape[0])]
        places = [min(len(tokens), len(draw.uniforms) - 1) for draw, tokens in rows]
        drawn = np.array([draw.uniforms[t] for (draw, _), t in zip(rows, places, strict=True)], dtype=np.float32)
        ids, logprobs = choose(logits, torch.from_numpy(drawn).to(logits.device), rows[0][0].params)
        for (draw, _), place, logprob in zip(rows, places, logprobs.tolist(), strict=True):
            draw.logprobs[place] = logprob
        return torch.full_like(logits, float("-inf")).scatter_(-1, ids[:, None], 0.0)
