"""The last layer's MLP of the tokens that are read, and of no others: nothing looks at what it would give for them.

A score is read at one token of a completion, log-probabilities at a completion's tokens and the one before them; a
prompt's other tokens serve the last layer's attention alone, in sampling as in training. In a reward model of L layers
this leaves out about 0.75/L of the trunk's products. The rest of the layer is left as it is: its attention reads every
token.

Legend: T row tokens, M of them read, d hidden width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from assent.models.attention import LAST_LAYER
from assent.models.segments import Segments


class LastLayer:
    """Hooks on the MLP of a model's last layer, which attention tells of the pass that is under way.

    Attention does so in the recomputation of a checkpointed layer too, where no hook of the layer itself runs. Hooks
    are bound methods, so that a copy of the model has hooks that speak of its own layer.
    """

    def __init__(self, layer: nn.Module, attention: nn.Module, mlp: nn.Module) -> None:
        self.segments: Segments | None = None
        self.serves_prompts = False
        """Whether sampling may read prompts so: a probe of its own has compared the numbers (rollouts/decoding.py)."""
        setattr(attention, LAST_LAYER, self)
        layer.register_forward_pre_hook(self._begin)
        mlp.register_forward_pre_hook(self._choose)
        mlp.register_forward_hook(self._spread)

    def _begin(self, layer: nn.Module, args: Any) -> None:
        """A recomputation may end early, before the MLP, and leave its segments behind."""
        self.segments = None

    def _choose(self, mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """(1, T, d) -> (1, M, d)"""
        if self.segments is None:
            return None
        return (self.segments.gather_read(args[0][0])[None], *args[1:])

    def _spread(self, mlp: nn.Module, args: Any, output: Any) -> Tensor | None:
        """(1, M, d) -> (1, T, d), with anything finite where nothing reads."""
        if self.segments is None:
            return None
        if not isinstance(output, Tensor):
            raise TypeError("the last layer's MLP gives more than states")
        segments, self.segments = self.segments, None
        return segments.spread_read(output[0])[None]


def install(model: PreTrainedModel, trunk: nn.Module) -> LastLayer | None:
    """The hooks, set once, of a model that has a last layer with attention and an MLP of their own."""
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
