"""Configuration of `explain`. Torch-free."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from assent.config.data import DataOptions
from assent.config.options import DeviceOptions, Positive, TextOptions
from assent.errors import ConfigError

FOUR = "four numbers (policy chosen, policy rejected, reference chosen, reference rejected)"


def _numbers(value: Any, *, count: int, expected: str) -> list[float]:
    try:
        numbers = [float(item) for item in value]
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(expected)
    return numbers


def _two_numbers(value: Any) -> list[float]:
    return _numbers(value, count=2, expected="two finite numbers: chosen, then rejected")


def _numbers_or_file(value: Any) -> list[float] | str:
    """Four numbers, or a file. The command line gives a file as a list of one text."""
    items = [value] if isinstance(value, str) else value
    if isinstance(items, list | tuple) and len(items) == 1 and isinstance(items[0], str):
        try:
            float(items[0])
        except ValueError:
            return items[0]
    return _numbers(items, count=4, expected=f"{FOUR}, all finite, or one file of them")


TwoNumbers = Annotated[list[float], BeforeValidator(_two_numbers)]
Beta = Annotated[float, Field(gt=0)]
INPUTS = ("logps", "ratios", "scores", "model")


class ExplainConfig(DeviceOptions, DataOptions, TextOptions):
    """Takes a preference probability apart: implicit rewards, margin, probability, loss, gradient, effect of beta.

    It starts from four sums of log-probabilities (or a file of them), two ratios, two scores of a reward model, or
    models and a text; with a text it goes token by token. From numbers nothing is loaded. Nothing is written.
    """

    logps: Annotated[list[float] | str, BeforeValidator(_numbers_or_file)] | None = None
    """Four sums of log-probabilities: policy chosen, policy rejected, reference chosen, reference rejected; or a file
    of them."""
    ratios: TwoNumbers | None = None
    """Two ratios of policy to reference: of the chosen, then of the rejected completion. Needs --unit."""
    unit: Literal["log_ratio", "ratio"] | None = None
    """Unit of --ratios. log_ratio: log(policy / reference) in nats; ratio: policy / reference."""
    scores: TwoNumbers | None = None
    """Two scores of a reward model: of the chosen, then of the rejected completion."""
    beta: Beta = 0.1
    """Strength of the pull to the reference. An implicit reward is beta times a log-ratio."""
    model: str | None = None
    """Policy: a folder or a hub name. Needs --reference and a comparison."""
    reference: str | None = None
    """Reference policy: a folder or a hub name."""
    prompt: str | None = None
    """Prompt of the comparison: raw text, or messages as JSON."""
    chosen: str | None = None
    """Chosen completion, in the same form as --prompt."""
    rejected: str | None = None
    """Rejected completion, in the same form as --prompt."""
    data: str | None = None
    """Comparisons from which --row is taken: a file, a folder or a hub name. Give it instead of --prompt, --chosen and
    --rejected."""
    row: Positive | None = None
    """Row of --data to explain: the line of a JSONL or CSV file, otherwise the row's number, from 1."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        given = [name for name in INPUTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                "explain takes one input",
                got=" and ".join(given) or "none",
                expected="logps (four sums or a file), ratios with unit, scores, or model with reference and a text",
                fix="leave the others out"
                if given
                else "for example: explain --ratios 0.2 0.8 --unit log_ratio --beta 2",
            )
        return self

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        if self.ratios is not None and self.unit is None:
            raise ConfigError(
                "ratios need their unit",
                got=f"ratios {self.ratios[0]:g} {self.ratios[1]:g} without unit",
                expected="unit log_ratio (log-probabilities subtracted, in nats) or ratio (probabilities divided)",
                fix="name it: with beta 2, 0.2 and 0.8 give 0.2315 as log-ratios and 0.0588 as ratios",
            )
        if self.ratios is not None and self.unit == "ratio" and min(self.ratios) <= 0:
            raise ConfigError(
                "a ratio of probabilities must be above 0",
                got=" ".join(f"{ratio:g}" for ratio in self.ratios),
                fix="if these are log-ratios, give unit log_ratio",
            )
        if self.model is not None:
            self._text_is_named()
        return self

    def _text_is_named(self) -> None:
        if self.reference is None:
            raise ConfigError(
                "model needs a reference: an implicit reward is a log-ratio to it", fix="give reference as well"
            )
        texts = [name for name in ("prompt", "chosen", "rejected") if getattr(self, name) is not None]
        rows = [name for name in ("data", "row") if getattr(self, name) is not None]
        rows += [name for name in DataOptions.model_fields if name in self.model_fields_set and texts]
        if len(texts) + len(rows) != (3 if texts else 2) or (texts and rows):
            raise ConfigError(
                "model needs one comparison",
                got=", ".join([*texts, *rows]) or "none",
                expected="prompt, chosen and rejected; or data and row",
            )

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        of_model = {"reference", "prompt", "chosen", "rejected", "data", "row"}
        of_model |= {*DeviceOptions.model_fields, *DataOptions.model_fields, *TextOptions.model_fields}
        idle = self.model_fields_set & of_model if self.model is None else set()
        idle |= {"unit"} if self.unit is not None and self.ratios is None else set()
        idle |= self.model_fields_set & {"beta"} if self.scores is not None else set()
        if idle:
            given = next(name for name in INPUTS if getattr(self, name) is not None)
            raise ConfigError(f"{', '.join(sorted(idle))} has no effect with {given}", fix="leave it out")
        return self
