"""Options of `plan` for memory, time and cost. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from assent.config.options import Options

SECONDS = {"m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class NeedsOptions(Options):
    """What the plan says about the machine."""

    model: str = ""
    """Model to start from: a folder or a hub name."""
    data: tuple[str, ...] = ()
    """Data at hand: files, folders or hub names of any kind (demonstrations, comparisons, rankings, thumbs, scores,
    prompts). Give the flag once for each."""
    hardware: str | None = None
    """Also plan memory, time and cost, on this device: auto (this machine), cpu, a name as h100-80gb, or several of one
    as 8xh100-80gb. It reads the data with the model's tokenizer, which takes some seconds."""
    deadline: Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|min|h|d)$")] | None = None
    """Time that the training may take: 30m, 8h, 2d. Only with --hardware."""
    price: Annotated[float, Field(gt=0)] | None = None
    """Price of one device for one hour, as 2.5 or 2.5/h. Only with --hardware."""
    budget: Annotated[float, Field(gt=0)] | None = None
    """Money that the training may cost. Needs --price."""
    measure: bool = False
    """Run two real steps of the training in a process of their own, and say how far the plan is off. Needs --hardware
    auto and the model's weights."""
    calibrate: bool = False
    """Measure how fast this machine's CPU trains and samples, in under a minute, keep it for later plans and runs, and
    plan nothing."""

    @field_validator("price", mode="before")
    @classmethod
    def _price_is_for_an_hour(cls, value: Any) -> Any:
        return re.sub(r"\s*/\s*h$", "", value) if isinstance(value, str) else value

    @property
    def deadline_seconds(self) -> float | None:
        if self.deadline is None:
            return None
        unit = self.deadline.lstrip("0123456789.")
        return float(self.deadline.removesuffix(unit)) * SECONDS[unit]

    @model_validator(mode="after")
    def _needs_have_effect(self) -> Self:
        """`calibrate` takes nothing else; the others need a device to plan for."""
        if self.calibrate:
            if idle := sorted(self.model_fields_set - {"calibrate"}):
                raise ValueError(f"calibrate measures this machine and plans nothing: leave out {', '.join(idle)}")
            return self
        if not self.model or not self.data:
            raise ValueError(f"{'data' if self.model else 'model'} is missing: give --model and --data")
        for name in ("deadline", "price", "budget", "measure"):
            if getattr(self, name) and self.hardware is None:
                raise ValueError(f"{name} has no effect without hardware: give --hardware auto, or leave it out")
        if self.budget is not None and self.price is None:
            raise ValueError("budget needs price: give the price of one device for an hour")
        if self.measure and self.hardware != "auto":
            raise ValueError(f"measure runs on this machine: give --hardware auto, not {self.hardware}")
        return self
