"""The commands that train: a configuration in, a trained model's folder out.

`training.dpo` and the others are made when they are asked for, so that a command loads its own options alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from assent.cli.flags import command
from assent.cli.outcome import Outcome, figures, summary
from assent.pipelines.steps import STEPS, run_step

Config = TypeVar("Config", bound=BaseModel)

COMMANDS = ("sft", "reward", "dpo", "kto", "online_dpo", "ppo", "a2c", "grpo", "rloo")


def __getattr__(name: str) -> Callable[..., Outcome]:
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    step = name.replace("_", "-")
    globals()[name] = made = _trains(step, STEPS[step].config_class())
    return made


def _trains(name: str, config_class: type[Config]) -> Callable[..., Outcome]:
    @command(config_class)
    def train(config: Config) -> Outcome:
        result = run_step(name, config)
        steps, metrics = result["steps"], result["metrics"]
        head = f"{name}: {steps} step{'' if steps == 1 else 's'} -> {result['model_path']}"
        text = "\n".join([head, *summary(metrics, of_last_step=True)])
        return Outcome({"command": name, **result}, text, whole="\n".join([head, *figures(metrics)]))

    return train
