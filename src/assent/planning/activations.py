"""What a forward and backward pass holds, by the functions that are really called.

On a CPU in float32 these are the lean norms, MLPs and adapters (models/lean_layers.py, models/lean_adapters.py), which
keep their inputs alone, attention over gathered rows (models/attention.py), and the chunked head (models/head.py).
Elsewhere, and for architectures with layers of their own, what autograd records is counted.

Legend: T tokens, K gathered keys (a prompt once for each of its completions), M tokens that the last layer's MLP reads,
N counted tokens, d hidden width, q and k widths of all query and of all key heads, f width of the MLP, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from assent.models.architectures import LOOKUPS
from assent.models.shape import Lengths, ModelShape
from assent.planning.setup import Setup

LEAN_NORMS = frozenset(
    {"llama", "granite", "smollm3", "mistral", "qwen2", "qwen3", "olmo2", "olmo3", "mixtral", "qwen2_moe", "qwen3_moe"}
)
"""Architectures whose RMSNorms are Llama's or OLMo 2's, by the code."""
LEAN_MLPS = frozenset({"llama", "granite", "smollm3", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3"})
"""Architectures whose MLP is Llama's."""
CHUNK = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Bytes of one chunk of logits in float32 (models/head.py)."""
FEWEST_CHUNK_TOKENS = 64
HEADS = ("lm_head.weight", "score.weight")


@dataclass(frozen=True, slots=True)
class Pass:
    """One micro-batch: T, K, M, N of the legend."""

    tokens: int
    keys: int
    read: int
    counted: int

    @classmethod
    def of(cls, groups: Sequence[Lengths], *, scores: bool) -> Pass:
        """scores: of a reward model, which reads each completion's last token alone."""
        tokens = keys = completions = ends = 0
        for group in groups:
            lengths = group.completion_lengths
            tokens += group.prompt_length + sum(lengths)
            keys += group.prompt_length * max(1, len(lengths)) + sum(lengths)
            completions += sum(lengths)
            ends += len(lengths)
        counted = sum(group.num_counted for group in groups)
        return cls(tokens, keys, ends, ends) if scores else cls(tokens, keys, completions + len(groups), counted)


@dataclass(frozen=True)
class Layers:
    """The widths of a model's layers, and what they keep."""

    setup: Setup
    shape: ModelShape
    device: str

    @cached_property
    def width(self) -> int:
        """Bytes of an activation."""
        return 2 if self.setup.dtype == "bfloat16" or self.setup.mixed_precision == "bf16" else 4

    @cached_property
    def _names(self) -> dict[str, tuple[int, ...]]:
        """The weights of the last layer."""
        part = f".{self.shape.sizes.num_layers - 1}."
        return {name: size for name, size in self.shape.weights.items() if part in name}

    @cached_property
    def widths(self) -> tuple[int, int, int, int]:
        """d, q, k, f"""
        s = self.shape.sizes
        inner = s.expert_size * s.num_experts_per_token or s.intermediate_size
        return s.hidden_size, s.num_heads * s.head_dim, s.num_key_value_heads * s.head_dim, inner

    @cached_property
    def is_gated(self) -> bool:
        return any("gate_proj" in name or "gate_up_proj" in name for name in self._names)

    @cached_property
    def _has_lean_norms(self) -> bool:
        return self.device == "cpu" and self.width == 4 and self.shape.model_type in LEAN_NORMS

    @cached_property
    def _norms(self) -> int:
        """Of the hidden width, in one layer."""
        found = [n for n in self._names if _is_norm(n) and n.endswith("weight") and not _is_of_heads(n)]
        return len(found) or 2  # OLMo's norms have no weights

    @cached_property
    def _normed_heads(self) -> bool:
        return any(_is_of_heads(name) for name in self._names)

    def norm(self) -> float:
        """Bytes that a norm keeps of a token. A plain one also keeps what it scales, and in bfloat16 computes in
        float32."""
        d = self.widths[0]
        if self._has_lean_norms:
            return d * 4 + 4
        return 2 * d * 4 + 4 if self.width == 4 else d * (4 + 4 + 2) + 4

    def attention(self, one: Pass) -> float:
        """Bytes that a layer keeps, its MLP apart, with the norms."""
        d, q, k, _ = self.widths
        rows = one.tokens * self.width
        kept = self._norms * self.norm() * one.tokens
        kept += (d + 2 * q) * rows + 2 * k * one.keys * self.width + 4 * self.shape.sizes.num_heads * one.tokens
        if self.device == "cpu":
            kept += q * rows  # the weighted values in the row's order again
        if self._normed_heads:
            kept += (q + k) * rows if self._has_lean_norms else 2 * (q + k) * rows
        if self.setup.lora_r:
            on_attention, _ = self.adapters
            kept += on_attention * self.setup.lora_r * rows
            if self.width == 2:  # adapters are held in float32, and their inputs are cast
                kept += (d + q) * 4 * one.tokens
        return kept

    def mlp(self, tokens: float) -> float:
        """Bytes that a layer's MLP keeps of the tokens that it reads."""
        d, _, _, f = self.widths
        kept = d * self.width * tokens
        lean = self.shape.model_type in LEAN_MLPS
        kept += (2 * f if lean or not self.is_gated else 4 * f) * self.width * tokens
        if self.setup.lora_r:
            kept += self.adapters[1] * self.setup.lora_r * self.width * tokens
            if self.width == 2:
                kept += (d + f) * 4 * tokens
        return kept

    @cached_property
    def adapters(self) -> tuple[int, int]:
        """How many products of the attention and of the MLP have an adapter, in one layer."""
        own = [name for name in adapted(self.shape, self.setup) if name in self._names]
        attention = sum("attn" in name or "attention" in name for name in own)
        return attention, len(own) - attention

    def mlp_backward(self, tokens: float) -> float:
        """Bytes that the backward pass of an MLP needs at its highest, its weights' gradients apart."""
        d, _, _, f = self.widths
        return ((4 if self.is_gated else 2) * f + 2 * d) * self.width * tokens

    def attention_backward(self, one: Pass) -> float:
        d, q, k, _ = self.widths
        return ((2 * d + 4 * q) * one.tokens + 4 * k * one.keys) * self.width

    def forward(self, one: Pass) -> float:
        """Bytes of a layer of a pass that keeps nothing."""
        d, q, k, f = self.widths
        mlp = (3 if self.is_gated else 2) * f * one.tokens
        attention = (3 * q * one.tokens) + 4 * k * one.keys
        return (3 * d * one.tokens + max(mlp, attention)) * self.width


def _is_norm(name: str) -> bool:
    return "norm" in name or "ln_" in name


def _is_of_heads(name: str) -> bool:
    return name.endswith(("q_norm.weight", "k_norm.weight"))


def kept(layers: Layers, one: Pass) -> float:
    """Bytes that a pass keeps until its backward pass."""
    number, (d, *_) = layers.shape.sizes.num_layers, layers.widths
    ends = (layers.norm() + d * layers.width) * one.tokens + d * layers.width * one.counted
    ends += 2 * layers.shape.sizes.head_dim * layers.width * one.tokens  # rotary positions
    if layers.setup.lora_r:
        ends -= layers.norm() * one.tokens  # the embeddings are frozen, so the first norm has no gradient to make
    if layers.setup.gradient_checkpointing:
        alone = d * layers.width * one.tokens
        return number * alone + layers.attention(one) + layers.mlp(one.tokens) + ends
    return number * layers.attention(one) + (number - 1) * layers.mlp(one.tokens) + layers.mlp(one.read) + ends


def mapped(layers: Layers, one: Pass, *, larger_than: float) -> float:
    """Of the bytes that a pass keeps, those in tensors larger than so many bytes: the MLPs', or all."""
    d, q, _, f = layers.widths
    if max(d, q) * layers.width * one.tokens > larger_than:
        return kept(layers, one)
    if f * layers.width * one.tokens > larger_than and not layers.setup.gradient_checkpointing:
        return (layers.shape.sizes.num_layers - 1) * layers.mlp(one.tokens)
    return 0.0


def backward(layers: Layers, one: Pass, *, of_the_head: float) -> float:
    """Bytes that the backward pass needs besides what the forward pass has kept: at the head, where all is still kept,
    in the last layer, or in the one before it, where the last layer's share is gone."""
    gone = 0.0 if layers.setup.gradient_checkpointing else layers.mlp(one.read)
    d, *_ = layers.widths
    head = of_the_head + d * layers.width * one.counted
    last = max(layers.mlp_backward(one.read), layers.attention_backward(one) - gone)
    before = layers.mlp_backward(one.tokens) - gone - layers.attention(one)
    return max(head, last, before)


def logits(layers: Layers, one: Pass) -> float:
    """Bytes of the head's chunks in the backward pass: a chunk's logits, the gradient, and the chunk before's."""
    chunk = chunk_bytes(layers.shape, layers.device)
    rows = chunk / (4 * layers.shape.sizes.vocab_size)
    return (2 if one.counted <= rows else 3) * min(chunk, 4.0 * layers.shape.sizes.vocab_size * one.counted)


def adapted(shape: ModelShape, setup: Setup) -> dict[str, tuple[int, ...]]:
    """The matrices that get an adapter: those of the named layers, or all linear ones of the trunk."""
    found: dict[str, tuple[int, ...]] = {}
    for name, size in shape.weights.items():
        layer = name.removesuffix(".weight")
        if len(size) != 2 or name.endswith(LOOKUPS) or name in HEADS:
            continue
        if setup.lora_targets is None or layer.endswith(setup.lora_targets):
            found[name] = size
    return found


def adapter_parameters(shape: ModelShape, setup: Setup) -> int:
    """Of all adapters: r · (rows + columns) of each matrix."""
    return sum(setup.lora_r * sum(size) for size in adapted(shape, setup).values())


def chunk_bytes(shape: ModelShape, device: str) -> float:
    """Bytes of one chunk's logits in float32."""
    vocabulary = shape.sizes.vocab_size
    return 4.0 * vocabulary * max(FEWEST_CHUNK_TOKENS, CHUNK[device] // (4 * vocabulary))


def head_weights(shape: ModelShape) -> int:
    return prod((shape.sizes.vocab_size, shape.sizes.hidden_size))
