"""Computes the last layer's MLP only for the tokens whose states are read.

A score is read at one token of a completion, log-probabilities at a completion's tokens and the token before them. A
prompt's other tokens are needed only by the last layer's attention, in sampling and in training. In a reward model of L
layers this saves about 0.75/L of the trunk's products. The rest of the layer is unchanged: its attention reads every
token.

Legend: T row tokens, M of them read, d hidden width.
"""

from __future__ import annotations

from threading import get_ident
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from assent.models.attention import LAST_LAYER
from assent.models.segments import Segments


class LastLayer:
    """Hooks on the MLP of a model's last layer. The layer's attention passes them the segments of the current pass.

    Attention also does so when a checkpointed layer is recomputed, where no hook of the layer itself runs. Hooks are
    bound methods, so that a copy of the model has hooks for its own layer.
    """

    def __init__(self, layer: nn.Module, attention: nn.Module, mlp: nn.Module) -> None:
        self._segments: dict[int, Segments] = {}
        """By thread: several may read the model at the same time (engine/passes.py)."""
        self.serves_prompts = False
        """Whether sampling may read prompts this way. A separate probe compares the numbers (rollouts/decoding.py)."""
        setattr(attention, LAST_LAYER, self)
        layer.register_forward_pre_hook(self._begin)
        mlp.register_forward_pre_hook(self._choose)
        mlp.register_forward_hook(self._spread)

    @property
    def segments(self) -> Segments | None:
        return self._segments.get(get_ident())

    @segments.setter
    def segments(self, segments: Segments | None) -> None:
        if segments is None:
            self._segments.pop(get_ident(), None)
        else:
            self._segments[get_ident()] = segments

    def _begin(self, layer: nn.Module, args: Any) -> None:
        """Clears the segments, because a recomputation may have ended before the MLP and left them behind."""
        self.segments = None

    def _choose(self, mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """(1, T, d) -> (1, M, d)"""
        if self.segments is None:
            return None
        return (self.segments.gather_read(args[0][0])[None], *args[1:])

    def _spread(self, mlp: nn.Module, args: Any, output: Any) -> Tensor | None:
        """(1, M, d) -> (1, T, d). Unread tokens get any finite values."""
        if self.segments is None:
            return None
        if not isinstance(output, Tensor):
            raise TypeError("the last layer's MLP returns more than states")
        segments, self.segments = self.segments, None
        return segments.spread_read(output[0])[None]


def install(model: PreTrainedModel, trunk: nn.Module) -> LastLayer | None:
    """Sets the hooks once. Returns None if the model has no last layer with an attention module and an MLP."""
    layers = next((getattr(trunk, name) for name in ("layers", "h") if hasattr(trunk, name)), None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != model.config.get_text_config().num_hidden_layers:
        return None
    layer = layers[-1]
    attention = next(
        (getattr(layer, name) for name in ("self_attn", "attn", "attention") if hasattr(layer, name)), None
    )
    mlp = getattr(layer, "mlp", None)
    if not isinstance(attention, nn.Module) or not isinstance(mlp, nn.Module):
        return None
    found: LastLayer | None = vars(attention).get(LAST_LAYER)
    return found or LastLayer(layer, attention, mlp)
