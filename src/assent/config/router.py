"""The option of mixtures of experts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assent.config.options import StageDefaults


class RouterOptions(StageDefaults):
    """What balances the experts of a policy that has any."""

    router_aux_loss_coef: Annotated[float, Field(ge=0)] = 0.0
    """For a mixture of experts: adds this times the load-balancing loss of its routers (arXiv:2101.03961), over the
    tokens of the whole update. Models are often trained with 0.001 to 0.01. 0: off."""
