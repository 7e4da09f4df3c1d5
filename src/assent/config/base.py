"""The base of all option classes, for what every one of them shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from assent.config.fixed import fixed


class Options(BaseModel):
    """Base of all option classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False,
                              ignored_types=(fixed,), defer_build=True)  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic reads `batch_size: true` as 1, but its author meant another option."""
        assert info.field_name is not None
        kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
        if kinds & {int, float} and not kinds & {bool, Any} and any(isinstance(leaf, bool) for leaf in _leaves(value)):
            raise ValueError("a number")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """int and None of `Annotated[int, ...] | None`; str and float of `dict[str, float]`."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts[:1] if get_origin(annotation) is Annotated else parts:
        yield from _kinds(part)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _leaves(part)
