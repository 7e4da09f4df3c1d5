"""sft, reward, dpo, ppo: a configuration in, a trained model's folder out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.stages import PpoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.runs.progress import progress_for_stderr

if TYPE_CHECKING:
    from assent.stages.result import StageResult


@command(SftConfig)
def sft(config: SftConfig) -> Outcome:
    from assent.stages.sft import train

    return _outcome("sft", train(config, progress=progress_for_stderr()))


@command(RewardConfig)
def reward(config: RewardConfig) -> Outcome:
    from assent.stages.reward import train

    return _outcome("reward", train(config, progress=progress_for_stderr()))


@command(PreferenceConfig)
def dpo(config: PreferenceConfig) -> Outcome:
    from assent.stages.preference import train

    return _outcome("dpo", train(config, progress=progress_for_stderr()))


@command(PpoConfig)
def ppo(config: PpoConfig) -> Outcome:
    from assent.stages.online import train

    return _outcome("ppo", train(config, progress=progress_for_stderr()))


def _outcome(name: str, result: StageResult) -> Outcome:
    lines = [f"{name}: {result.steps} steps -> {result.model_path}"]
    lines += [f"  {metric:<28} {value:.6g}" for metric, value in sorted(result.metrics.items())]
    return Outcome({"command": name, **result.as_dict()}, "\n".join(lines))
