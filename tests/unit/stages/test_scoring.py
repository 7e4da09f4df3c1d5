"""Objectives of reward models by hand, and what each loss takes of the data."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.loss_options import LossEntry
from assent.errors import DataError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.stages.scoring import BOOTSTRAP, RankingObjective, ScoreObjective, with_bootstrap, with_step_targets
from assent.stages.selecting import rankings_for, to_completions, to_labelled
from assent.types import Preference, PromptGroup
from tests.support.rows import group

RANKED = Preference(ranking=(2, 1, 2))


def softplus(x: float) -> float:
    return log(1 + exp(x))


def tokens(ranks: tuple[int, ...], **fields: Any) -> TokenGroup:
    completion = {"rank": np.array(ranks, np.float64)}
    return TokenGroup((3,), tuple(TokenCompletion((4,)) for _ in ranks), completion=completion, **fields)


def loss_of(objective: Any, groups: list[TokenGroup], **outputs: Any) -> tuple[float, dict[str, float]]:
    batch = pack(groups, device="cpu")
    sums, metrics = objective(Outputs(**{k: torch.tensor(v) for k, v in outputs.items()}), batch)
    counts = objective.counts(batch)
    means = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    return sum(float(sums[term]) / counts[term] for term in sums), means


def test_rankings_of_unequal_size_weigh_as_one_times_their_weight() -> None:
    """Scores 2, 1, 0 in order: softplus(-1), softplus(-2), softplus(-1) over three; and 0, 1 in the wrong order."""
    groups = [tokens((1, 2, 3), value={"weight": 1.0}), tokens((1, 2), value={"weight": 3.0})]
    first = (2 * softplus(-1) + softplus(-2)) / 3
    loss, metrics = loss_of(RankingObjective(LossEntry(name="all_pairs")), groups, scores=[2.0, 1.0, 0.0, 0.0, 1.0])
    assert loss == pytest.approx((first + 3 * softplus(1)) / 4)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["margin"] == pytest.approx((4 / 3 - 1) / 2)
    assert metrics["mean_reward"] == pytest.approx(0.8)


def test_a_sum_of_losses_by_hand() -> None:
    """Twice bradley_terry, which uses the margin of 0.5, and half of plackett_luce, which has no use for it."""
    losses = LossEntry(name="bradley_terry", weight=2.0), LossEntry(name="plackett_luce", weight=0.5)
    groups = [tokens((1, 2), value={"margin": 0.5})]
    loss, metrics = loss_of(RankingObjective(*losses), groups, scores=[1.0, 0.0])
    assert loss == pytest.approx(2 * softplus(-0.5) + 0.5 * softplus(-1.0))
    assert metrics["margin"] == 1.0


def test_the_loss_of_equal_scores_is_logged_where_it_depends_on_how_many_are_ranked() -> None:
    """ln 3! of three and ln 2! of two, by their weights; twice, and beside a comparison's ln 2."""
    groups = [tokens((1, 2, 3), value={"weight": 1.0}), tokens((1, 2), value={"weight": 3.0})]
    scores = [2.0, 1.0, 0.0, 0.0, 1.0]
    expected = (log(6) + 3 * log(2)) / 4
    _, metrics = loss_of(RankingObjective(LossEntry(name="plackett_luce")), groups, scores=scores)
    assert metrics["loss_at_equal_scores"] == pytest.approx(expected)
    several = LossEntry(name="plackett_luce", weight=2.0), LossEntry(name="all_pairs")
    members = [[score, -score] for score in scores]
    _, metrics = loss_of(RankingObjective(*several), groups, scores=members)
    assert metrics["loss_at_equal_scores"] == pytest.approx(2 * expected + log(2))
    _, metrics = loss_of(RankingObjective(LossEntry(name="all_pairs")), groups, scores=scores)
    assert "loss_at_equal_scores" not in metrics


def test_centring_is_added() -> None:
    """(0.5 + 0.3)² of a comparison, times 0.1."""
    plain, _ = loss_of(RankingObjective(), [tokens((1, 2))], scores=[0.5, 0.3])
    centred, _ = loss_of(RankingObjective(centring=0.1), [tokens((1, 2))], scores=[0.5, 0.3])
    assert centred - plain == pytest.approx(0.1 * 0.64)


def test_an_ensembles_loss_is_the_mean_of_its_members_with_their_own_weights() -> None:
    """Two members: margins 1 and -2; of the second comparison 0 and 3. Accuracy is that of the mean score."""
    scores = [[1.0, 0.0], [0.0, 2.0], [0.5, 3.0], [0.5, 0.0]]
    groups = [tokens((1, 2)), tokens((1, 2))]
    loss, metrics = loss_of(RankingObjective(), groups, scores=scores)
    assert loss == pytest.approx((softplus(-1) + softplus(2) + log(2) + softplus(-3)) / 4)
    assert metrics["accuracy"] == 0.5  # mean margins -0.5 and 1.5
    assert metrics["ensemble_std"] == pytest.approx((0.5 + 1.0 + 1.25 + 0.25) / 4)
    drawn = [tokens((1, 2), value={BOOTSTRAP.format(0): 2.0, BOOTSTRAP.format(1): 0.0})]
    loss, _ = loss_of(RankingObjective(), drawn, scores=scores[:2])
    assert loss == pytest.approx(2 * softplus(-1) / 2)


def test_bootstrap_weights_are_poisson_and_a_function_of_the_seed() -> None:
    groups = with_bootstrap([tokens((1, 2), value={"weight": 2.0})] * 4000, members=2, seed=1)
    drawn = np.array([[g.value[BOOTSTRAP.format(m)] for m in range(2)] for g in groups])
    assert abs(drawn.mean() - 1) < 0.05
    assert abs(drawn.var() - 1) < 0.1
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06
    assert groups[0].value["weight"] == 2.0
    again = with_bootstrap([tokens((1, 2))] * 4000, members=2, seed=1)
    assert [g.value[BOOTSTRAP.format(1)] for g in again] == drawn[:, 1].tolist()
    other = with_bootstrap([tokens((1, 2))] * 4000, members=2, seed=2)
    assert [g.value[BOOTSTRAP.format(1)] for g in other] != drawn[:, 1].tolist()


def test_labels_of_completions_by_hand() -> None:
    def labelled(weight: float, *labels: float) -> TokenGroup:
        completions = tuple(TokenCompletion((4,)) for _ in labels)
        return TokenGroup((3,), completions, completion={"score": np.array(labels)}, value={"weight": weight})

    groups = [labelled(1.0, 1.0, 0.0), labelled(2.0, 1.0)]
    loss, metrics = loss_of(ScoreObjective("bce"), groups, scores=[2.0, 1.0, 0.0])
    assert loss == pytest.approx((softplus(-2) + softplus(1) + 2 * log(2)) / 4)
    assert metrics["label_accuracy"] == pytest.approx(0.5)
    loss, metrics = loss_of(ScoreObjective("mse"), groups, scores=[2.0, 1.0, 0.0])
    assert loss == pytest.approx((1 + 1 + 2 * 1) / 4)
    assert metrics["label_error"] == pytest.approx(1.0)


def test_steps_are_scored_after_their_last_token() -> None:
    """Steps end at tokens 1 and 3 of four: their scores are the value before token 2 and the one after the last."""
    nan = float("nan")
    one = TokenGroup((3,), (TokenCompletion((4, 5, 6, 7)),), token={"step_label": [np.array([nan, 1.0, nan, 0.0])]})
    other = TokenGroup((3,), (TokenCompletion((4, 5)),), token={"step_label": [np.array([1.0, nan])]})  # cut
    loss, metrics = loss_of(
        ScoreObjective("bce", process=True),
        [with_step_targets(one), with_step_targets(other)],
        values=[9.0, 9.0, 2.0, 9.0, 9.0, 0.5],
        last_values=[1.0, 9.0],
    )
    assert loss == pytest.approx((softplus(-2) + softplus(1) + softplus(-0.5)) / 3)
    assert metrics["label_accuracy"] == pytest.approx(2 / 3)


def test_rankings_are_put_in_order_with_ties() -> None:
    given = group(0, "a", "b", "c", preference=Preference(scores=(0.5, 3.0, 0.5), weight=2.0))
    (found,), refused = rankings_for([given], loss="all_pairs", accepts=frozenset({"many"}))
    assert [text[0].content for text in found.completions] == ["b", "a", "c"]  # type: ignore[union-attr]
    assert found.preference is not None
    assert (found.preference.ranking, found.preference.weight, refused) == ((1, 2, 2), 2.0, {})


def test_a_ranking_of_ties_alone_needs_a_loss_that_knows_ties() -> None:
    tie = group(0, "a", "b", preference=Preference(ranking=(1, 1)))
    assert rankings_for([tie], loss="x", accepts=frozenset())[1] == {
        "a tie: neither completion is better": ["rows.jsonl:1"]
    }
    (found,), refused = rankings_for([tie], loss="x", accepts=frozenset({"tied"}))
    assert (found.preference, refused) == (Preference(ranking=(1, 1)), {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (group(0, "a", "b", "c", preference=RANKED), "--loss-type plackett_luce"),
        (group(0, "a", "b", preference=Preference(ranking=(1, 2), margin=0.5)), "does not use"),
        (group(0, "a", "b", preference=Preference(ranking=(1, 2), chosen_probability=0.5)), "does not use"),
        (group(0, "a", preference=Preference(thumbs=(True,))), "--loss-type bce"),
        (group(0, "a", "b"), "no preference"),
    ],
)
def test_what_a_loss_of_rankings_cannot_use_is_refused(given: PromptGroup, message: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1") as caught:
        rankings_for([given], loss="x", accepts=frozenset())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("preference", "labels"),
    [
        (Preference(thumbs=(True,)), (1.0,)),
        (Preference(scores=(0.25,)), (0.25,)),
        (Preference(step_labels=((1.0, 1.0, 0.0),)), (0.0,)),  # the outcome is the last step's label
    ],
)
def test_every_label_becomes_a_score(preference: Preference, labels: tuple[float, ...]) -> None:
    (found,), _ = to_labelled([group(0, "a", preference=preference)], loss="bce", process=False)
    assert found.preference == Preference(scores=labels)


def test_what_has_no_labels_or_none_in_range_is_refused() -> None:
    with pytest.raises(DataError, match="each completion"):
        to_labelled([group(0, "a", "b", preference=Preference(ranking=(1, 2)))], loss="bce", process=False)
    with pytest.raises(DataError, match="each step"):
        to_labelled([group(0, "a", preference=Preference(thumbs=(True,)))], loss="bce", process=True)
    rated = group(0, "a", preference=Preference(scores=(3.5,)))
    with pytest.raises(DataError, match="--loss-type mse"):
        to_labelled([rated], loss="bce", process=False)
    assert to_labelled([rated], loss="mse", process=False)[0]


def test_any_completion_can_be_normalised_on() -> None:
    (found,), _ = to_completions([group(0, "a", "b", "c", preference=RANKED)])
    assert (len(found.completions), found.preference) == (3, None)
    with pytest.raises(DataError, match="no completion"):
        to_completions([group(0)])
