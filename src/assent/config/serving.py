"""Configuration of `serve-check`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.options import DeviceOptions, Positive


class ServeCheckConfig(DeviceOptions, DataOptions):
    """Checks that transformers and vLLM, without any of Assent's code, compute what a model folder was trained to.

    For a policy it compares the prompt's tokens, greedy tokens and their log-probabilities; for a reward model, scores.
    It also checks what the engines rely on: template, EOS and pad, tied weights, types, bias. Nothing is written. The
    exit status is 1 if something differs.
    """

    model: str
    """Model to check: the folder of a policy or of a reward model, or a hub name."""
    revision: str | None = None
    """Revision of a model on the hub."""
    engines: Annotated[list[Literal["transformers", "vllm"]], Field(min_length=1)] | None = None
    """What to open the model with. Default: transformers, and vLLM where it is installed."""
    data: str | None = None
    """Prompts, for a reward model with completions: a file, a folder or a hub name. Default: a few built-in ones."""
    num_prompts: Positive = 4
    """Use only this many rows, from the start of --data."""
    max_new_tokens: Positive = 16
    """Tokens to generate for each prompt."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        idle = sorted(self.model_fields_set & {"num_prompts", *DataOptions.model_fields})
        if self.data is None and idle:
            raise ValueError(f"{', '.join(idle)} has no effect without data: give data, or leave it out")
        return self
