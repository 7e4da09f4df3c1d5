"""The commands that train: a configuration in, a trained model's folder out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from assent.cli.flags import command
from assent.cli.outcome import Outcome, figures
from assent.config.commands import ConvertConfig
from assent.config.online import A2cConfig, GrpoConfig, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.pipelines.steps import run_step

Config = TypeVar("Config", bound=BaseModel)


def _trains(name: str, config_class: type[Config]) -> Callable[..., Outcome]:
    @command(config_class)
    def train(config: Config) -> Outcome:
        result = run_step(name, config)
        lines = [f"{name}: {result['steps']} steps -> {result['model_path']}", *figures(result["metrics"])]
        return Outcome({"command": name, **result}, "\n".join(lines))

    return train


sft = _trains("sft", SftConfig)
reward = _trains("reward", RewardConfig)
dpo = _trains("dpo", PreferenceConfig)
kto = _trains("kto", KtoConfig)
online_dpo = _trains("online-dpo", OnlineDpoConfig)
ppo = _trains("ppo", PpoConfig)
a2c = _trains("a2c", A2cConfig)
grpo = _trains("grpo", GrpoConfig)
rloo = _trains("rloo", RlooConfig)


@command(ConvertConfig, positional="file")
def convert_config(config: ConvertConfig) -> Outcome:
    from assent.commands.convert_config import convert_config as convert

    document, lines = convert(config)
    head = [] if config.output is None else [f"convert-config -> {config.output}", ""]
    return Outcome({"command": "convert-config", **document}, "\n".join([*head, *lines]), int(bool(document["to_do"])))
