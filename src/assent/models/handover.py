"""A policy's weights as another engine reads them: by the names of a folder, an adapter merged."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models.adapters import base_weights, is_adapted


@torch.no_grad()
def folder_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """What `save_model` would write of the model itself, without writing: tied weights once.

    Tensors are the model's own where it holds them as they are; an adapted layer's weight is a copy with the adapter
    added, and the layer stays as it was (adding and taking off again would change it by rounding).
    """
    base: Any = model
    named = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if is_adapted(model):
        base = model.get_base_model()  # type: ignore[operator]
        named = base_weights(named) | _merged(base)
    tied = getattr(base, "all_tied_weights_keys", None) or {}
    # weights that transformers holds in another shape than the folder does (experts of one layer stacked)
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(base, {n: t for n, t in named.items() if n not in tied}))


def _merged(base: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of what an adapter stands in: layers, and modules that are trained whole."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    named: dict[str, Tensor] = {}
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            inside = module.modules_to_save[module.active_adapter]  # type: ignore[index]
            named |= {f"{name}.{own}": tensor.detach() for own, tensor in inside.state_dict().items()}
        elif isinstance(module, LoraLayer):
            if getattr(module.get_base_layer().weight, "quant_state", None) is not None:
                raise ModelError("4-bit weights cannot be handed to another engine", fix="leave --load-in-4bit out")
            merged: Any = copy.deepcopy(module)
            merged.merge()
            named[f"{name}.weight"] = merged.get_base_layer().weight.detach()
    return named
