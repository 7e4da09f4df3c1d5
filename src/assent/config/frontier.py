"""Configuration of `frontier`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from assent.config.data import DataOptions
from assent.config.loading import read_value
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions

BEST_OF_N = "best-of-n"


class FrontierConfig(DeviceOptions, DataOptions, PromptOptions):
    """Measures proxy and gold reward against √KL, for best-of-N by each proxy and for each checkpoint of a policy.

    It fits the laws of over-optimisation (arXiv:2210.10760), finds where the gold reward peaks, and draws both.
    """

    output_dir: str
    """Folder to write frontier.json, frontier.svg and table.txt to."""
    sandbox: bool = False
    """Measure on the built-in world, and train what is measured: proxies from few and from many comparisons, PPO
    against them, DPO. Takes only --output-dir, --seed and --fast."""
    fast: bool = False
    """With --sandbox: run the same steps in under a minute, a smoke test whose numbers mean nothing."""
    reference: str | None = None
    """Policy that all others started from. The KL is measured to it, and best-of-N samples from it."""
    data: str | None = None
    """Prompts to measure on: a file, a folder or a hub name. Completions in it are ignored."""
    gold: str | None = None
    """The reward that the proxies stand for, and were not trained on: module:function, or a reward-model folder."""
    proxies: dict[str, str] = Field(default_factory=dict)
    """Proxies, by name (--proxies.NAME PATH): reward-model folders or module:function. Best-of-N by each proxy is a
    curve of its own."""
    curves: dict[str, list[str]] = Field(default_factory=dict)
    """Curves of trained policies, by name (--curves.NAME FOLDER): the folders that make up each curve. A training run
    gives all its checkpoints and its result (keep them with --save-steps and --save-total-limit). A model gives one
    point, as for one of several betas."""
    best_of_n: Annotated[int, Field(ge=2)] = 256
    """Completions of the reference per prompt. They give best-of-N for every N up to this number. Needs a proxy."""
    num_prompts: NonNegative = 0
    """Use only this many prompts, from the start of the data. 0: all."""
    samples_per_prompt: Positive = 4
    """Completions at temperature 1 for each prompt, from each policy of a curve."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    seed: NonNegative = 0
    """Seed of all sampling."""

    @field_validator("curves", mode="before")
    @classmethod
    def _one_folder_is_a_list_of_one(cls, curves: Any) -> Any:
        """`--curves.ppo runs/ppo`, `--curves.dpo '[runs/a, runs/b]'`."""
        if not isinstance(curves, dict):
            return curves
        read = {name: read_value(one) if isinstance(one, str) else one for name, one in curves.items()}
        return {name: [one] if isinstance(one, str) else one for name, one in read.items()}

    @model_validator(mode="after")
    def _there_is_something_to_measure(self) -> Self:
        if self.sandbox:
            if idle := sorted(self.model_fields_set - {"sandbox", "output_dir", "seed", "fast"}):
                raise ValueError(f"{', '.join(idle)} has no effect with sandbox, which has its own: leave it out")
            return self
        if self.fast:
            raise ValueError("fast has no effect without sandbox: give both, or leave it out")
        if lacking := [name for name in ("reference", "data", "gold") if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(lacking)} missing: give it, or sandbox for a study of the built-in world")
        if not self.proxies and not self.curves:
            raise ValueError("nothing to measure: give proxies (for best-of-n), curves of trained policies, or both")
        if not self.proxies and "best_of_n" in self.model_fields_set:
            raise ValueError("best_of_n has no effect without proxies to choose by: give some, or leave it out")
        if not self.curves and "samples_per_prompt" in self.model_fields_set:
            raise ValueError("samples_per_prompt has no effect without curves of policies: give some, or leave it out")
        for name, folders in self.curves.items():
            if not folders:
                raise ValueError(f"curve {name} has no folders: give one or more")
            if name.startswith(f"{BEST_OF_N} "):
                raise ValueError(f"curve {name!r} has a name that is kept for best-of-n by a proxy: choose another")
        return self
