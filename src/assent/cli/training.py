"""sft, reward, dpo, kto, online-dpo, ppo, a2c, grpo, rloo: a configuration in, a trained model's folder out."""

from __future__ import annotations

from pydantic import BaseModel

from assent.cli.flags import command
from assent.cli.outcome import Outcome, figures
from assent.config.online import A2cConfig, GrpoConfig, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.pipelines.steps import run_step


@command(SftConfig)
def sft(config: SftConfig) -> Outcome:
    return _train("sft", config)


@command(RewardConfig)
def reward(config: RewardConfig) -> Outcome:
    return _train("reward", config)


@command(PreferenceConfig)
def dpo(config: PreferenceConfig) -> Outcome:
    return _train("dpo", config)


@command(KtoConfig)
def kto(config: KtoConfig) -> Outcome:
    return _train("kto", config)


@command(OnlineDpoConfig)
def online_dpo(config: OnlineDpoConfig) -> Outcome:
    return _train("online-dpo", config)


@command(PpoConfig)
def ppo(config: PpoConfig) -> Outcome:
    return _train("ppo", config)


@command(A2cConfig)
def a2c(config: A2cConfig) -> Outcome:
    return _train("a2c", config)


@command(GrpoConfig)
def grpo(config: GrpoConfig) -> Outcome:
    return _train("grpo", config)


@command(RlooConfig)
def rloo(config: RlooConfig) -> Outcome:
    return _train("rloo", config)


def _train(name: str, config: BaseModel) -> Outcome:
    result = run_step(name, config)
    lines = [f"{name}: {result['steps']} steps -> {result['model_path']}", *figures(result["metrics"])]
    return Outcome({"command": name, **result}, "\n".join(lines))
