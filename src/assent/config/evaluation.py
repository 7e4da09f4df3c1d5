"""Configuration of what measures models rather than trains them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions
from assent.config.rewards import OutcomeRewards


class EvalConfig(DeviceOptions, PromptOptions, EnsembleOptions):
    """Several policies on the same prompts, judged by one scorer: scores, win rates, KL and lengths, with intervals.

    Without --policies: --reward-model on the comparisons and rankings of --data: accuracy, calibration, length, slices.
    """

    output_dir: str | None = None
    """Folder to write evaluation.json (of a reward model reward_model.json) and table.txt to; policies need one."""
    policies: dict[str, str] = Field(default_factory=dict)
    """Name to model folder."""
    data: str
    """Prompts (completions are not used); without --policies comparisons or rankings: a file, folder or hub name."""
    judge: OutcomeRewards | None = None
    """What scores the policies' answers: a reward-model folder, module:function, a rule, an address, implicit:POLICY,
    REFERENCE; or several, with weights (docs/rewards.md)."""
    baseline: str | None = None
    """Name of the policy that win rates are against."""
    reference: str | None = None
    """Name of the policy that KL is measured to; none given: the baseline."""
    ledgers: dict[str, str] = Field(default_factory=dict)
    """Name of a policy to the run folder whose costs stand in its row."""
    reward_model: str | None = None
    """Reward-model folder: judged on held-out comparisons; beside policies it chooses the best of n."""
    best_of_n: NonNegative = 0
    """Add best-of-n of the baseline by --reward-model; 0: none."""
    reward_pairs: str | None = None
    """Held-out comparisons to judge --reward-model on."""
    slices: list[str] = Field(default_factory=list)
    """Columns of the comparisons to show the reward model's accuracy by."""
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
        if not self.policies:
            return self._check_without_policies()
        lacking = [name for name in ("output_dir", "judge", "baseline") if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"policies need {', '.join(lacking)}")
        for option in ("baseline", "reference"):
            name = getattr(self, option)
            if name is not None and name not in self.policies:
                raise ValueError(f"{option} {name!r} is not among the policies ({', '.join(self.policies)})")
        for name in self.ledgers:
            if name not in self.policies and not (self.best_of_n and name == f"best-of-{self.best_of_n}"):
                raise ValueError(
                    f"ledgers names {name!r}, which is not among the policies ({', '.join(self.policies)})"
                )
        if self.reward_model is None and (self.best_of_n or self.reward_pairs or self.reward_ensemble):
            raise ValueError("best_of_n, reward_pairs and reward_ensemble need reward_model")
        if self.reward_model is not None and not (self.best_of_n or self.reward_pairs):
            raise ValueError("reward_model has no effect without best_of_n or reward_pairs")
        if self.reward_pairs is None and (self.labels is not None or self.slices):
            raise ValueError("labels and slices have no effect without reward_pairs")
        return self

    def _check_without_policies(self) -> Self:
        if self.reward_model is None:
            raise ValueError("nothing to evaluate: give policies (with judge and baseline), or reward_model")
        used = {"output_dir", "data", "reward_model", "reward_ensemble", "slices", "seed", "policies"}
        used |= set(DeviceOptions.model_fields) | set(PromptOptions.model_fields)
        if idle := sorted(self.model_fields_set - used):
            raise ValueError(f"{', '.join(idle)} has no effect without policies")
        return self
