"""`assent online-dpo`: what is sampled, which of it is compared, what is learned from it, what is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from assent.config.online_dpo import OnlineDpoConfig
from assent.config.stages import PreferenceConfig, RewardConfig
from assent.data.loading import load_groups
from assent.engine.learner import Learner
from assent.engine.random import Batches
from assent.errors import ConfigError, GateError, RunError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.rewards.base import Scores
from assent.stages import held_out_samples, online_preference, preference, reward
from assent.stages.online_preference import ranking_of, records
from assent.stages.references import ReadReference
from assent.types import PromptGroup, Rollout
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows
from tests.support.stages import letters, write_inputs

Run = Callable[..., Path]
LETTERS = "tests.support.stages:letters"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    return {**write_inputs(folder), "other": tiny_model(folder / "other", seed=1)}


@pytest.fixture
def run(inputs: dict[str, str], tmp_path: Path) -> Run:
    """Two rounds of four prompts; the run's folder."""

    def train(name: str = "run", **options: Any) -> Path:
        given: dict[str, Any] = {"model": inputs["model"], "data": inputs["prompts"], "reward": LETTERS}
        given |= {"output_dir": str(tmp_path / name), "max_length": 64, "max_new_tokens": 6, "learning_rate": 3e-3}
        given |= {"batch_size": 4, "total_steps": 2}
        online_preference.train(OnlineDpoConfig(**{**given, **options}))
        return tmp_path / name

    return train


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_rows(folder / f"{name}.jsonl")


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [row for row in lines(folder, "metrics") if "objective/scores" in row]


def no_reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [0.0] * len(completions)


def by_hand(folder: str, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float) -> float:
    """A completion's log-probability, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / temperature
    return float(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum())


def test_a_rounds_loss_is_dpos_of_the_best_and_worst_sampled_completion(
    run: Run, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[TokenGroup]] = []
    update = Learner.update

    def recorded(self: Learner, groups: Sequence[TokenGroup], objective: Any) -> dict[str, float]:
        trained.append(list(groups))
        return update(self, groups, objective)

    monkeypatch.setattr(Learner, "update", recorded)
    options = {"reference": inputs["other"], "beta": 0.3, "temperature": 1.5, "num_completions": 3}
    folder = run(total_steps=1, **options)
    (groups,) = trained
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"])
    kept = lines(folder, "preferences")
    assert len(kept) == 4
    different = [row for row in kept if len(set(row["scores"])) > 1]
    assert len(groups) == len(different) == 4 - rounds(folder)[0]["rollout/not_compared"] > 1
    values, margins = [], []
    for row, group in zip(different, groups, strict=True):
        texts = [completion[0]["content"] for completion in row["completions"]]
        best, worst = (texts[row["scores"].index(pick(row["scores"]))] for pick in (max, min))
        ids = [completion.ids for completion in group.completions]
        assert [tokenizer.decode(one, skip_special_tokens=True) for one in ids] == [best, worst]
        policy, reference = (
            [by_hand(inputs[name], group.prompt_ids, one, 1.5) for one in ids] for name in ("model", "other")
        )
        margins.append(0.3 * (policy[0] - reference[0] - policy[1] + reference[1]))
        values.append(math.log1p(math.exp(-margins[-1])))
    row = rounds(folder)[0]
    assert row["loss"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert row["rewards/margins"] == pytest.approx(sum(margins) / len(margins), rel=1e-4, abs=1e-5)
    assert row["loss"] != pytest.approx(math.log(2), rel=1e-4)


GROUP = TokenGroup((1,), tuple(TokenCompletion((ids,)) for ids in (5, 6, 7, 8)))


@pytest.mark.parametrize(
    ("options", "scores", "expected"),
    [
        ({}, [2.0, 5.0, 1.0, 5.0], ([6, 7], [1, 2])),  # of two best ones the first sampled
        ({"losses": ["sigmoid", "plackett_luce"]}, [2.0, 5.0, 1.0, 3.0], ([6, 7], [1, 2])),
        ({"loss_type": "plackett_luce"}, [2.0, 5.0, 1.0, 5.0], ([6, 8, 5, 7], [1, 1, 2, 3])),
        ({}, [3.0] * 4, None),
        ({"loss_type": "all_pairs"}, [3.0] * 4, None),
        ({"loss_type": "davidson"}, [3.0] * 4, ([5, 6, 7, 8], [1] * 4)),
    ],
)
def test_what_is_compared_follows_the_options(options: dict[str, Any], scores: list[float], expected: Any) -> None:
    config = OnlineDpoConfig(model="m", data="d", reward="r:f", output_dir="o", num_completions=4, **options)
    found = ranking_of(config, GROUP, scores)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert ([c.ids[0] for c in found.completions], found.completion["rank"].tolist()) == expected


def test_completions_of_the_same_tokens_are_not_compared_whatever_their_scores() -> None:
    config = OnlineDpoConfig(model="m", data="d", reward="r:f", output_dir="o")
    same = TokenGroup((1,), (TokenCompletion((5,)), TokenCompletion((5,))))
    assert ranking_of(config, same, [1.0, 1.0 + 1e-7]) is None


@pytest.mark.parametrize("options", [{}, {"loss_type": "plackett_luce", "num_completions": 3}, {"lora_r": 2}])
def test_the_start_is_the_reference_and_the_gate_sees_it(options: dict[str, Any], run: Run) -> None:
    folder = run(updates_per_round=2, **options)
    gate = {name.removeprefix("gate/") for row in lines(folder, "metrics") for name in row if name.startswith("gate/")}
    assert {"loss_at_zero_margin", "log_ratios", "ratio", "loss_tokens"} <= gate
    first, second = rounds(folder)
    assert abs(first["objective/kl"]) < 1e-4
    assert second["num_tokens"] > first["num_tokens"] > 0
    assert second["rewards/margins"] != 0
    facts = json.loads((folder / "run.json").read_text())["facts"]["fingerprints"]
    assert facts["reference_start"] == facts["reference_end"]
    assert first["cost/models_resident"] == (1 if "lora_r" in options else 2)
    assert second["learning_rate"] == pytest.approx(3e-3 / 4)  # the last of four updates, on the way to zero


def test_the_ledger_counts_what_was_sampled_and_scored(run: Run) -> None:
    for row, count in zip(rounds(run(num_completions=3)), (12, 24), strict=True):
        assert (row["cost/completions_sampled"], row["cost/reward_calls"]) == (count, count)
        assert row["cost/flops"] > 0


def test_a_reference_of_other_weights_than_it_says_fails_the_gate(
    run: Run, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: ReadReference, path: str | None, session: Any) -> None:
        self.session, self.path, self.origin = session, path, "start"
        self.model = session.models.add_reference(inputs["other"])

    monkeypatch.setattr(ReadReference, "__init__", wrong)
    with pytest.raises(GateError, match="log_ratios"):
        run()


def test_a_loss_without_a_reference_keeps_none(run: Run) -> None:
    first, second = rounds(run(loss_type="simpo"))
    assert second["cost/models_resident"] == 1
    assert "objective/kl" not in first
    assert first["grad_norm"] > 0


def test_what_was_sampled_is_a_file_that_dpo_reads_and_says_where_it_comes_from(
    run: Run, inputs: dict[str, str], tmp_path: Path
) -> None:
    folder = run(save_steps=1)
    rows = lines(folder, "preferences")
    order = Batches(num_rows=10, batch_size=4, max_steps=2)
    asked = [lines(Path(inputs["prompts"]).parent, "prompts")[i]["prompt"] for s in range(2) for i in order.indices(s)]
    assert [row["prompt"] for row in rows] == asked
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    facts = json.loads((folder / "run.json").read_text())["facts"]["fingerprints"]
    assert {row["policy"] for row in rows[:4]} == {facts["model_start"]}
    assert len({row["policy"] for row in rows}) == 2
    assert {row["reward"] for row in rows} == {LETTERS}
    for row in rows:
        assert len(row["completions"]) == len(row["scores"]) == len(row["finish_reasons"]) == 2
    path = str(folder / "preferences.jsonl")
    assert [group.preference.scores for group in load_groups(path)] == [tuple(row["scores"]) for row in rows]
    given: dict[str, Any] = {"model": inputs["model"], "data": path, "max_length": 64, "batch_size": 4, "max_steps": 1}
    result = preference.train(
        PreferenceConfig(**given, output_dir=str(tmp_path / "dpo"), reference_cache=str(tmp_path / "cache"))
    )
    assert result.steps == 1
    assert reward.train(RewardConfig(**given, output_dir=str(tmp_path / "reward"))).metrics["cost/labels"] == 4


def test_a_completion_that_did_not_end_is_ranked_by_its_score_less_the_penalty(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[float]] = []
    original, score = online_preference.ranking_of, online_preference.score_rollouts
    told: list[float] = []

    def ends(reward: Any, rollouts: Sequence[Rollout], prompts: Any, **options: Any) -> Scores:
        for rollout in rollouts[::2]:  # the first of each prompt's two
            object.__setattr__(rollout, "finish_reason", "stop")
        told.extend(found := score(reward, rollouts, prompts, **options))
        return found

    def spy(config: Any, group: Any, scores: Sequence[float]) -> Any:
        compared.append(list(scores))
        return original(config, group, scores)

    monkeypatch.setattr(online_preference, "score_rollouts", ends)
    monkeypatch.setattr(online_preference, "ranking_of", spy)
    folder = run(missing_eos_penalty=2.0, total_steps=1)
    raw = [told[i : i + 2] for i in range(0, 8, 2)]
    assert compared == [[first, second - 2.0] for first, second in raw]
    assert [row["scores"] for row in lines(folder, "preferences")] == compared
    assert rounds(folder)[0]["objective/scores"] == pytest.approx(sum(told[:8]) / 8)  # what the reward said


def test_held_out_prompts_are_answered_and_scored_at_each_measurement(
    run: Run, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    temperatures: list[float] = []
    sample = held_out_samples.sample

    def seen(*args: Any, **given: Any) -> Any:
        temperatures.append(given["temperature"])
        return sample(*args, **given)

    monkeypatch.setattr(held_out_samples, "sample", seen)
    held_out = {"eval_data": inputs["held_out_comparisons"], "eval_prompts": 3, "eval_max_new_tokens": 6}
    folder = run(**held_out, eval_steps=1, temperature=0.7)
    measured = {row["step"]: row for row in lines(folder, "metrics") if "eval_objective/scores" in row}
    assert sorted(measured) == [0, 1, 2]
    assert temperatures == [0.7] * 3
    asked = {row["prompt"][0]["content"] for row in lines(Path(inputs["model"]).parent, "held_out_comparisons")}
    for step, row in measured.items():
        answered = [one for one in lines(folder, "samples") if one["step"] == step and "kl" in one]
        assert len(answered) == 3
        assert {one["prompt"][0]["content"] for one in answered} <= asked
        scores = [letters([], [one["completion"]])[0] for one in answered]
        assert row["eval_objective/scores"] == pytest.approx(sum(scores) / 3)
        assert [one["score"] for one in answered] == pytest.approx(scores)
        assert row["eval_kl"] == pytest.approx(sum(one["kl"] for one in answered) / 3)
        assert row["eval_objective/scores_low"] <= row["eval_objective/scores"] <= row["eval_objective/scores_high"]
    assert measured[0]["eval_kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(measured[2]["eval_kl"]) > 1e-4
    assert rounds(folder)[-1]["cost/reward_calls"] == 2 * 8 + 2 * 3  # the last measurement comes after
    without = run("no-reference", **held_out, loss_type="simpo")
    assert not any("eval_kl" in row for row in lines(without, "metrics"))


def test_the_best_by_the_held_out_reward_is_kept_and_patience_ends_the_run(run: Run, inputs: dict[str, str]) -> None:
    options = {
        "eval_data": inputs["held_out_comparisons"],
        "eval_prompts": 4,
        "eval_max_new_tokens": 6,
        "eval_steps": 1,
    }
    options |= {"metric_for_best_model": "objective/scores", "total_steps": 4}
    folder = run(**options, early_stopping_patience=1, early_stopping_threshold=10.0)
    assert len(rounds(folder)) == 1
    record = json.loads((folder / "run.json").read_text())
    found = {row["step"]: row["eval_objective/scores"] for row in lines(folder, "metrics") if "eval_kl" in row}
    assert record["facts"]["best"]["value"] == max(found.values())
    with pytest.raises(ValueError, match="give eval_prompts"):
        OnlineDpoConfig(model="m", data="d", reward="r:f", output_dir="o", eval_fraction=0.5)


def test_the_file_leaves_out_completions_that_no_file_may_hold(tmp_path: Path) -> None:
    config = OnlineDpoConfig(model="m", data="d", reward="r:f", output_dir="o", num_completions=3)
    texts = ["yes", " ", "no", "", "\n", "well"]
    sampled = [
        Rollout(
            prompt_ids=(1,),
            ids=(2,),
            logprobs=(-1.0,),
            finish_reason="stop",
            text=text,
            prompt_index=i // 3,
            completion_index=i % 3,
            policy_version="step-0",
        )
        for i, text in enumerate(texts)
    ]
    prompts = [PromptGroup(prompt=text, columns={"topic": "t", "scores": "mine"}) for text in ("first", "second")]
    scores = Scores([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], parts={"f": [1, 2, 3, 4, 5, 6]})
    (row,) = records(config, prompts, sampled, scores, policy="p")
    assert row == {
        **{"topic": "t", "prompt": "first", "completions": ["yes", "no"], "scores": [1.0, 3.0]},
        **{"finish_reasons": ["stop", "stop"], "policy": "p", "reward": "r:f", "rewards": {"f": [1, 3]}},
    }
    write_rows(tmp_path / "rows.jsonl", [row])
    assert load_groups(str(tmp_path / "rows.jsonl"))[0].completions == ("yes", "no")


def test_without_a_difference_in_score_nothing_is_learned_and_the_run_says_so(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing was learned"):
        run(reward=f"{__name__}:no_reward")
    assert [row["rollout/not_compared"] for row in rounds(tmp_path / "run")] == [4, 4]
    assert len(lines(tmp_path / "run", "preferences")) == 8
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("rule", "sign"), [("letters", 1), ("no_letters", -1)])
def test_it_follows_its_reward_up_and_turned_round_down(rule: str, sign: int, run: Run) -> None:
    options = {"total_steps": 12, "batch_size": 10, "num_completions": 6, "max_new_tokens": 8, "learning_rate": 1e-2}
    found = rounds(run(reward=f"tests.support.stages:{rule}", **options))
    scores = [sign * row["objective/scores"] for row in found]  # the share of letters
    assert sign * (sum(scores[-2:]) - sum(scores[:2])) / 2 > 0.1
    assert abs(found[0]["objective/kl"]) < 1e-4 < found[-1]["objective/kl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_completions": 1}, "num_completions"),
        ({"reward": "no_such_module:score"}, "cannot be imported"),
        ({"reward": "tests.support.stages:no_such"}, "no such function"),
        ({"loss_type": "simpo", "reference": "x"}, "takes no reference"),
        ({"reference": "logged"}, "yet to be sampled"),
        ({"loss_type": "bradley_terry"}, "sigmoid"),
        ({"beta": -1.0}, "out of range"),
        ({"eval_data": "x"}, "eval_data"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    options: dict[str, Any], said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_preference, "read_stage_data", lambda *_, **__: pytest.fail("something was loaded"))
    with pytest.raises((ConfigError, ValueError), match=said):
        run(**options)
    assert not (tmp_path / "run").exists()


def test_the_trained_policy_is_another_than_the_start(run: Run, inputs: dict[str, str]) -> None:
    start = load_file(Path(inputs["model"]) / "model.safetensors")
    ended = load_file(run() / "model" / "model.safetensors")
    assert any(not torch.equal(start[name], ended[name]) for name in start)
