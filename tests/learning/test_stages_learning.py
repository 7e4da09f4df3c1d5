"""What the stages learn, and that they learn it from the labels: turned round it is the opposite, shuffled nothing.

On the sandbox's base model, comparisons of replies that no model wrote (nothing is sampled), and gold's own order on
held-out prompts. A policy is judged by its implicit reward, β log π/π_ref.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from assent.config.online import GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.config.stages import PreferenceConfig, RewardConfig
from assent.data.loading import write_groups
from assent.sandbox.base_model import base_folder
from assent.sandbox.labellers import sample_and_label
from assent.sandbox.settings import LabelSettings, Rater
from assent.sandbox.world import World
from assent.stages import online, preference, reward
from assent.statistics.intervals import proportion_interval
from assent.types import PromptGroup
from tests.support.models import tiny_model
from tests.support.rows import read_rows
from tests.support.stages import write_inputs

HELD_OUT = 150
Train = Callable[..., float]


def pairs(count: int, *, flip: float, split: str, seed: int = 0) -> list[PromptGroup]:
    settings = LabelSettings(number=count, source="foreign", raters=(Rater(temperature=0.02, flip=flip),))
    return sample_and_label(World(0), settings, seed=seed, sampler=None, split=split).groups


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Gold's own order on other prompts."""
    path = tmp_path_factory.mktemp("held-out") / "gold.jsonl"
    write_groups(path, pairs(HELD_OUT, flip=0.0, split="validation"), "comparisons")
    return str(path)


@pytest.fixture(params=["dpo", "reward"])
def train(request: pytest.FixtureRequest, held_out: str, tmp_path: Path) -> Train:
    """Accuracy on gold's order after training on labels of which a share `flip` is turned round."""

    def run(*, flip: float, seed: int = 0, count: int = 192) -> float:
        given: dict[str, Any] = {"model": str(base_folder(0)), "data": "rows", "eval_data": held_out, "seed": seed}
        given |= {"output_dir": str(tmp_path / f"run-{flip}-{seed}"), "max_length": 256, "batch_size": 16}
        data = pairs(count, flip=flip, split="preference", seed=seed)
        if request.param == "dpo":
            cache = str(tmp_path / "cache")
            config = PreferenceConfig(**given, learning_rate=3e-4, reference_cache=cache)
            return preference.train(config, data=data).metrics["eval_rewards/accuracies"]
        return reward.train(RewardConfig(**given, learning_rate=1e-3), data=data).metrics["eval_accuracy"]

    return run


def interval(accuracy: float) -> tuple[float, float]:
    right = round(accuracy * HELD_OUT)
    found = proportion_interval([1.0] * right + [0.0] * (HELD_OUT - right))
    return found.low, found.high


def test_labels_teach_what_they_say(train: Train) -> None:
    assert interval(train(flip=0.0))[0] > 0.55


def test_labels_turned_round_teach_the_opposite(train: Train) -> None:
    assert interval(train(flip=1.0))[1] < 0.45


def test_shuffled_labels_teach_nothing(train: Train) -> None:
    """Over several draws of the labels: one draw teaches its own accidents, of which some generalise."""
    found = [train(flip=0.5, seed=seed, count=96) for seed in range(6)]
    low, high = stats.t.interval(0.95, len(found) - 1, loc=sum(found) / len(found), scale=stats.sem(found))
    assert low <= 0.5 <= high, found


ONLINE: dict[str, tuple[type[OnlineOptions], dict[str, Any]]] = {
    "ppo": (PpoConfig, {"num_ppo_epochs": 2}),
    "grpo": (GrpoConfig, {}),
    "rloo": (RlooConfig, {}),
    "reinforce++": (PpoConfig, {"algorithm": "reinforce++", "num_ppo_epochs": 2}),
}


@pytest.mark.parametrize(("rule", "sign"), [("letters", 1), ("no_letters", -1)])
@pytest.mark.parametrize("algorithm", ONLINE)
def test_online_algorithms_follow_their_reward_up_and_turned_round_down(
    algorithm: str, rule: str, sign: int, tmp_path: Path
) -> None:
    inputs = write_inputs(tmp_path)
    config_class, options = ONLINE[algorithm]
    config = config_class(
        model=tiny_model(tmp_path / "start"),
        data=inputs["prompts"],
        reward=f"tests.support.stages:{rule}",
        output_dir=str(tmp_path / "run"),
        batch_size=10,
        num_completions=8,
        max_new_tokens=8,
        max_length=64,
        learning_rate=1e-2,
        kl_coef=0.01,
        total_steps=25,
        **options,
    )
    online.train(config)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    scores = [sign * row["objective/scores"] for row in rows if "objective/scores" in row]  # the share of letters
    started, ended = sum(scores[:2]) / 2, sum(scores[-2:]) / 2
    assert sign * (ended - started) > 0.1
    kl = [row["objective/kl"] for row in rows if "objective/kl" in row]
    assert abs(kl[0]) < 1e-4 < kl[-1]  # it moved away from the reference, and the ledger of that says so
