"""What the stages' objectives compute from a batch: by hand, and where the data has weights, margins, soft labels."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.loss_options import LossEntry
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.stages.held_out import held_out_metrics
from assent.stages.online_objectives import PolicyObjective, ValueObjective
from assent.stages.preference import PreferenceObjective
from assent.stages.references import REFERENCE, with_reference
from assent.stages.scoring import RankingObjective
from assent.stages.sft import SftObjective
from tests.support.engine import Settings
from tests.support.models import tiny_module


def softplus(x: float) -> float:
    return log(1 + exp(x))


def sigmoid(beta: float) -> PreferenceObjective:
    return PreferenceObjective([LossEntry(name="sigmoid", hyperparameters={"beta": beta})])


def two_pairs(*, value: tuple[dict[str, float], dict[str, float]] = ({}, {})) -> list[TokenGroup]:
    """Completions of 2, 1, 1 and 2 tokens."""
    lengths = ((2, 1), (1, 2))
    return [
        TokenGroup(
            prompt_ids=(3,),
            completions=tuple(TokenCompletion((4,) * n) for n in ns),
            completion={REFERENCE: np.array([-3.0, -2.0], np.float32), "rank": np.array([1, 2])},
            value=extra,
        )
        for ns, extra in zip(lengths, value, strict=True)
    ]


LOGPROBS = torch.tensor([-1.0, -1.5, -4.0, -2.0, -1.0, -0.5])
"""Sums: chosen −2.5 and −2, rejected −4 and −1.5; log-ratios 0.5, −2 and 1, 0.5: margins 2.5 and 0.5, times β."""


def loss_of(objective: Any, outputs: Outputs, groups: list[TokenGroup]) -> tuple[float, dict[str, float]]:
    batch = pack(groups, device="cpu")
    sums, metrics = objective(outputs, batch)
    counts = objective.counts(batch)
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    return sum(float(sums[term]) / counts[term] for term in sums), means


def test_dpo_is_the_mean_softplus_of_the_margins() -> None:
    loss, metrics = loss_of(sigmoid(0.2), Outputs(logprobs=LOGPROBS), two_pairs())
    assert loss == pytest.approx((softplus(-0.5) + softplus(-0.1)) / 2)
    assert metrics["rewards/margins"] == pytest.approx(0.3)
    assert metrics["rewards/accuracies"] == 1.0
    assert metrics["logps/chosen"] == pytest.approx(-2.25)


COLUMNS = [
    ("weight", 3.0, 1.0, lambda a, b: (3 * softplus(-a) + softplus(-b)) / 4),
    ("margin", 0.4, 0.0, lambda a, b: (softplus(0.4 - a) + softplus(-b)) / 2),
    (
        "chosen_probability",
        0.25,
        1.0,
        lambda a, b: (0.25 * softplus(-a) + 0.75 * softplus(a) + softplus(-b)) / 2,
    ),
]


@pytest.mark.parametrize(("column", "first", "second", "expected"), COLUMNS)
def test_columns_of_comparisons_have_their_effect(column: str, first: float, second: float, expected: Any) -> None:
    groups = two_pairs(value=({column: first}, {column: second}))
    loss, _ = loss_of(sigmoid(0.2), Outputs(logprobs=LOGPROBS), groups)
    assert loss == pytest.approx(expected(0.5, 0.1))
    scores = torch.tensor([1.5, 1.0, 0.3, 0.2])
    loss, metrics = loss_of(RankingObjective(), Outputs(scores=scores), groups)
    assert loss == pytest.approx(expected(0.5, 0.1))
    assert metrics == {"accuracy": 1.0, "margin": pytest.approx(0.3), "mean_reward": pytest.approx(0.75)}


def test_a_tie_of_scores_is_half_right() -> None:
    _, metrics = loss_of(RankingObjective(), Outputs(scores=torch.tensor([1.0, 1.0, 0.0, 2.0])), two_pairs())
    assert metrics["accuracy"] == 0.25


def test_sft_weighs_the_tokens_of_a_row() -> None:
    def rows(*weights: float) -> list[TokenGroup]:
        return [
            TokenGroup((3,), (TokenCompletion((4,) * n),), value={"weight": w})
            for n, w in zip((2, 1), weights, strict=True)
        ]

    outputs = Outputs(logprobs=torch.tensor([-1.0, -2.0, -6.0]))
    plain = [TokenGroup((3,), (TokenCompletion((4,) * n),)) for n in (2, 1)]
    assert loss_of(SftObjective(), outputs, plain)[0] == pytest.approx(9 / 3)
    assert loss_of(SftObjective(), outputs, rows(1.0, 1.0))[0] == pytest.approx(9 / 3)
    assert loss_of(SftObjective(), outputs, rows(1.0, 0.5))[0] == pytest.approx((3 + 3) / 2.5)
    assert loss_of(SftObjective(), outputs, rows(1.0, 0.0))[0] == pytest.approx(3 / 2)


def test_ppo_clips_ratio_and_value_by_hand() -> None:
    old = [np.log(np.array([0.5, 0.5], np.float32)), np.log(np.array([0.5], np.float32))]
    fields = {
        "old_logprobs": old,
        "advantages": [np.array([1.0, -1.0], np.float32), np.array([2.0], np.float32)],
        "old_values": [np.array([0.0, 1.0], np.float32), np.array([0.0], np.float32)],
        "returns": [np.array([1.0, 1.0], np.float32), np.array([2.0], np.float32)],
    }
    groups = [TokenGroup((3,), (TokenCompletion((4, 4)), TokenCompletion((4,))), token=fields)]
    ratios = torch.tensor([1.5, 1.5, 0.9])
    loss, metrics = loss_of(PolicyObjective(options={"cliprange": 0.2}), Outputs(logprobs=(ratios * 0.5).log()), groups)
    assert loss == pytest.approx((-1.2 + 1.5 - 1.8) / 3)  # the gain is clipped, the harm is not
    assert metrics["policy/clipfrac_avg"] == pytest.approx(1 / 3)
    assert metrics["val/ratio"] == pytest.approx(1.3)
    values = torch.tensor([0.5, 1.1, -1.0])
    loss, _ = loss_of(ValueObjective(options={"cliprange_value": 0.2}), Outputs(values=values), groups)
    assert loss == pytest.approx(0.5 * (max(0.25, 0.64) + 0.01 + max(9.0, 2.2**2)) / 3)


def test_the_references_numbers_go_to_their_own_completions() -> None:
    groups = [TokenGroup((3,), tuple(TokenCompletion((4,)) for _ in range(k))) for k in (2, 1, 3)]
    found = with_reference(groups, torch.arange(6.0))
    assert [group.completion[REFERENCE].tolist() for group in found] == [[0.0, 1.0], [2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize("kind", ["policy", "scorer"])
def test_held_out_figures_are_the_training_objectives_own(kind: str) -> None:
    """On the same groups: the metrics of an update are those of the weights before it."""
    numbers = np.random.default_rng(0)
    groups = [
        TokenGroup(
            tuple(numbers.integers(1, 17, 4).tolist()),
            tuple(TokenCompletion(tuple(numbers.integers(1, 17, 2 + 3 * k + i).tolist())) for k in range(2)),
            completion={REFERENCE: numbers.normal(-10, 3, 2).astype(np.float32), "rank": np.array([1, 2])},
            value={"weight": float(i + 1), "margin": 0.1 * i},
        )
        for i in range(5)
    ]
    objective = sigmoid(0.1) if kind == "policy" else RankingObjective()
    learner = Learner(
        tiny_module(kind=kind), runtime=Runtime("cpu"), optim=Settings(micro_batch_tokens=24), total_steps=1
    )
    before = held_out_metrics(learner, groups, objective)
    update = learner.update(groups, objective)
    assert update["perf/micro_batches"] > 1
    for name, value in before.items():
        assert value == pytest.approx(update[name.removeprefix("eval_")], rel=1e-6), name
    assert {"eval_loss", "eval_rewards/margins" if kind == "policy" else "eval_margin"} <= set(before)
    after = held_out_metrics(learner, groups, objective)
    assert after["eval_loss"] < before["eval_loss"]
    assert held_out_metrics(learner, [], objective) == {}
