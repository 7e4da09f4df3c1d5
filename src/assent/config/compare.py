"""Configuration of `compare`: methods on the same data at equal labels, completions or FLOPs. Torch-free."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from assent.config.data import DataOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions
from assent.config.rewards import OutcomeRewards
from assent.errors import ConfigError

LAST = ("sft", "dpo", "ppo", "grpo", "rloo", "best-of-n")
ONLINE = ("ppo", "grpo", "rloo")
"""Methods that train on their own samples against a reward model of the comparisons."""
OWN = frozenset({"model", "data", "output_dir", "seed", "reward", "max_steps", "device", "dtype"})
"""Options of the commands that the comparison sets itself."""


def parts_of(method: str) -> tuple[str, ...]:
    """Commands of a method: `sft+ppo` is sft, reward, ppo. ConfigError for an unknown method."""
    *first, last = method.split("+")
    if last not in LAST or first not in ([], ["sft"], ["dpo"], ["sft", "dpo"]) or last in first or method == "dpo+sft":
        raise ConfigError(
            "unknown method",
            got=method,
            expected=f"{', '.join(LAST)}; or one of them after sft, dpo or both, as in sft+dpo+best-of-n",
        )
    reward = ["reward"] if last in (*ONLINE, "best-of-n") else []
    return (*first, *reward, last)


class CompareConfig(DeviceOptions, DataOptions, PromptOptions):
    """Trains several methods from one model on the same data, with equal labels, completions or FLOPs, and judges them
    on the same prompts."""

    methods: Annotated[list[str], Field(min_length=1)]
    """Methods to compare: sft, dpo, ppo, grpo, rloo, best-of-n, separated by commas or spaces. Join methods that follow
    one another with +, as in sft+dpo+best-of-n."""
    model: str
    """Model from which every method starts: a folder or a hub name."""
    data: str
    """Comparisons: a file, a folder or a hub name. sft trains on the chosen completions, unless --demonstrations is
    given."""
    demonstrations: str | None = None
    """Demonstrations for sft to train on: a file, a folder or a hub name."""
    prompts: str | None = None
    """Prompts that ppo, grpo and rloo sample at. Default: those of --data."""
    budget: Literal["labels", "completions", "flops"]
    """What every method may spend the same amount of."""
    amounts: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Amounts to spend, in ascending order. Each is a comparison of its own."""
    judge: OutcomeRewards
    """What scores the answers: a reward-model folder that no method trains against, module:function, a rule, an
    address, implicit:POLICY,REFERENCE; or several of them, with weights."""
    test_data: str
    """Prompts to judge on: a file, a folder or a hub name. Completions in it are ignored."""
    output_dir: str
    """Folder of the runs and of comparison.json. Finished runs are not repeated."""
    test_split: str | None = None
    """Split of --test-data to read. Default: train, or the only one."""
    num_test_prompts: NonNegative = 0
    """Use only this many prompts, from the start of --test-data. 0: all."""
    served: NonNegative = 0
    """Number of answers that best-of-n will have to give; each costs n completions. 0: as many as there are test
    prompts."""
    demonstration_cost: Annotated[float, Field(gt=0)] = 1.0
    """Cost of one demonstration, in labels."""
    comparison_cost: Annotated[float, Field(gt=0)] = 1.0
    """Cost of one comparison, in labels."""
    n: Annotated[int, Field(ge=2)] = 16
    """Completions per prompt in best-of-n at equal labels. With other budgets it follows from what may be spent."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    samples_per_prompt: Positive = 4
    """Completions of each test prompt that are judged. best-of-n has one."""
    seed: NonNegative = 0
    """Seed that chooses the rows, and of training and sampling."""
    num_seeds: Positive = 1
    """Repeat everything with this many seeds. Intervals are then over prompts and seeds."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of the commands (sft, reward, dpo, ppo, grpo, rloo), by name: --options.dpo '{"beta": 0.3}'."""

    @field_validator("methods", mode="before")
    @classmethod
    def _names_between_commas(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
            return value
        return [name.strip() for part in listed for name in part.split(",") if name.strip()]

    @field_validator("amounts", mode="before")
    @classmethod
    def _numbers_between_commas(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [value]
        return [number for part in listed for number in (part.split(",") if isinstance(part, str) else [part])]

    @field_validator("options", mode="before")
    @classmethod
    def _options_in_json(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: _object(name, part) if isinstance(part, str) else part for name, part in value.items()}

    @model_validator(mode="after")
    def _methods_and_options_are_known(self) -> Self:
        commands = {command for method in self.methods for command in parts_of(method)}
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("a method is listed twice", got=", ".join(self.methods), fix="list it once")
        if self.amounts != sorted(set(self.amounts)):
            raise ConfigError(
                "amounts must ascend", got=", ".join(f"{a:g}" for a in self.amounts), fix="sort them, each one once"
            )
        for name, given in self.options.items():
            if name not in commands - {"best-of-n"}:
                raise ConfigError(
                    f"options of {name} have no effect: these methods do not use that command",
                    got=name,
                    expected=", ".join(sorted(commands - {"best-of-n"})),
                    fix="leave them out",
                )
            if own := sorted(set(given) & (OWN if self.budget == "labels" else OWN | {"total_steps"})):
                raise ConfigError(f"options of {name}: the comparison itself sets {', '.join(own)}", fix="leave it out")
        chooses, samples = "best-of-n" in commands, bool(commands & set(ONLINE))
        idle = {
            "demonstrations": "sft" not in commands,
            "demonstration_cost": self.demonstrations is None or self.budget != "labels",
            "comparison_cost": self.budget != "labels",
            "prompts": not samples,
            "n": not chooses or self.budget != "labels",
            "served": not chooses or self.budget == "labels",
        }
        if unread := [name for name, is_idle in idle.items() if is_idle and name in self.model_fields_set]:
            raise ConfigError(
                f"{', '.join(unread)} has no effect with these methods and this budget", fix="leave it out"
            )
        return self


def _object(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"options of {name} are not valid JSON: {error}", got=text, expected='{"beta": 0.3}'
        ) from None
