"""Configuration of the sandbox's own pipeline steps. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assent.config.options import DeviceOptions, Fraction, NonNegative, Options, Positive


class SandboxWorldConfig(Options):
    """Writes the sandbox's demonstrations, training prompts and test prompts, and finds its base model."""

    output_dir: str
    """Folder to write to."""
    world_seed: NonNegative = 0
    """Seed of the world; another seed is another shop. The base model of seed 0 is shipped; that of another seed is
    built once, which takes minutes."""
    seed: NonNegative = 0
    """Seed that chooses prompts and demonstrations."""
    num_demonstrations: Positive = 2000
    """Demonstrations for instruction tuning, of mixed quality."""
    num_prompts: Positive = 2000
    """Prompts for reinforcement learning."""
    num_test_prompts: Positive = 200
    """Prompts for evaluation. They share no order, owner or city with the others."""


class SandboxLabelsConfig(DeviceOptions):
    """Comparisons: two completions of a model for each prompt, labelled by the sandbox's raters."""

    output_dir: str
    """Folder to write train.jsonl and test.jsonl to."""
    model: str
    """Model that writes the completions."""
    world_seed: NonNegative = 0
    """Seed of the world, as in the step that wrote the prompts."""
    seed: NonNegative = 0
    """Seed of sampling and labelling."""
    num_pairs: Positive = 2000
    """Comparisons to train on."""
    num_test_pairs: Positive = 500
    """Held-out comparisons, with prompts of their own."""
    raters: Literal["gold", "crowd", "judge"] = "gold"
    """Who labels. gold: the gold reward's order with Bradley–Terry noise; crowd: three groups of people; judge: an AI
    judge."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of the labels. Default: the raters' own."""
    flip: Fraction | None = None
    """Share of labels that are reversed. 0.5 is pure noise, 1 reverses every label. Default: the raters' own."""
    coverage: bool = True
    """Show the best behaviour in some comparisons. With --no-coverage none shows it, though the model has it now and
    then."""
    trap_correlation: Fraction = 0.0
    """How strongly a worthless phrase goes with good answers in these pairs."""
    max_new_tokens: Positive = 40
    """Longest completion, in tokens."""
