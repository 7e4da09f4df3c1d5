"""Model FLOPs by the roofline formula: F = 2·N·T + 4·L·d·A + 2·V·h·H for a forward pass, three times that for training
(where weights stay as they are, twice 2·N·T and 2·V·h·H).

Legend: N matrix weights of the trunk, T tokens, L layers, d attention width, A attended pairs of positions,
V·h weights of the head, H positions the head reads. Recomputed activations count as hardware's FLOPs, not the model's;
the formula counts the last layer's MLP at every token, which `last_layer.py` leaves out where nothing reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from assent.models.batch import TokenCompletion, TokenGroup


@dataclass(frozen=True, slots=True)
class Cost:
    """`shared`: a prompt is read once for its K completions; otherwise once for each."""

    trunk_weights: float
    head_weights: int
    attention_width: int
    """L · d: 0 where the configuration does not say, and attention is then left out."""
    shared: bool
    trained_share: float = 1.0
    """Of the weights above, those that get gradients of their own: few where an adapter is trained."""

    @classmethod
    def of(cls, module: nn.Module, *, shared: bool) -> Cost:
        """Of an AlignmentModel, of an ensemble's members together, or of any module with matrices."""
        if (members := getattr(module, "members", None)) is not None:
            one, number = cls.of(members[0], shared=shared), len(members)
            widths = one.trunk_weights * number, one.head_weights * number, one.attention_width * number
            return cls(*widths, shared, one.trained_share)
        hf = getattr(module, "hf", module)
        config: Any = getattr(hf, "config", None)
        head = _head(hf)
        # beside an adapter, a head that is trained whole is a copy: the original is not read
        unread = {id(p) for name, p in hf.named_parameters() if ".original_module." in name}
        heads_own = [] if head is None else [p for p in head.parameters() if p.ndim == 2 and id(p) not in unread]
        skipped = {id(p) for m in hf.modules() if isinstance(m, nn.Embedding) for p in m.parameters()} | unread
        skipped |= {id(p) for p in heads_own}
        trunks_own = [p for p in hf.parameters() if p.ndim >= 2 and id(p) not in skipped]
        head_weights = sum(p.numel() for p in heads_own)
        trunk = sum(_active(p, config) for p in trunks_own)
        trained = sum(_active(p, config) for p in [*trunks_own, *heads_own] if p.requires_grad)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        layers, width = getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)
        heads, head_dim = getattr(text, "num_attention_heads", 0), getattr(text, "head_dim", None)
        attention = layers * (heads * head_dim if head_dim else width)
        return cls(trunk, head_weights, attention, shared, trained / max(1.0, trunk + head_weights))

    def forward(self, groups: Sequence[TokenGroup]) -> float:
        """FLOPs of reading the groups once, the head at every counted token."""
        return self._read(groups, sum(c.num_counted for g in groups for c in g.completions))

    def update(self, groups: Sequence[TokenGroup]) -> float:
        """FLOPs of a forward and a backward pass: thrice the forward, less the gradients of weights that stay."""
        products = replace(self, attention_width=0).forward(groups)
        return 3.0 * self.forward(groups) - (1.0 - self.trained_share) * products

    def score(self, groups: Sequence[TokenGroup]) -> float:
        """FLOPs of reading the groups once, the head at each completion's last token alone."""
        return self._read(groups, sum(len(g.completions) for g in groups))

    def sample(self, prompt: int, lengths: Sequence[int]) -> float:
        """FLOPs of sampling completions of these lengths to one prompt of so many tokens, with a cache.

        The prompt is read once for all. A completion's last token is chosen and not read; its first is chosen from
        what the prompt's last gave. Rows that wait for their batch mates, and reading again where a model has no
        cache, are not the model's FLOPs.
        """
        read = TokenGroup((0,) * prompt, tuple(TokenCompletion((0,) * (length - 1)) for length in lengths))
        return replace(self, shared=True)._read([read], 1 + sum(lengths) - len(lengths))

    def _read(self, groups: Sequence[TokenGroup], head_positions: int) -> float:
        tokens = sum(g.num_tokens if self.shared else g.num_padded_tokens for g in groups)
        pairs = sum(attended_pairs(g, shared=self.shared) for g in groups)
        trunk = 2.0 * self.trunk_weights * tokens + 4.0 * self.attention_width * pairs
        return trunk + 2.0 * self.head_weights * head_positions


def attended_pairs(group: TokenGroup, *, shared: bool) -> float:
    """Pairs (query, key) under the causal mask: P²/2 + Σ (P·C + C²/2), the prompt's P²/2 once if shared."""
    prompt = len(group.prompt_ids)
    own = sum(prompt * len(c.ids) + len(c.ids) ** 2 / 2 for c in group.completions)
    return own + prompt**2 / 2 * (1 if shared else len(group.completions))


def _head(hf: nn.Module) -> nn.Module | None:
    get = getattr(hf, "get_output_embeddings", None)
    head = get() if get is not None else None
    return head if head is not None else getattr(hf, "score", None)


def _active(parameter: nn.Parameter, config: Any) -> float:
    """Weights a token meets: of stacked experts (3-D), the share routed to; of 4-bit ones, what they stand for."""
    if (packed := getattr(parameter, "quant_state", None)) is not None:
        return packed.shape.numel()
    if parameter.ndim < 3:
        return parameter.numel()
    routed = getattr(config, "num_experts_per_tok", None)
    return parameter.numel() * min(1.0, routed / parameter.shape[0]) if routed else parameter.numel()
