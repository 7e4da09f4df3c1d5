"""What a pass keeps of each token for its backward pass, layer by layer, and what it needs besides.

It follows the functions that are really called: on a CPU the lean norms, MLPs and adapters (models/lean_layers.py,
models/lean_adapters.py), which keep their inputs alone, and attention over gathered rows (models/attention.py).

Legend: T tokens, L layers, d hidden width, q and k widths of all query and of all key heads, f width of the MLP,
r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from assent.models.architectures import LOOKUPS
from assent.models.shape import ModelShape
from assent.planning.setup import Setup

LEAN = frozenset(
    {"llama", "granite", "smollm3", "mistral", "qwen2", "qwen3", "olmo2", "olmo3", "mixtral", "qwen2_moe", "qwen3_moe"}
)
"""Architectures whose RMSNorms are Llama's or OLMo 2's, by the code."""
GATED_LEAN = frozenset({"llama", "granite", "smollm3", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3"})
"""Architectures whose MLP is Llama's."""
CHUNK = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Bytes of one chunk of logits in float32 (models/head.py)."""
FEWEST_CHUNK_TOKENS = 64


@dataclass(frozen=True, slots=True)
class PerToken:
    """Bytes of one token in one layer.

    attention   kept of everything but the MLP
    mlp         kept of the MLP, for each token that it reads
    backward    the most that the backward pass of a layer holds besides: in the MLP
    forward     the most that a forward pass without gradient holds besides a layer's input
    """

    attention: float
    mlp: float
    backward: float
    forward: float


def per_token(shape: ModelShape, setup: Setup, device: str) -> PerToken:
    s = shape.sizes
    width = 2 if setup.dtype == "bfloat16" or setup.mixed_precision == "bf16" else 4
    d, q, k = s.hidden_size, s.num_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    f = s.expert_size * s.num_experts_per_token or s.intermediate_size
    gated = _has(shape, "gate_proj", "gate_up_proj")
    lean_norm = device == "cpu" and width == 4 and shape.model_type in LEAN
    norms = _norms(shape)
    # a norm keeps its input; the plain ones also the normalised input, and in bfloat16 both in float32
    per_norm = d * width if lean_norm else d * (2 * width if width == 4 else 4 + 2)
    heads_normed = sum(shape_of[0] for shape_of in _head_norms(shape))
    kept = norms * per_norm
    kept += 2 * d * width  # inputs of the attention's and of the MLP's products
    kept += (2 * q + 2 * k) * width + 4 * s.num_heads  # queries, keys, values and the weighted values
    kept += q * width if device == "cpu" else 0  # the weighted values in the row's order again
    kept += (q + k) * width if heads_normed else 0
    mlp = _mlp(shape, f, gated=gated) * width
    if setup.lora_r:
        attention, inner = _adapted(shape, setup)
        kept += attention * setup.lora_r * width
        mlp += inner * setup.lora_r * width
        if device != "cpu" and width == 2:  # adapters are held in float32, and so are their inputs
            kept += (d + q) * 4
            mlp += (d + f) * 4
    back = (3 * f + 3 * d) * width if gated else (2 * f + 3 * d) * width
    forward = max((3 * f if gated else 2 * f) + 2 * d, 2 * d + 3 * q + 3 * k) * width
    return PerToken(kept, mlp, back, forward)


def _mlp(shape: ModelShape, f: int, *, gated: bool) -> float:
    """Numbers that the MLP keeps of a token."""
    if not gated:
        return 2.0 * f
    return 2.0 * f if shape.model_type in GATED_LEAN else 4.0 * f


def _norms(shape: ModelShape) -> int:
    """RMSNorms and LayerNorms over the hidden width, in one layer."""
    first = _layer(shape)
    return sum(1 for name, size in first.items() if len(size) == 1 and _is_norm(name) and "self_attn" not in name
               and name.endswith("weight")) or 2  # fmt: skip


def _is_norm(name: str) -> bool:
    return "norm" in name or "ln_" in name


def _head_norms(shape: ModelShape) -> list[tuple[int, ...]]:
    return [size for name, size in _layer(shape).items() if name.endswith(("q_norm.weight", "k_norm.weight"))]


def _layer(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The weights of the last layer."""
    part = f".{shape.sizes.num_layers - 1}."
    return {name: size for name, size in shape.weights.items() if part in name}


def _has(shape: ModelShape, *parts: str) -> bool:
    return any(part in name for name in _layer(shape) for part in parts)


def adapted(shape: ModelShape, setup: Setup) -> dict[str, tuple[int, ...]]:
    """The matrices that get an adapter: those of the named layers, or all linear ones of the trunk."""
    found: dict[str, tuple[int, ...]] = {}
    for name, size in shape.weights.items():
        layer = name.removesuffix(".weight")
        if len(size) != 2 or name.endswith(LOOKUPS) or name in ("lm_head.weight", "score.weight"):
            continue
        if setup.lora_targets is None or layer.endswith(setup.lora_targets):
            found[name] = size
    return found


def _adapted(shape: ModelShape, setup: Setup) -> tuple[int, int]:
    """How many layers of the attention and of the MLP have an adapter, in one layer of the model."""
    own = [name for name in adapted(shape, setup) if f".{shape.sizes.num_layers - 1}." in name]
    attention = sum("attn" in name or "attention" in name for name in own)
    return attention, len(own) - attention


def adapter_parameters(shape: ModelShape, setup: Setup) -> int:
    """Of all adapters: r · (rows + columns) of each matrix."""
    return sum(setup.lora_r * sum(size) for size in adapted(shape, setup).values())


def chunk_bytes(shape: ModelShape, device: str) -> float:
    """Bytes of one chunk's logits in float32."""
    vocabulary = shape.sizes.vocab_size
    return 4.0 * vocabulary * max(FEWEST_CHUNK_TOKENS, CHUNK[device] // (4 * vocabulary))


def head_weights(shape: ModelShape) -> int:
    return prod((shape.sizes.vocab_size, shape.sizes.hidden_size))
