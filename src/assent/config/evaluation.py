"""Configuration of what measures models rather than trains them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions


class EvalConfig(DeviceOptions, PromptOptions):
    """Several policies on the same prompts, judged by one scorer: scores, win rates, KL and lengths, with intervals."""

    output_dir: str
    """Folder to write evaluation.json and table.txt to."""
    policies: Annotated[dict[str, str], Field(min_length=1)]
    """Name to model folder."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are not used."""
    judge: str
    """What scores the answers: a reward-model folder, or module:function."""
    baseline: str
    """Name of the policy that win rates are against."""
    reference: str | None = None
    """Name of the policy that KL is measured to; none given: the baseline."""
    ledgers: dict[str, str] = Field(default_factory=dict)
    """Name of a policy to the run folder whose costs stand in its row."""
    reward_model: str | None = None
    """Reward-model folder: chooses the best of n, and is judged itself on held-out comparisons."""
    best_of_n: NonNegative = 0
    """Add best-of-n of the baseline by --reward-model; 0: none."""
    reward_pairs: str | None = None
    """Held-out comparisons to judge --reward-model on."""
    labels: str | None = None
    """labels.json of the sandbox's labelling step: its noise ceiling stands beside the reward model's accuracy."""
    num_prompts: NonNegative = 0
    """The first so many prompts of the data; 0: all."""
    samples_per_prompt: Positive = 4
    """Completions at temperature 1 for each prompt, beside the greedy one."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    seed: NonNegative = 0
    """All sampling is a function of it."""

    @model_validator(mode="after")
    def _names_and_pairs_of_options(self) -> Self:
        for option in ("baseline", "reference"):
            name = getattr(self, option)
            if name is not None and name not in self.policies:
                raise ValueError(f"{option} {name!r} is not among the policies ({', '.join(self.policies)})")
        for name in self.ledgers:
            if name not in self.policies and not (self.best_of_n and name == f"best-of-{self.best_of_n}"):
                raise ValueError(
                    f"ledgers names {name!r}, which is not among the policies ({', '.join(self.policies)})"
                )
        if self.reward_model is None and (self.best_of_n or self.reward_pairs):
            raise ValueError("best_of_n and reward_pairs need reward_model")
        if self.reward_model is not None and not (self.best_of_n or self.reward_pairs):
            raise ValueError("reward_model has no effect without best_of_n or reward_pairs")
        if self.labels is not None and self.reward_pairs is None:
            raise ValueError("labels has no effect without reward_pairs")
        return self
