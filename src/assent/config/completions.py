"""Configuration of what writes completions: `sample` and `best-of-n`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions
from assent.config.rewards import OutcomeRewards


class CompletionOptions(DeviceOptions, PromptOptions):
    """A policy, prompts, and how to sample from the one at the other."""

    output_dir: str
    """Folder to write completions.jsonl to."""
    model: str
    """Policy to sample from: a folder or a hub name."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are not used."""
    num_prompts: NonNegative = 0
    """The first so many prompts of the data; 0: all."""
    max_new_tokens: Positive = 256
    """Longest completion, in tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens that has this probability."""
    top_k: NonNegative = 0
    """Sample from so many of the likeliest tokens; 0: from all."""
    seed: NonNegative = 0
    """Each completion is a function of it, of the prompt's number and of its own."""


class SampleConfig(CompletionOptions):
    """Completions of a policy, as JSONL that every other command reads (prompt, completion)."""

    num_completions: Positive = 1
    """Completions of each prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of sampling."""
    greedy: bool = False
    """Always the likeliest token."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.greedy:
            idle = self.model_fields_set & {"temperature", "top_p", "top_k"}
            idle |= {"num_completions"} if self.num_completions > 1 else set()
            if idle:
                raise ValueError(f"{', '.join(sorted(idle))} has no effect with greedy: leave one of them out")
        return self


class BestOfNConfig(CompletionOptions, EnsembleOptions):
    """Samples N completions of each prompt and keeps the one that the reward scores highest (arXiv:2009.01325)."""

    reward: OutcomeRewards
    """What chooses: a reward-model folder, module:function, a rule, an address, implicit:POLICY,REFERENCE; or several,
    with weights (docs/rewards.md)."""
    n: Annotated[int, Field(ge=2)] = 16
    """Completions of each prompt among which the best is kept."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of sampling."""
