"""Configuration of the commands that write completions: `sample` and `best-of-n`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions, SamplerOptions
from assent.config.rewards import OutcomeRewards
from assent.config.sharding import ShardingOptions


class CompletionOptions(DeviceOptions, DataOptions, PromptOptions, EnsembleOptions, SamplerOptions, ShardingOptions):
    """How to sample completions from a policy."""

    output_dir: str
    """Folder to write completions.jsonl to."""
    num_prompts: NonNegative = 0
    """Use only this many prompts, from the start of the data. 0: all."""
    max_new_tokens: Positive = 256
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens that has this probability."""
    top_k: NonNegative = 0
    """Sample from this many of the most likely tokens. 0: from all."""
    reference: str | None = None
    """Model that the policy was trained from, to be mixed with it: a folder or a hub name. Needs --realignment."""
    realignment: Annotated[float, Field(ge=0)] | None = None
    """Decoding-time realignment (arXiv:2402.02992): sample with the logits (1 - this) * reference + this * policy. This
    comes close to training with beta or the KL coefficient divided by this. 1: the policy; 0: the reference."""
    seed: NonNegative = 0
    """Seed of sampling. A completion depends on the seed, its prompt's number and its own number alone."""

    @model_validator(mode="after")
    def _realignment_is_whole(self) -> Self:
        if (self.reference is None) != (self.realignment is None):
            raise ValueError("reference and realignment need each other: give both, or neither")
        if self.realignment is not None and self.sampler == "vllm":
            raise ValueError("realignment mixes two models, but sampler vllm holds only one: choose sampler torch")
        return self


class SampleConfig(CompletionOptions):
    """Completions of a policy, as JSONL that every other command reads (prompt, completion)."""

    model: str
    """Policy to sample from: a folder or a hub name."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are ignored."""
    num_completions: Positive = 1
    """Completions sampled for each prompt."""
    greedy: bool = False
    """Always take the most likely token."""
    stop: list[str] = Field(default_factory=list)
    """Texts that end a completion, in ASCII. The completion keeps the token that completed one."""
    keep: Literal["all", "best"] = "all"
    """best: keep each prompt's highest-scoring completion by --reward, as data for sft (RAFT, arXiv:2304.06767)."""
    reward: OutcomeRewards | None = None
    """What scores completions for --keep best: a reward-model folder, module:function, a rule, an address; or several
    of them, with weights (docs/rewards.md)."""

    @model_validator(mode="after")
    def _stop_strings_are_followed(self) -> Self:
        if any(not text or not text.isascii() for text in self.stop):
            raise ValueError(f"stop takes texts of ASCII characters only: change {self.stop}")
        if self.stop and self.sampler != "torch":
            raise ValueError("stop works with sampler torch only: leave it out, or choose sampler torch")
        return self

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.greedy:
            idle = self.model_fields_set & {"temperature", "top_p", "top_k"}
            idle |= {"num_completions"} if self.num_completions > 1 else set()
            if idle:
                raise ValueError(f"{', '.join(sorted(idle))} has no effect with greedy: leave one of them out")
        if self.keep == "best" and (self.reward is None or self.num_completions < 2):
            raise ValueError(
                "keep best needs reward to choose by and num_completions of at least 2 to choose from: give both"
            )
        for name in ("reward", "reward_ensemble"):
            if self.keep == "all" and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect with keep all: leave it out, or give --keep best")
        return self


CHOICE = frozenset({"output_dir", "samples", "reward", "reward_ensemble", "n", "gain", "soft_temperature"})
"""Options of best-of-n that are about choosing, not about sampling."""


class BestOfNConfig(CompletionOptions):
    """Keeps each prompt's highest-scoring completion out of N (arXiv:2009.01325)."""

    model: str | None = None
    """Policy to sample from: a folder or a hub name."""
    data: str | None = None
    """Prompts: a file, a folder or a hub name. Completions in it are ignored."""
    samples: str | None = None
    """Completions that exist already, as sample and best-of-n write them. Give them instead of --model and --data."""
    reward: OutcomeRewards | None = None
    """What scores completions: a reward-model folder, module:function, a rule, an address, implicit:POLICY,REFERENCE;
    or several of them, with weights (docs/rewards.md). Default with --samples: the scores in the file."""
    n: Annotated[int, Field(ge=2)] | None = None
    """Completions of each prompt, of which the best is kept. Default: 16; with --samples, as many as the file has."""
    gain: Annotated[float, Field(gt=0)] | None = None
    """Use the smallest N that raises the mean score by this over a single completion. --n is then the largest N."""
    soft_temperature: Annotated[float, Field(gt=0)] | None = None
    """Soft best-of-N (arXiv:2505.03156): draw the completion to keep, with probability proportional to exp(score /
    this)."""
    block_size: Positive | None = None
    """Reward-guided decoding (arXiv:2310.17022): choose among n continuations after every this many tokens. The reward
    must make sense of unfinished text."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.samples is None:
            if lacking := [name for name in ("model", "data", "reward") if getattr(self, name) is None]:
                raise ValueError(f"{', '.join(lacking)} missing: give a policy, prompts and a reward, or samples")
        else:
            used = set(CHOICE)
            used |= {"seed"} if self.soft_temperature is not None else set()
            used |= {"device", "dtype", "allow_slow_dtype"} if self.reward is not None else set()
            if idle := sorted(self.model_fields_set - used):
                raise ValueError(
                    f"{', '.join(idle)} has no effect with samples, as no model samples or reads: leave it out"
                )
            if self.reward is None and self.reward_ensemble is not None:
                raise ValueError("reward_ensemble has no effect without reward: give both, or leave it out")
        if self.block_size is not None and self.is_sharded:
            raise ValueError("block_size cannot be cut into shards: leave num_shards and engine out")
        if self.block_size is not None and self.gain is not None:
            raise ValueError(
                "gain has no effect with block_size: blocks do not show what another n would give. Leave one out"
            )
        if self.block_size is not None and self.block_size >= self.max_new_tokens:
            raise ValueError("block_size has no effect unless it is below max_new_tokens: lower it, or leave it out")
        return self

    @property
    def most(self) -> int:
        """Completions sampled for each prompt, or for each block."""
        return self.n or 16
