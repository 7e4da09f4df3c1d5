"""A reward with several members: how they make one score, what is told of their disagreement, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from assent.config.ensembles import Combination
from assent.config.online import PpoConfig
from assent.config.stages import RewardConfig
from assent.errors import ConfigError
from assent.rewards.base import Scores
from assent.rewards.loading import check_reward, load_reward
from assent.rewards.reward_model import RewardModel, combine
from assent.stages import online, reward
from tests.support.models import tiny_model
from tests.support.rows import comparison, read_rows
from tests.support.stages import write_inputs

MEMBERS = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean", [3.0, 0.0]),
        ("min", [1.0, 0.0]),
        ("mean-std:0", [3.0, 0.0]),
        ("mean-std:1.5", [3.0 - 1.5 * (14 / 3) ** 0.5, 0.0]),
        ("weights:0.5,0,-1", [-5.5, 0.0]),
    ],
)
def test_members_are_combined_as_worked_out_by_hand(text: str, expected: list[float]) -> None:
    np.testing.assert_allclose(combine(MEMBERS, Combination.parse(text)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "text", ["median", "mean:1", "mean-std", "mean-std:-1", "mean-std:nan", "weights", "weights:a,b", "weights:0,0", ""]
)
def test_what_is_no_combination_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no such way to combine"):
        Combination.parse(text)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("ensemble")
    given = {"model": tiny_model(root / "start"), "data": "rows", "output_dir": str(root / "run")}
    config = RewardConfig(**given, num_heads=3, max_steps=1, max_length=64)
    return str(reward.train(config, data=[comparison(i) for i in range(4)]).model_path)


def test_a_reward_model_combines_its_members_and_tells_their_disagreement(ensemble: str) -> None:
    prompts, texts = ["what is 1 plus 1?"] * 2, ["it is 2.", "no"]
    members = RewardModel(ensemble).score_members(prompts, texts)
    assert members.shape == (2, 3)
    for text in ("mean", "min", "mean-std:1", "weights:1,0,2"):
        found = load_reward(ensemble, ensemble=text)
        scores = found.score(prompts, texts)
        np.testing.assert_allclose(scores, combine(members, Combination.parse(text)).tolist(), atol=1e-6)
        assert isinstance(scores, Scores)
        assert scores.statistics == {"ensemble_std": pytest.approx(float(members.std(1, correction=0).mean()))}


def test_a_combination_that_does_not_fit_is_refused_before_weights_are_read(ensemble: str, tmp_path: Path) -> None:
    check_reward(ensemble, ensemble="weights:1,2,3")
    with pytest.raises(ConfigError, match="a weight for each member"):
        check_reward(ensemble, ensemble="weights:1,2")
    with pytest.raises(ConfigError, match="a single member"):
        check_reward("tests.support.stages:brevity", ensemble="min")


def test_ppo_learns_from_a_cautious_ensemble_and_logs_its_disagreement(ensemble: str, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    given = {"model": inputs["model"], "data": inputs["prompts"], "reward": ensemble, "max_length": 64}
    config = PpoConfig(
        **given, output_dir=str(tmp_path / "run"), reward_ensemble="mean-std:1", total_steps=1, batch_size=4,
        max_new_tokens=4,
    )  # fmt: skip
    result = online.train(config)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert any(row.get("ensemble_std", 0) > 0 for row in rows)
    assert result.steps == 1
    with pytest.raises(ConfigError, match="a weight for each member"):
        online.train(config.model_copy(update={"reward_ensemble": "weights:1", "output_dir": str(tmp_path / "no")}))
    assert not (tmp_path / "no").exists()
