"""Attention over a packed row: our function for transformers' `AttentionInterface`, and the switch that selects it.

The function is registered by name without a mask function, so models build no mask and pass None. The segment table
reaches it as a keyword argument of the model's `forward`. It accepts only the keywords that it implements: any other
raises, and the probe at load (`tiers.py`) then chooses another tier.

Legend: T row tokens, H query heads, J key heads, D head width, B segments of a bucket, Lq and Lk its queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from assent.models import cpu_attention, joined_attention, varlen
from assent.models.segments import Bucket, Segments

NAME = "assent_segments"
"""Name of the attention function, and of the keyword that passes the segments."""

LAST_LAYER = "assent_last_layer"
"""The attribute of the last layer's attention with the hooks that it notifies of a pass (`last_layer.py`)."""

_NEUTRAL = frozenset(
    {"position_ids", "cache_position", "use_cache", "output_attentions", "output_router_logits", "output_hidden_states"}
)
"""Keywords that affect neither which keys a query sees nor their weights (positions are applied before)."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    assent_segments: Segments | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """(1, H, T, D), (1, J, T, D), (1, J, T, D') -> (1, T, H, D'): each token sees its prompt and its own completion.

    sliding_window   a query sees itself and up to `sliding_window - 1` positions before it (Mistral, Gemma, gpt-oss)
    softcap          scores become softcap · tanh(scores / softcap) (Gemma 2)
    s_aux            (H,) a score for each head that takes part in the softmax without a value (gpt-oss's sinks)
    """
    given = unsupported(others)
    if assent_segments is None or attention_mask is not None or dropout or is_causal is False or given:
        raise ValueError(
            f"attention over segments cannot serve this call: segments {'given' if assent_segments else 'missing'}, "
            f"mask {'given' if attention_mask is not None else 'none'}, dropout {dropout}, is_causal {is_causal}, "
            f"other keywords {given}"
        )
    if query.shape[0] != 1 or key.shape[2] != query.shape[2]:
        raise ValueError(f"expected one row without a cache, got queries {query.shape} and keys {key.shape}")
    segments = assent_segments
    segments.calls += 1
    segments.windows.append(sliding_window)
    if (last := vars(module).get(LAST_LAYER)) is not None and segments.read is not None:
        last.segments = segments
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    padded = partial(over_buckets, segments, query, key, value, options=Options(scale, sliding_window, softcap, s_aux))
    rows = None
    if softcap is None and s_aux is None and varlen.serves(query, value):
        rows = varlen.attend(segments, query, key, value, scale=scale, window=sliding_window, padded=padded)
    return (padded() if rows is None else rows), None


def unsupported(keywords: dict[str, Any]) -> list[str]:
    """Names of the keywords that could change the result of attention and are not implemented here."""
    return sorted(n for n, v in keywords.items() if n not in _NEUTRAL and v is not None and v is not False)


class Options(NamedTuple):
    """A layer's options of attention, as in `attention`."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def over_buckets(segments: Segments, query: Tensor, key: Tensor, value: Tensor, *, options: Options) -> Tensor:
    """(1, T, H, D'), with one call for each bucket of segments of similar size."""
    outputs = []
    for bucket, q, k, v in _by_bucket(segments, query, key, value):
        plain = options.softcap is None and options.sinks is None
        out = _fused(bucket, q, k, v, options) if plain else _explicit(bucket, q, k, v, options)
        outputs.append(out.transpose(1, 2).reshape(-1, out.shape[1] * out.shape[3]))
    rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return segments.scatter(rows).view(1, query.shape[2], query.shape[1], value.shape[3])


def _by_bucket(segments: Segments, *projections: Tensor) -> Iterator[tuple[Bucket, Tensor, Tensor, Tensor]]:
    """Queries (B, H, Lq, D), keys (B, J, Lk, D) and values (B, J, Lk, D') of each bucket, padding included."""
    flat = [p[0].transpose(0, 1).reshape(p.shape[2], -1) for p in projections]
    sizes = [b.queries.stop - b.queries.start for b in segments.buckets]
    key_sizes = [b.keys.stop - b.keys.start for b in segments.buckets]
    gathered = (
        segments.gather_queries(flat[0]).split(sizes),
        segments.gather_keys(flat[1]).split(key_sizes),
        segments.gather_keys(flat[2]).split(key_sizes),
    )
    for index, bucket in enumerate(segments.buckets):
        number, lq, lk = bucket.shape
        q, k, v = (
            rows[index].view(number, length, p.shape[1], p.shape[3]).transpose(1, 2)
            for rows, length, p in zip(gathered, (lq, lk, lk), projections, strict=True)
        )
        yield bucket, q, k, v


def _fused(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    window = options.window
    if cpu_attention.serves(q):
        return cpu_attention.attend(q, k, v, mask=bucket.mask(window, torch.float32), scale=options.scale)
    whole = window is None or window >= bucket.shape[2]
    if bucket.apart is not None and whole and joined_attention.serves(q, v):
        bias = bucket.prefix_bias(q.dtype)
        return joined_attention.attend(q, k, v, prefix=bucket.apart, bias=bias, scale=options.scale)
    is_plain = bucket.is_causal and whole
    mask = None if is_plain else bucket.mask(window, q.dtype)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_plain, scale=options.scale, enable_gqa=grouped
    )


def _explicit(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    """The same with plain matrix products, for options that no fused kernel has. The softmax is in float32 or wider."""
    scale, window, softcap, sinks = options
    number, heads, lq, width = q.shape
    key_heads = k.shape[1]
    q = q.reshape(number, key_heads, heads // key_heads, lq, width)
    scores = torch.matmul(q, k.unsqueeze(2).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores + bucket.mask(window, scores.dtype).unsqueeze(2)
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, key_heads, -1, 1, 1).expand(number, -1, -1, lq, 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return torch.matmul(weights.to(v.dtype), v.unsqueeze(2)).reshape(number, heads, lq, v.shape[-1])


_SELECTION = Lock()
_INSIDE: dict[int, tuple[int, str]] = {}
"""By configuration's id: how many blocks are inside `selected`, and the model's own function."""


@contextmanager
def selected(model: PreTrainedModel, name: str = NAME) -> Iterator[None]:
    """Makes `model` use the attention function `name` inside the block, and its own afterwards, even after errors.

    Several threads may be inside at once, with one name: the last to leave restores the model's own.
    """
    # Attention modules read this field, of a model with images that of the language model's part. The public setter
    # also checks weights, kernels and packages, which costs more than a small model's forward.
    configs: list[Any] = [model.config]
    if (text := model.config.get_text_config()) is not model.config:
        configs.append(text)
    with _SELECTION:
        for config in configs:
            number, own = _INSIDE.get(id(config), (0, config._attn_implementation))
            if number and config._attn_implementation != name:
                raise RuntimeError(f"{name} while {config._attn_implementation} is at work on the same model")
            _INSIDE[id(config)] = number + 1, own
            config._attn_implementation_internal = name
    try:
        yield
    finally:
        with _SELECTION:
            for config in configs:
                number, own = _INSIDE.pop(id(config))
                if number > 1:
                    _INSIDE[id(config)] = number - 1, own
                else:
                    config._attn_implementation_internal = own


def guard_checkpointing(model: PreTrainedModel) -> None:
    """Makes activation checkpointing recompute a layer with the attention function that first computed it.

    The recomputation happens in `backward`, after `selected` has switched back. Without this guard it would run the
    model's own attention over the packed row and give wrong gradients without an error.
    """
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is not None and not getattr(checkpoint, "is_guarded", False):
            module._gradient_checkpointing_func = _guarded(checkpoint, model)  # type: ignore[assignment]


def _guarded(checkpoint: Callable[..., Any], model: PreTrainedModel) -> Callable[..., Any]:
    def guarded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = model.config._attn_implementation

        def run(*inputs: Any, **options: Any) -> Any:
            with selected(model, name):
                return function(*inputs, **options)

        return checkpoint(run, *args, **kwargs)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    return guarded


AttentionInterface.register(NAME, attention)
