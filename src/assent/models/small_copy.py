"""Small copies of an architecture, on which code is tried: the same classes, a layer of each kind, small widths.

Whether a way of reading or decoding gives a model's numbers is a question about code, not about weights. A copy with
few weights answers it in a moment, whatever the size of the model. Every length that the architecture declares is
shorter in the copy than a probe's rows, so that code which ignores one is caught.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from assent.models.heads import add_score_head, has_own_head
from assent.models.saving import quiet
from assent.models.small_options import Options, small_options, with_layers

ROWS = 18
"""Tokens of the longest row that a probe reads."""
MOST_WEIGHTS = 2**24
"""A copy with more weights is not small, and is not made."""
_OF_ITS_NUMBER = re.compile(r"idx|index$|layer_(id|number|nr)$|layers$|^depth$|^_|^training$")
"""Attributes by which layers of one kind, or of models of two depths, differ."""


def small_copy(model: PreTrainedModel, *, dtype: torch.dtype | None = None) -> PreTrainedModel | None:
    """A model of the same class with `small_config` and random weights, on the model's device; None if there is none.

    dtype   None: the model's own
    """
    try:
        config = small_config(model.config, model_class=type(model))
        return None if config is None else _drawn(model, config, dtype or model.dtype)
    except Exception:  # the classes raise all kinds of errors for sizes that they were not made for
        return None


def small_config(
    config: PreTrainedConfig, *, rows: int = ROWS, model_class: type[PreTrainedModel] | None = None
) -> PreTrainedConfig | None:
    """The configuration of a small copy; None if the classes allow none.

    rows          every declared length becomes less than this; one that no row can exceed stays
    model_class   None: the class of transformers for causal models
    """
    build = model_class or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    for narrow in (True, False):
        try:
            found = next(_candidates(config, build, rows=rows, narrow=narrow), None)
        except Exception:  # widths that do not fit each other: the second time most of them stay
            continue
        if found is not None:
            return found
    return None


def layer_kinds(model: PreTrainedModel, layers: int) -> list[Any]:
    """For each layer of the trunk what its modules are, but for its number; empty if no list of layers is found."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
    return [_kind(layer) for layer in next(lists, ())]


def _kind(layer: nn.Module) -> Any:
    def told(module: nn.Module) -> tuple[Any, ...]:
        own = {k: v for k, v in vars(module).items() if type(v) in (int, float, bool, str)}
        # Floats may differ from layer to layer without another computation, unless they are zero.
        own = {k: bool(v) if isinstance(v, float) else v for k, v in own.items() if not _OF_ITS_NUMBER.search(k)}
        shapes = [(name, tuple(weight.shape)) for name, weight in module.named_parameters(recurse=False)]
        return type(module).__name__, tuple(sorted(own.items())), tuple(shapes)

    return tuple((name, *told(module)) for name, module in layer.named_modules())


def _candidates(config: PreTrainedConfig, build: Any, *, rows: int, narrow: bool) -> Iterator[PreTrainedConfig]:
    text = _text_part(config)
    if text and not isinstance(config, build.config_class):  # the causal model is the language model of a larger one
        config, text = getattr(config, text), None
    part: Any = getattr(config, text) if text else config
    layers, options = int(part.num_hidden_layers), _small(config, text, rows=rows, narrow=narrow)
    kinds = layer_kinds(_skeleton(build, _made(config, options)), layers)
    for chosen in _choices(kinds or [()] * layers):
        fewer = with_layers(options[text] if text else options, part.attribute_map, chosen, layers=layers)
        found = _made(config, options | {text: fewer} if text else fewer)
        try:
            small = _skeleton(build, found)
        except Exception:  # some classes compute a layer's kind from its number: another choice may do
            continue
        same = set(layer_kinds(small, len(chosen))) >= set(kinds)
        if same and sum(weight.numel() for weight in small.parameters()) <= MOST_WEIGHTS:
            yield found


def _choices(kinds: Sequence[Any]) -> Iterator[list[int]]:
    """Layers to keep: the last one of each kind; or the first ones, as many as have all kinds; or all."""
    last = sorted({kind: number for number, kind in enumerate(kinds)}.values())
    yield last if len(last) > 1 else list(range(max(0, len(kinds) - 2), len(kinds)))
    yield list(range(max(min(2, len(kinds)), 1 + max(kinds.index(kinds[number]) for number in last))))
    yield list(range(len(kinds)))


def _text_part(config: PreTrainedConfig) -> str | None:
    """The name of the part that configures the language model; None: it is the whole."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), None)


def _small(config: PreTrainedConfig, text: str | None, *, rows: int, narrow: bool) -> Options:
    options = config.to_dict()
    options.pop("quantization_config", None)
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            options[name] = small_options(options[name], part.attribute_map, rows=rows, narrow=narrow)
            if name != text and isinstance(layers := getattr(part, "num_hidden_layers", None), int):
                fewer = range(min(layers, 2))
                options[name] = with_layers(options[name], part.attribute_map, fewer, layers=layers)
    return small_options(options, config.attribute_map, rows=rows, narrow=narrow)


def _made(config: PreTrainedConfig, options: Options) -> PreTrainedConfig:
    with quiet():
        return type(config).from_dict(copy.deepcopy(options))


def _skeleton(build: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """The model without numbers."""
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: PreTrainedModel = build._from_config(copy.deepcopy(config))
    return model


def _drawn(model: PreTrainedModel, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The numbers depend on nothing but the configuration, and torch's own generator stays as it was."""
    own: Any = model.config
    ways = {"attn_implementation": own._attn_implementation, "experts_implementation": own._experts_implementation}
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        small: Any = type(model)._from_config(config, dtype=dtype, **ways).eval()
        if has_own_head(own):
            add_score_head(small, own.num_labels)
    draw_weights(small)
    return small.to(model.device)


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Adds numbers to fresh weights, large enough that the context, heads, biases and norms all matter."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        size = 0.3 if weight.ndim < 2 else 0.85 * weight.shape[-1] ** -0.5
        weight.add_((size * torch.randn(weight.shape, generator=generator)).to(weight.dtype))
        stacked = (weight.ndim == 3 and "conv" not in name) or (weight.ndim > 1 and ".experts." in name)
        if weight.dtype.itemsize < 4 and stacked:
            weight.copy_(weight[:1].expand_as(weight))  # rounding that chooses another expert changes nothing
