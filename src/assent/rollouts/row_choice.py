"""Choosing tokens inside another engine's batch, whose rows come, go and move: the choice is ours (`choosing.py`).

So a completion is the function of seed, prompt and number that it is in the torch sampler (law 7), and its
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
    """One completion to come: its random numbers, and its tokens' log-probabilities as they are chosen."""

    params: SamplingParams
    uniforms: np.ndarray
    logprobs: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.logprobs = np.full(len(self.uniforms), np.nan, dtype=np.float32)

    def __deepcopy__(self, memo: Any) -> Draw:
        """Itself: the engine copies a request's parameters, and what it chooses belongs here."""
        return self


class RowChoice:
    """The rows of one running batch: which draw each is, and the tokens that it has so far."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Draw, Sequence[int]]] = {}

    def change(
        self,
        *,
        removed: Sequence[int] = (),
        added: Sequence[tuple[int, Draw, Sequence[int]]] = (),
        moved: Sequence[tuple[int, int, bool]] = (),
    ) -> None:
        """In this order. added: row, draw, its tokens (a list that the engine appends to); moved: from, to, swapped."""
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
        """(S, V) logits -> the same with all but the chosen token at minus infinity; log-probabilities are noted.

        A row whose prompt is not read to its end yet is chosen for too, and chosen for again: the engine drops it.
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
