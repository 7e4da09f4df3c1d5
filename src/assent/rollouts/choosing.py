"""From logits and uniform numbers to tokens and their log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from assent.rollouts.sampler import SamplingParams

_LARGEST = 1.0 - 2.0**-22  # (1 - 2^-24) times a total can round up to the total, which is beyond the last token


def choose(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """logits (S, V), uniforms (S,) in [0, 1) -> ids (S,) and log-probabilities (S,) float32.

    Log-probabilities are those of the policy at `params.temperature`, before top_k and top_p.
    """
    logits = logits.float()
    if params.temperature != 1.0:
        logits = logits / params.temperature
    top = logits.amax(dim=-1, keepdim=True)
    weights = (logits - top).exp_()
    total = weights.sum(dim=-1)
    if params.greedy:
        ids = logits.argmax(dim=-1)
    else:
        ids = inverse_cdf(_truncate(weights, total, params), uniforms)
    chosen = logits.gather(-1, ids[:, None]) - top
    return ids, chosen.squeeze(-1) - total.log()


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """weights (S, V) >= 0, not all zero in a row; uniforms (S,) -> (S,) indices, drawn in proportion to the weights.

    It searches in two levels, over blocks of about sqrt(V) weights and within one block, because a running sum over a
    whole vocabulary is slow and, in float32, rounds the tail away.
    """
    rows, size = weights.shape
    block = max(1, round(size**0.5))
    blocks = pad(weights, (0, -size % block)).view(rows, -1, block)
    running = blocks.sum(-1).cumsum(-1)
    threshold = uniforms[:, None].clamp(max=_LARGEST) * running[:, -1:]
    which = (running <= threshold).sum(-1, keepdim=True).clamp(max=running.shape[1] - 1)
    before = pad(running, (1, 0)).gather(-1, which)
    within = blocks.gather(1, which[:, :, None].expand(rows, 1, block)).squeeze(1).cumsum(-1)
    rest = torch.minimum(
        threshold - before, within[:, -1:] * _LARGEST
    )  # the two sums of a block may differ by rounding
    inside = (within <= rest).sum(-1, keepdim=True)
    return (which * block + inside).squeeze(-1).clamp(max=size - 1)


def _truncate(weights: Tensor, total: Tensor, params: SamplingParams) -> Tensor:
    if 0 < params.top_k < weights.shape[-1]:
        smallest = weights.topk(params.top_k, dim=-1).values[:, -1:]
        weights = torch.where(weights >= smallest, weights, 0.0)
        total = weights.sum(dim=-1)
    if params.top_p < 1.0:
        ordered, order = weights.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.where(before < params.top_p * total[:, None], ordered, 0.0)  # the first is always kept
        weights = torch.zeros_like(weights).scatter(-1, order, kept)
    return weights
