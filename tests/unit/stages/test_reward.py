"""Reward models of every kind through whole runs: what is saved, that plain transformers reads it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assent.config.stages import RewardConfig
from assent.data.formats import detect_layout, parse_row
from assent.errors import ConfigError, DataError, GateError, ModelError
from assent.models.loading import load_scorer
from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.reward_model import RewardModel, check_reward_model
from assent.stages import reward
from assent.stages.scoring import RankingObjective
from assent.types import Preference, PromptGroup
from tests.support.models import tiny_model
from tests.support.rows import comparison, group, read_rows

ANSWERS = ("it is right.", "no", "it is. it is. it is.", "never")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("start") / "model")


def rankings() -> list[PromptGroup]:
    """Of two to four completions, some with ties."""
    ranks = [(1, 2, 3, 4), (2, 1, 2), (1, 2), (4, 3, 2, 1), (1, 1), (1, 2, 2, 2)]
    return [group(i, *ANSWERS[: len(r)], preference=Preference(ranking=r)) for i, r in enumerate(ranks)]


def train(start: str | Path, folder: Path, data: list[PromptGroup], **options: Any) -> Any:
    given: dict[str, Any] = {"model": str(start), "data": "rows", "output_dir": str(folder), "max_length": 64}
    given |= {"batch_size": 4, "learning_rate": 1e-2, "num_train_epochs": 3}
    return reward.train(RewardConfig(**{**given, **options}), data=data)


@torch.no_grad()
def plain_scores(folder: str, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """(rows, labels) by transformers alone, as one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    pad = model.config.pad_token_id
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    return model.eval()(input_ids=ids, attention_mask=mask.long()).logits


def token_rows(folder: str, groups: list[PromptGroup]) -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    done = tokenize_groups(groups, tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=64)
    return [g.prompt_ids + c.ids for g in done.groups for c in g.completions]


def our_scores(folder: str, groups: list[PromptGroup]) -> torch.Tensor:
    pairs = [(g, c[0].content) for g in groups for c in g.completions]  # type: ignore[union-attr]
    return RewardModel(folder).score_members([g.prompt for g, _ in pairs], [text for _, text in pairs])


@pytest.mark.parametrize(("loss", "used"), [("plackett_luce", 6), ("davidson", 6), ("rao_kupper", 6), ("all_pairs", 5)])
def test_rankings_of_unequal_size_and_ties_are_learned(start: str, tmp_path: Path, loss: str, used: int) -> None:
    result = train(start, tmp_path / "run", rankings(), loss_type=loss, batch_size=8, learning_rate=2e-3)
    assert result.metrics["cost/labels"] == used  # all_pairs refuses the ranking that is a tie
    first, *_, last = (
        json.loads(line)["loss"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if "loss" in json.loads(line)
    )
    assert last < first
    assert check_reward_model(result.model_path) == 1


def test_normalised_ensemble_opens_in_plain_transformers_with_the_same_scores_less_the_bias(
    start: str, tmp_path: Path
) -> None:
    data = rankings()
    options = {"loss_type": "plackett_luce", "num_heads": 3, "bootstrap": True, "normalize_rewards": True}
    options |= {"learning_rate": 2e-3}  # scores that are spread wider than float32 rounds a bias of hundreds
    folder = train(start, tmp_path / "run", data, **options).model_path
    assert check_reward_model(folder) == 3
    ours = our_scores(folder, data)
    np.testing.assert_allclose(ours.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(ours.std(0, correction=0), 1.0, atol=1e-4)
    bias = json.loads((Path(folder) / "config.json").read_text())["assent_score_bias"]
    assert len(bias) == 3
    np.testing.assert_allclose(plain_scores(folder, token_rows(folder, data)) + torch.tensor(bias), ours, atol=1e-5)
    assert (ours[:, 0] - ours[:, 1]).abs().max() > 0.05  # the members differ
    other = train(start, tmp_path / "same", data, **{**options, "bootstrap": False}).model_path
    assert (our_scores(other, data) - ours).abs().max() > 1e-3  # and the bootstrap has an effect


def test_the_gain_of_an_adapters_head_is_saved_with_the_adapter(start: str, tmp_path: Path) -> None:
    data = rankings()
    options = {"loss_type": "plackett_luce", "num_heads": 2, "normalize_rewards": True, "lora_r": 2}
    folder = str(train(start, tmp_path / "run", data, **options).model_path)
    ours = our_scores(folder, data)
    np.testing.assert_allclose(ours.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(ours.std(0, correction=0), 1.0, atol=1e-3)


def test_rewards_can_be_normalised_on_other_completions(start: str, tmp_path: Path) -> None:
    data = [comparison(i) for i in range(8)]
    others = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": [m.as_dict() for m in g.prompt], "completion": [g.completions[0][0].as_dict()]} for g in data]  # type: ignore[union-attr]
    others.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = train(start, tmp_path / "run", data, normalize_rewards=True, normalize_data=str(others)).model_path
    chosen = [group(i, g.completions[0][0].content) for i, g in enumerate(data)]  # type: ignore[union-attr]
    ours = our_scores(folder, chosen)
    assert float(ours.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(ours.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    # trained on from there, the bias stays part of the score
    again = train(folder, tmp_path / "again", data, learning_rate=1e-12, max_steps=1).model_path
    np.testing.assert_allclose(our_scores(again, chosen), ours, atol=1e-5)


def test_the_score_is_read_at_the_last_real_token_where_pad_was_eos(start: str, tmp_path: Path) -> None:
    """A folder whose pad is its EOS, which every completion ends with."""
    spoilt = Path(tiny_model(tmp_path / "spoilt"))
    config = json.loads((spoilt / "config.json").read_text())
    eos = AutoTokenizer.from_pretrained(spoilt).eos_token
    tokenizer = AutoTokenizer.from_pretrained(spoilt)
    tokenizer.pad_token = eos
    tokenizer.save_pretrained(spoilt)
    (spoilt / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.eos_token_id}))
    folder = train(str(spoilt), tmp_path / "run", rankings(), loss_type="plackett_luce").model_path
    data = rankings()
    rows = token_rows(folder, data)
    assert {row[-1] for row in rows} == {tokenizer.eos_token_id}
    np.testing.assert_allclose(plain_scores(folder, rows), our_scores(folder, data), atol=1e-5)


def test_process_rewards_tell_right_steps_from_wrong_ones(start: str, tmp_path: Path) -> None:
    rows = []
    for i in range(8):
        steps = [["it is right.", "no"][(i >> k) & 1] for k in range(3)]
        labels = [step == "it is right." for step in steps]
        rows.append({"prompt": f"what is {i} plus {i}? ", "completions": steps, "labels": labels})
    data = [parse_row(row, detect_layout(row), source=f"steps.jsonl:{i}") for i, row in enumerate(rows)]
    given = {"loss_type": "bce", "supervision": "process", "num_train_epochs": 30, "batch_size": 8}
    result = train(start, tmp_path / "run", data, **given)
    assert result.metrics["label_accuracy"] > 0.95
    tokenizer = AutoTokenizer.from_pretrained(result.model_path)
    done = tokenize_groups(data, tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=64)
    model = load_scorer(result.model_path)
    for row, tokens in zip(rows, done.groups, strict=True):  # the head at every token, by plain transformers
        (completion,) = tokens.completions
        with torch.no_grad():
            states = model.model(torch.tensor([tokens.prompt_ids + completion.ids])).last_hidden_state[0]
        ends = [len(tokens.prompt_ids) + end for end in completion.step_ends]
        assert (model.score(states)[ends, 0] > 0).tolist() == row["labels"]


def test_a_weighted_sum_of_losses_is_trained_and_checked_at_zero_margin(start: str, tmp_path: Path) -> None:
    losses = ["plackett_luce", {"name": "all_pairs", "weight": 0.5, "hyperparameters": {"label_smoothing": 0.1}}]
    ordered = [g for g in rankings() if len(set(g.preference.ranking)) == len(g.completions)]  # type: ignore[union-attr,arg-type]
    train(start, tmp_path / "run", ordered, losses=losses)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert any("gate/loss_at_zero_margin" in row for row in rows)
    assert any({"loss/plackett_luce", "loss/all_pairs"} <= set(row) for row in rows)


def test_of_a_sum_every_loss_must_read_a_soft_label() -> None:
    config = RewardConfig(model="m", data="d", output_dir="o", losses=["bradley_terry", "all_pairs"])
    assert reward.select_for(config)([comparison(0), comparison(1, margin=0.5)])[0]
    with pytest.raises(DataError, match="chosen_probability, which the loss bradley_terry"):
        reward.select_for(config)([comparison(0, chosen_probability=0.7)])
    alone = RewardConfig(model="m", data="d", output_dir="o")
    assert reward.select_for(alone)([comparison(0, chosen_probability=0.7)])[0]


@pytest.mark.parametrize("preference", ["thumbs", "scores"])
def test_labels_of_single_completions_are_learned(start: str, tmp_path: Path, preference: str) -> None:
    given = [(text, good) for text, good in zip(ANSWERS, (True, False, True, False), strict=True)]
    data = [
        group(i, text, preference=Preference(**{preference: (good if preference == "thumbs" else 3.0 * good,)}))  # type: ignore[arg-type]
        for i in range(4)
        for text, good in given
    ]
    loss = "bce" if preference == "thumbs" else "mse"
    result = train(start, tmp_path / "run", data, loss_type=loss, num_train_epochs=12, batch_size=16)
    scores = our_scores(result.model_path, data)[:, 0].view(4, 4)
    assert (scores[:, 0::2] > scores[:, 1::2].max()).all()
    name = "label_accuracy" if loss == "bce" else "label_error"
    assert name in result.metrics


def test_training_goes_on_with_as_many_heads_as_there_are(start: str, tmp_path: Path) -> None:
    data = [comparison(i) for i in range(4)]
    folder = train(start, tmp_path / "two", data, num_heads=2).model_path
    with pytest.raises(ModelError, match="does not have the given number of heads"):
        train(folder, tmp_path / "one", data)
    assert check_reward_model(train(folder, tmp_path / "again", data, num_heads=2).model_path) == 2


def test_the_gate_stops_a_loss_that_is_not_the_declared_one(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = RankingObjective.__call__

    def doubled(self: RankingObjective, *given: Any) -> Any:
        sums, metrics = call(self, *given)
        return {name: 2 * value for name, value in sums.items()}, metrics

    monkeypatch.setattr(RankingObjective, "__call__", doubled)
    with pytest.raises(GateError, match="loss_at_zero_margin"):
        train(start, tmp_path / "run", [comparison(i) for i in range(4)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "placket_luce"}, "did you mean plackett_luce"),
        ({"hyperparameters": {"label_smoothing": 0.7}}, "out of range"),
        ({"losses": ["all_pairs"], "loss_type": "all_pairs"}, "loss_type has no effect with losses"),
        ({"losses": ["all_pairs", "all_pairs"]}, "listed twice"),
        ({"losses": ["all_pairs", "bce"]}, "single labels have one loss"),
        ({"losses": ["mse"]}, "single labels have one loss"),
        (
            {"loss_type": "bce", "eval_data": "e", "eval_steps": 1, "metric_for_best_model": "accuracy"},
            "has no accuracy",
        ),
        ({"hyperparameters": {"beta": 0.1}}, "no hyperparameter 'beta'"),
        ({"supervision": "process"}, "needs a loss of single labels"),
        ({"loss_type": "bce", "center_rewards_coefficient": 0.01}, "labels fix the level"),
        ({"bootstrap": True}, "without num_heads"),
        ({"normalize_data": "x.jsonl"}, "without normalize_rewards"),
        ({"loss_type": "bce", "supervision": "process", "normalize_rewards": True}, "scores of steps"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        RewardConfig(model="m", data="d", output_dir="o", **options)
