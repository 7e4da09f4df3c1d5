"""What is changed in a loaded model before it is read: dropout off, and faster modules that compute the same."""

from __future__ import annotations

from torch import nn

from assent.models import lean_layers, products

ROUTING_THRESHOLD = "router_jitter_noise"
"""PhiMoE's: it masks experts in evaluation too. Its routers draw experts by chance in training mode."""


def prepare(model: nn.Module) -> None:
    turn_dropout_off(model)
    products.install(model)
    lean_layers.install(model)


def turn_dropout_off(model: nn.Module) -> None:
    """Sets every dropout of `model`, including adapters', to zero in the modules. The configuration is unchanged.

    Training then computes the same as evaluation, so a ratio of probabilities is 1 before the first update.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or ("jitter" in name and name != ROUTING_THRESHOLD)):
                setattr(module, name, 0.0)
