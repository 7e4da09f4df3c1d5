"""Configuration of the sandbox's own pipeline steps. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assent.config.options import DeviceOptions, Fraction, NonNegative, Options, Positive


class SandboxWorldConfig(Options):
    """Writes the sandbox's files: demonstrations, prompts to train on, prompts to test on; and finds its base model."""

    output_dir: str
    """Folder to write to."""
    world_seed: NonNegative = 0
    """The world; another seed is another shop. Seed 0's base model is shipped, others are built once (minutes)."""
    seed: NonNegative = 0
    """Which prompts and demonstrations are drawn."""
    num_demonstrations: Positive = 2000
    """For instruction tuning; of mixed quality."""
    num_prompts: Positive = 2000
    """For reinforcement learning."""
    num_test_prompts: Positive = 200
    """For evaluation; no order, owner or city in common with the others."""


class SandboxLabelsConfig(DeviceOptions):
    """Comparisons: two completions of a model for each prompt, labelled by the sandbox's raters."""

    output_dir: str
    """Folder to write train.jsonl and test.jsonl to."""
    model: str
    """Model that writes the completions."""
    world_seed: NonNegative = 0
    """The world, as in the step that wrote the prompts."""
    seed: NonNegative = 0
    """Sampling and labels are a function of it."""
    num_pairs: Positive = 2000
    """Comparisons to train on."""
    num_test_pairs: Positive = 500
    """Held-out comparisons, of prompts of their own."""
    raters: Literal["gold", "crowd", "judge"] = "gold"
    """Who labels: gold's order with Bradley–Terry noise, three groups of people, or an AI judge."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Of the labels, in place of the raters' own."""
    flip: Fraction | None = None
    """Labels turned round, in place of the raters' own: 0.5 is pure noise, 1 reverses every label."""
    coverage: bool = True
    """Without it, no comparison shows the best behaviour, though the model has it now and then."""
    trap_correlation: Fraction = 0.0
    """How far a worthless phrase looks like a mark of good answers in these pairs."""
    max_new_tokens: Positive = 40
    """Longest completion, in tokens."""
