"""Reads a packed batch with a model, by one of three tiers that give the same numbers.

    segments   the packed row, with our attention function
    mask       one padded row for each group, with a 4-D additive mask for the model's own attention
    padded     one right-padded row for each completion, with its prompt repeated: the plain model

Legend: G groups, S completions, N counted tokens, T row tokens, R rows of the model's input, L its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models import cpu_attention
from assent.models.attention import NAME, guard_checkpointing, selected
from assent.models.batch import GroupBatch
from assent.models.segments import Segments, make_segments, rows_read

Tier = Literal["segments", "mask", "padded"]
Only = Literal["completions", "ends"]


@dataclass(slots=True)
class Read:
    """`states` (R·L, features), and the rows at which each counted token (N,) and completion's end (S,) is read.

    router   of a mixture of experts, each layer's logits (R·L, experts)
    place    (T,) a row of each token of the batch; None: its own number
    """

    states: Tensor
    read_at: Tensor
    last_at: Tensor
    segments: Segments | None = None
    router: Sequence[Tensor] | None = None
    place: Tensor | None = None


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head: what its class names as such, else the one transformers model inside it."""
    named = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
    if isinstance(named, nn.Module):
        return named
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(inside) != 1:
        raise ModelError(
            f"the trunk of {type(model).__name__} cannot be told from its head",
            got=", ".join(name for name, _ in model.named_children()) or "no modules",
            expected=f"a module {model.base_model_prefix!r}, or one transformers model inside",
            fix="report the architecture; no option works around this",
        )
    return inside[0]


def read(
    model: PreTrainedModel,
    batch: GroupBatch,
    *,
    tier: Tier,
    logits: bool = False,
    only: Only | None = None,
    router: bool = False,
) -> Read:
    """The last hidden states of `batch`, or with `logits` the whole model's logits.

    only   in the segments tier, the last layer's MLP is computed only where completions' tokens are predicted or read
           ("completions"), or at their ends ("ends"); the states of other tokens are then not the model's
    router also the logits of the routers of a mixture of experts; needs `logits` and `only` unset
    """
    module = model if logits else trunk_of(model)
    if tier == "segments":
        return _segments(model, module, batch, logits=logits, only=only, router=router)
    make = _mask_inputs if tier == "mask" else _padded_inputs
    inputs, read_at, last_at, place = make(batch, dtype=model.dtype)
    output = module(**inputs, use_cache=False, **_asked(router))
    return Read(_states(output, logits=logits), read_at, last_at, router=_router(output), place=place)


def _asked(router: bool) -> dict[str, bool]:
    return {"output_router_logits": True} if router else {}


def _router(output: Any) -> Sequence[Tensor] | None:
    return getattr(output, "router_logits", None)


def _states(output: Any, *, logits: bool) -> Tensor:
    return (output.logits if logits else output.last_hidden_state).flatten(0, 1)


def _segments(
    model: PreTrainedModel, module: nn.Module, batch: GroupBatch, *, logits: bool, only: Only | None, router: bool
) -> Read:
    total, device = len(batch.input_ids), batch.input_ids.device
    features = int(model.config.get_text_config().hidden_size)
    segments = make_segments(
        batch.prompts,
        batch.completions,
        num_tokens=total,
        device=device,
        features=features,
        skips_half=_skips_half(model, device),
    )
    if only and batch.completions:
        segments.read = _only(batch, only)
    if model.training:
        guard_checkpointing(model)
    inputs = {"input_ids": batch.input_ids[None], "position_ids": batch.position_ids[None], NAME: segments}
    with selected(model):
        output = module(**inputs, use_cache=False, **_asked(router))
    return Read(_states(output, logits=logits), batch.read_at, batch.last_at, segments, _router(output))


def _skips_half(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether causal attention uses torch's fused kernel on a CPU, which leaves out the blocks that no query sees."""
    config = model.config.get_text_config()
    plain = all(getattr(config, name, None) is None for name in ("attn_logit_softcapping", "sliding_window"))
    return plain and device.type == "cpu" and not cpu_attention.serves(torch.empty(0, dtype=model.dtype))


def _only(batch: GroupBatch, only: Only) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are read (M,), each row's number among them (T,), and the other rows."""
    prompt, completion = _spans(batch)
    is_read = np.zeros(len(batch.input_ids), bool)
    if only == "ends":
        is_read[completion[:, 1] - 1] = True
    else:  # all except the prompts' tokens, but with their last ones, which predict the completions' first tokens
        is_read[:] = True
        is_read[_runs(prompt[:, 0], prompt[:, 1] - prompt[:, 0])] = False
        is_read[prompt[:, 1] - 1] = True
    return rows_read(is_read, device=batch.input_ids.device)


def _mask_inputs(batch: GroupBatch, *, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """(G, L) ids and positions, and the (G, 1, L, L) additive mask by which a completion sees its prompt and itself."""
    device, total = batch.input_ids.device, len(batch.input_ids)
    prompt, completion = _spans(batch)
    start, end = prompt[:, 0], np.append(prompt[1:, 0], total)
    at, real = _rows(start, end - start)
    # The segment of each row position: -1 padding, 0 prompt, k completion k. Completions also see segment 0.
    segment = np.zeros(total, np.int64)
    group = np.searchsorted(start, completion[:, 0], side="right") - 1
    rank = np.arange(len(group)) - np.searchsorted(group, group) + 1
    lengths = completion[:, 1] - completion[:, 0]
    segment[_runs(completion[:, 0], lengths)] = np.repeat(rank, lengths)
    which = torch.from_numpy(np.where(real, segment[at], -1)).to(device)
    mine, theirs = which[:, None, :, None], which[:, None, None, :]
    allowed = (theirs == mine) | ((theirs == 0) & (mine > 0))
    allowed = allowed & torch.ones(at.shape[1], at.shape[1], dtype=torch.bool, device=device).tril()
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, torch.finfo(dtype).min)
    index, keep = torch.from_numpy(at).to(device), torch.from_numpy(real).to(device)
    inputs = {
        "input_ids": batch.input_ids[index] * keep,
        "position_ids": batch.position_ids[index] * keep,
        "attention_mask": mask,
    }
    where = np.zeros(total, np.int64)
    where[at[real]] = np.flatnonzero(real)
    place = torch.from_numpy(where).to(device)
    return inputs, place[batch.read_at], place[batch.last_at], place


def _padded_inputs(batch: GroupBatch, *, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """(S, L) ids and attention mask, padded on the right."""
    del dtype
    device, total = batch.input_ids.device, len(batch.input_ids)
    prompt, completion = _spans(batch)
    if not len(completion):
        prompt, completion = np.array([[0, total]]), np.array([[total, total]])
    of = prompt[np.searchsorted(prompt[:, 0], completion[:, 0], side="right") - 1]
    before, own = of[:, 1] - of[:, 0], completion[:, 1] - completion[:, 0]
    column = np.arange(int((before + own).max()))
    real = column < (before + own)[:, None]
    at = np.where(column < before[:, None], of[:, :1] + column, completion[:, :1] + column - before[:, None])
    index, keep = torch.from_numpy(np.where(real, at, 0)).to(device), torch.from_numpy(real).to(device)
    inputs = {"input_ids": batch.input_ids[index] * keep, "attention_mask": keep.long()}
    # A completion's first token is in column `before`, and the prompt's last token in the column before it.
    offset = torch.from_numpy(np.arange(len(completion)) * len(column) + before - completion[:, 0]).to(device)
    start = torch.from_numpy(completion[:, 0].copy()).to(device)
    read_at = torch.maximum(batch.read_at, start[batch.sequence] - 1) + offset[batch.sequence]
    where = np.zeros(total, np.int64)
    where[at[real]] = np.flatnonzero(real)  # a prompt that stands in several rows: any of them
    return inputs, read_at, batch.last_at + offset[: len(batch.last_at)], torch.from_numpy(where).to(device)


def _spans(batch: GroupBatch) -> tuple[np.ndarray, np.ndarray]:
    prompts = batch.prompts or ((0, len(batch.input_ids)),)
    return np.asarray(prompts, np.int64).reshape(-1, 2), np.asarray(batch.completions, np.int64).reshape(-1, 2)


def _runs(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start[0] … start[0]+length[0]-1, start[1] …"""
    return np.arange(int(length.sum())) + np.repeat(start - (np.cumsum(length) - length), length)


def _rows(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, L) positions start … start+length-1 of each row, 0 beyond; and which of them are real."""
    column = np.arange(int(length.max()))
    real = column < length[:, None]
    return np.where(real, start[:, None] + column, 0), real
