"""How evenly a mixture of experts routes its tokens: what the load-balancing loss is made of.

Fedus et al., arXiv:2101.03961, eq. 4 to 6, over all layers together, as transformers' `load_balancing_loss_func`.

Legend: E experts, T tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.errors import ConfigError, ModelError
from assent.models.batch import GroupBatch

COEFFICIENT = "router_aux_loss_coef"


def check_has_router(config: Any, path: str) -> None:
    """ConfigError if the model with this config has no router whose load transformers balances."""
    text = config.get_text_config()
    if not (hasattr(text, COEFFICIENT) and hasattr(text, "num_experts_per_tok")):
        raise ConfigError(
            f"{COEFFICIENT} balances the experts of a mixture, and {path} has no router for which transformers defines "
            "such a loss",
            got=f"a model of type {config.model_type}",
            expected="a mixture of experts (Mixtral, OLMoE, Qwen3-MoE …)",
            fix="leave it out",
        )


def num_counted(batch: GroupBatch) -> int:
    """Tokens whose routing counts: a prompt once, each completion once, except those that are read aside."""
    return len(batch.input_ids) - sum(end - start for start, end in _aside(batch))


def routed(logits: Sequence[Tensor] | None, batch: GroupBatch, place: Tensor | None, *, top_k: int) -> Tensor:
    """(2, E) float32: the number of choices of each expert (no gradient), and the sum of its probabilities, over the
    counted tokens; means over the layers.

    logits   of each layer's router, (rows of the model's input, E)
    place    (T,) the row of each token of the batch; None: the rows are the batch's tokens
    """
    if not logits:
        raise ModelError("the model returned no router logits", fix=f"leave {COEFFICIENT} out")
    device = batch.input_ids.device
    counts = np.ones(len(batch.input_ids), bool)
    for start, end in _aside(batch):
        counts[start:end] = False
    at = torch.from_numpy(np.flatnonzero(counts)).to(device)
    at = at if place is None else place[at]
    sums = []
    for layer in logits:
        probabilities = layer.flatten(0, -2).index_select(0, at).softmax(-1)
        with torch.no_grad():
            chosen = probabilities.topk(top_k, dim=-1).indices.reshape(-1)
            times = torch.bincount(chosen, minlength=layer.shape[-1]).float()
        sums.append(torch.stack([times, probabilities.float().sum(0)]))
    return torch.stack(sums).mean(0)


def _aside(batch: GroupBatch) -> list[tuple[int, int]]:
    return [span for span, aside in zip(batch.completions, batch.aside, strict=True) if aside]
