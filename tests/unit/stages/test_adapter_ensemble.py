"""Ensembles of adapters on one trunk: each member becomes what it would alone, and opens alone."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assent.config.ensembles import Combination
from assent.config.online import PpoConfig
from assent.config.stages import RewardConfig
from assent.engine.learner import Learner
from assent.engine.random import Batches, derived_seed, generator
from assent.engine.runtime import Runtime
from assent.errors import ConfigError, ModelError
from assent.models.adapters import Base, add_adapter
from assent.models.folders import content_hash
from assent.models.loading import (
    draw_head,
    load_config,
    load_policy,
    load_scorer,
    load_scorers,
    load_tokenizer,
    save_model,
)
from assent.models.module import AlignmentModel
from assent.models.one_trunk import Ensemble
from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.models.weight_hashes import content_of
from assent.rewards.loading import load_reward, reward_hash
from assent.rewards.reward_model import RewardModel, check_reward_model, combine
from assent.stages import online, reward
from assent.stages.scoring import RankingObjective
from assent.stages.selecting import to_rankings
from tests.support.adapters import adapted
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparison
from tests.support.stages import Fault, arguments, run, told, write_inputs

MEMBERS, ROWS = 3, [comparison(i) for i in range(10)]
TRAINED = {"lora_r": 2, "max_length": 64, "batch_size": 4, "learning_rate": 1e-2, "num_train_epochs": 2.0}
PROMPTS = [row.prompt for row in ROWS for _ in row.completions]
TEXTS = [completion[0].content for row in ROWS for completion in row.completions]  # type: ignore[union-attr]
WEIGHTS = "adapter_model.safetensors"


def train(start: str | Path, folder: Path, **more: Any) -> Path:
    config = RewardConfig(**{"model": str(start), "data": "rows", "output_dir": str(folder), **TRAINED, **more})
    return Path(reward.train(config, data=ROWS).model_path)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def ensemble(start: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder of a run with a bootstrap."""
    return train(start, tmp_path_factory.mktemp("run") / "run", num_adapters=MEMBERS, bootstrap=True)


def member(folder: Path, number: int) -> Path:
    return folder / f"member-{number + 1}"


def alone(start: str, number: int) -> dict[str, torch.Tensor]:
    """A member's weights, trained on a model of its own, with no more of the ensemble than its seeds."""
    scorer = load_scorer(start, seed=0)
    if number:
        draw_head(scorer, seed=derived_seed(0, f"head of member-{number + 1}"))
    name = f"member-{number + 1}" if number else "model"
    config = RewardConfig(model=start, data="rows", output_dir="o", **TRAINED)
    model = add_adapter(scorer, config, base=Base(start), seed=derived_seed(0, f"adapter of {name}"))
    tokenizer = AutoTokenizer.from_pretrained(start)
    rows, _ = to_rankings(ROWS, ties=False)
    groups = tokenize_groups(rows, tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=64).groups
    drawn = torch.poisson(torch.ones(len(groups), MEMBERS), generator=generator(0, "bootstrap"))
    resampled = [
        replace(g, value={**g.value, "bootstrap_0": float(w)}) for g, w in zip(groups, drawn[:, number], strict=True)
    ]
    order = Batches(num_rows=len(groups), batch_size=4, epochs=2.0, max_steps=0, seed=0, shuffle=True)
    learner = Learner(
        AlignmentModel(model, kind="scorer"), runtime=Runtime("cpu"), optim=config, total_steps=order.num_steps
    )
    for step in range(order.num_steps):
        learner.update([resampled[i] for i in order.indices(step)], RankingObjective())
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def test_each_member_is_what_it_becomes_alone_from_its_start_on_its_rows(start: str, ensemble: Path) -> None:
    found = [load_file(member(ensemble, number) / WEIGHTS) for number in range(MEMBERS)]
    for number, stored in enumerate(found):
        expected = alone(start, number)
        assert len(stored) == len(expected)
        for name, weight in expected.items():
            plain = name.replace(".default", "").replace(".modules_to_save", "")
            torch.testing.assert_close(stored[plain], weight, rtol=0, atol=0)
    for name in found[0]:  # and they differ: other starts, other samples
        assert not torch.equal(found[0][name], found[1][name])
        assert not torch.equal(found[1][name], found[2][name])


def test_the_first_member_of_an_ensemble_is_the_run_without_one(start: str, tmp_path: Path) -> None:
    many = train(start, tmp_path / "many", num_adapters=2)
    one = train(start, tmp_path / "one")
    assert (member(many, 0) / WEIGHTS).read_bytes() == (one / WEIGHTS).read_bytes()
    assert (member(many, 1) / WEIGHTS).read_bytes() != (one / WEIGHTS).read_bytes()
    first, second = (
        [row for row in told(folder.parent / "metrics.jsonl") if "grad_norm" in row] for folder in (many, one)
    )
    assert first[-1]["num_tokens"] == second[-1]["num_tokens"]
    assert first[-1]["cost/flops"] == pytest.approx(2 * second[-1]["cost/flops"])


def test_members_stand_on_one_trunk_in_memory_and_leave_it_as_it_was(start: str, ensemble: Path) -> None:
    models = load_scorers(ensemble)
    trunk = {name: p for name, p in load_scorer(start).named_parameters() if name != "score.weight"}
    own = sum(p.numel() for p in models[0].parameters()) - sum(p.numel() for p in trunk.values())
    resident = {p.data_ptr(): p.numel() for model in models for p in model.parameters()}
    assert sum(resident.values()) == sum(p.numel() for p in trunk.values()) + MEMBERS * own
    for name, weight in trunk.items():
        for model in models:
            named = {n.replace(".base_layer", ""): p for n, p in model.get_base_model().named_parameters()}  # type: ignore[operator]
            assert torch.equal(named[name], weight)


def test_training_holds_one_trunk(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = reward.Members
    monkeypatch.setattr(reward, "Members", lambda learners: seen.append(learners) or original(learners))  # type: ignore[func-returns-value]
    train(start, tmp_path / "run", num_adapters=MEMBERS, max_steps=1)
    (learners,) = seen
    frozen = [{id(p) for p in one.module.parameters() if not p.requires_grad} for one in learners]
    shared = set.intersection(*frozen)
    assert all(len(own - shared) == 1 for own in frozen)  # the head that the adapter's own stands before
    assert len(shared) == len([name for name, _ in load_scorer(start).named_parameters()]) - 1


@torch.no_grad()
def test_each_members_folder_opens_in_plain_peft_with_the_same_scores(start: str, ensemble: Path) -> None:
    ours = RewardModel(str(ensemble)).score_members(PROMPTS, TEXTS)
    assert ours.shape == (len(TEXTS), MEMBERS)
    assert (ours.std(1) > 1e-3).all()
    tokenizer = AutoTokenizer.from_pretrained(member(ensemble, 0))
    rows = tokenize_groups(ROWS, tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=64).groups
    ids = [group.prompt_ids + completion.ids for group in rows for completion in group.completions]
    padded = torch.full((len(ids), max(map(len, ids))), tokenizer.pad_token_id)
    for row, own in zip(padded, ids, strict=True):
        row[: len(own)] = torch.tensor(own)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(own)] for own in ids])
    for number in range(MEMBERS):
        base = AutoModelForSequenceClassification.from_pretrained(
            start, num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
        model = PeftModel.from_pretrained(base, str(member(ensemble, number))).eval()
        found = model(input_ids=padded, attention_mask=mask.long()).logits[:, 0]
        np.testing.assert_allclose(found, ours[:, number], atol=1e-5)
        np.testing.assert_allclose(RewardModel(str(member(ensemble, number))).score(PROMPTS, TEXTS), found, atol=1e-5)
    assert not list(ensemble.glob("*.safetensors"))  # nothing that opens as if it were the whole


def test_scores_are_combined_and_their_disagreement_is_told_however_they_are_packed(ensemble: Path) -> None:
    by_hand = np.stack([RewardModel(str(member(ensemble, m))).score(PROMPTS, TEXTS) for m in range(MEMBERS)], axis=1)
    mean, std = by_hand.mean(1), by_hand.std(1)
    weighted = by_hand @ [0.5, 0.0, -1.0]
    expected = {"mean": mean, "min": by_hand.min(1), "mean-std:1.5": mean - 1.5 * std, "weights:0.5,0,-1": weighted}
    for text, scores in expected.items():
        found = load_reward(str(ensemble), ensemble=text).score(PROMPTS, TEXTS)
        np.testing.assert_allclose(found, scores, atol=1e-5)
        assert found.statistics["ensemble_std"] == pytest.approx(std.mean(), abs=1e-5)
    tight = RewardModel(str(ensemble), micro_batch_tokens=1).score_members(PROMPTS, TEXTS)
    np.testing.assert_allclose(tight, by_hand, atol=1e-5)
    cost, one = RewardModel(str(ensemble)).reader.cost, RewardModel(str(member(ensemble, 0))).reader.cost
    assert cost.trunk_weights > 2.5 * one.trunk_weights


def test_normalised_members_have_gains_and_biases_of_their_own(start: str, tmp_path: Path) -> None:
    folder = train(start, tmp_path / "run", num_adapters=2, normalize_rewards=True)
    scores = RewardModel(str(folder)).score_members(PROMPTS, TEXTS)
    np.testing.assert_allclose(scores.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(scores.std(0, correction=0), 1.0, atol=1e-3)
    records = [json.loads((member(folder, m) / "assent_adapter.json").read_text()) for m in range(2)]
    assert len({record["config"]["assent_score_bias"] for record in records}) == 2


def test_members_of_a_process_model_are_read_at_every_step(ensemble: Path) -> None:
    texts = ["it is 2.\nno", "it is 4."]
    found = RewardModel(str(ensemble), process=True).score(PROMPTS[:2], texts)
    each = [RewardModel(str(member(ensemble, m)), process=True).score(PROMPTS[:2], texts) for m in range(MEMBERS)]
    assert [len(steps) for steps in found.steps] == [2, 1]
    for place, steps in enumerate(found.steps):
        np.testing.assert_allclose(steps, np.mean([one.steps[place] for one in each], axis=0), atol=1e-5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_a_killed_run_ends_as_one_that_never_was(inputs: dict[str, str], tmp_path: Path) -> None:
    more = ["--lora-r", "2", "--num-adapters", "2", "--bootstrap", "--normalize-rewards"]
    more += ["--eval-steps", "1", "--metric-for-best-model", "loss"]
    messages, whole, broken = tmp_path / "messages", tmp_path / "whole", tmp_path / "broken"
    assert run([*arguments("reward", inputs, whole), *more], messages) == 0, messages.read_text()
    argv = [*arguments("reward", inputs, broken), *more]
    assert run(argv, messages, Fault(after=4, number=signal.SIGKILL)) == -signal.SIGKILL
    assert run(argv, messages) == 0, messages.read_text()
    assert "resumed after step 3" in messages.read_text()
    for number in range(2):
        files = [member(folder / "model", number) / WEIGHTS for folder in (whole, broken)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert told(broken / "metrics.jsonl") == told(whole / "metrics.jsonl")
    assert any("eval_ensemble_std" in row for row in told(whole / "metrics.jsonl"))
    assert "ensemble of 2 adapters" in (whole / "model/README.md").read_text()


def test_on_one_trunk_an_ensemble_scores_as_it_does_on_its_own(start: str, ensemble: Path, tmp_path: Path) -> None:
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"what is {i} plus {i}?"}) + "\n" for i in range(4)))
    given = {"model": start, "data": str(data), "reward": str(ensemble), "reward_ensemble": "min", "lora_r": 2}
    given |= {"max_length": 64, "total_steps": 1, "batch_size": 4, "max_new_tokens": 4}
    rows = {}
    for trunk in ("separate", "one"):
        folder = tmp_path / trunk
        online.train(PpoConfig(**given, trunk=trunk, output_dir=str(folder)))
        (rows[trunk],) = [row for row in told(folder / "metrics.jsonl") if "objective/kl" in row]
    assert rows["one"]["cost/models_resident"] == 1
    for name in ("objective/scores", "ensemble_std"):
        assert rows["one"][name] == pytest.approx(rows["separate"][name], abs=1e-4)
    assert rows["one"]["ensemble_std"] > 1e-3
    other = {**given, "model": tiny_model(tmp_path / "other", seed=1)}
    with pytest.raises(ConfigError, match="on a base that is not the policy's"):
        online.train(PpoConfig(**other, trunk="one", output_dir=str(tmp_path / "no")))
    with pytest.raises(ConfigError, match="has several heads"):
        online.train(PpoConfig(**given, critic=str(ensemble), output_dir=str(tmp_path / "no")))
    assert not (tmp_path / "no").exists()


def test_an_ensemble_goes_on_from_an_adapter_whose_merged_start_is_written_once(start: str, tmp_path: Path) -> None:
    one = train(start, tmp_path / "one")
    folder = train(one, tmp_path / "more", num_adapters=2, learning_rate=1e-12)
    expected = load_scorer(one)
    for number, scorer in enumerate(load_scorers(folder)):
        base = scorer.get_base_model()  # type: ignore[operator]
        assert torch.equal(base.model.embed_tokens.weight, expected.model.embed_tokens.weight)
        (head,) = [w for name, w in load_file(member(folder, number) / WEIGHTS).items() if "score" in name]
        torch.testing.assert_close(head, expected.score.weight, rtol=0, atol=1e-6)  # it was trained: all go on from it
    np.testing.assert_allclose(
        RewardModel(str(folder)).score(PROMPTS, TEXTS), RewardModel(str(one)).score(PROMPTS, TEXTS), atol=1e-5
    )
    starts = [load_file(member(folder, number) / WEIGHTS) for number in range(2)]
    assert any(not torch.equal(starts[0][name], starts[1][name]) for name in starts[0] if "lora_A" in name)


def test_fresh_heads_on_a_merged_start_have_one_base_too(start: str, tmp_path: Path) -> None:
    policy = adapted(load_policy(start), base=start)
    policy.assent_base = Base(start, content=content_of(Path(start)))
    save_model(tmp_path / "policy", policy, load_tokenizer(start))
    folder = train(tmp_path / "policy", tmp_path / "run", num_adapters=2, max_steps=1)
    scores = RewardModel(str(folder)).score_members(PROMPTS, TEXTS)
    assert (scores[:, 0] - scores[:, 1]).abs().max() > 0.1


def test_what_an_ensemble_is_known_by_is_all_of_its_members(ensemble: Path, start: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ensemble, copy)
    assert content_hash(copy) == content_hash(ensemble)
    before = reward_hash(str(copy))
    file = member(copy, 2) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert reward_hash(str(copy)) != before
    assert load_config(copy).num_labels == check_reward_model(str(copy)) == MEMBERS
    file.unlink()
    (member(copy, 1) / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="a member of the ensemble is missing"):
        check_reward_model(str(copy))


def test_members_of_another_base_are_refused(ensemble: Path, tmp_path: Path) -> None:
    other = train(tiny_model(tmp_path / "other", seed=1), tmp_path / "run")
    copy = tmp_path / "copy"
    shutil.copytree(ensemble, copy)
    shutil.rmtree(member(copy, 1))
    shutil.copytree(other, member(copy, 1))
    with pytest.raises(ModelError, match="have different bases"):
        load_scorers(copy)


@pytest.fixture
def refused(ensemble: Path, inputs: dict[str, str], tmp_path: Path, capsys: Any) -> Callable[..., str]:
    """What a command says that must be refused, with nothing written."""

    def tried(*argv: str) -> str:
        words = [
            str(ensemble) if word == "ENSEMBLE" else str(tmp_path / "out") if word == "OUT" else word for word in argv
        ]
        status, _, err = said([inputs.get(word, word) for word in words], capsys)
        assert status == 2, err
        assert not (tmp_path / "out").exists()
        return str(err)

    return tried


def test_what_does_not_go_together_is_refused_with_nothing_written(refused: Callable[..., str]) -> None:
    reward = ["reward", "--data", "comparisons", "--output-dir", "OUT", "--max-length", "64"]
    assert "num_adapters needs lora_r" in refused(*reward, "--model", "model", "--num-adapters", "2")
    both = ["--num-adapters", "2", "--num-heads", "2", "--lora-r", "2"]
    assert "give one of them" in refused(*reward, "--model", "model", *both)
    assert "without num_heads or num_adapters" in refused(*reward, "--model", "model", "--bootstrap", "--lora-r", "2")
    assert "give one of its members" in refused(*reward, "--model", "ENSEMBLE")
    assert "give one of its members" in refused("merge", "ENSEMBLE", "--output-dir", "OUT")
    assert "give one of its members" in refused("serve-check", "ENSEMBLE")
    weights = ["--reward-ensemble", "weights:1,2"]
    eval_ = ["eval", "--reward-model", "ENSEMBLE", "--data", "comparisons", "--output-dir", "OUT"]
    assert "a weight for each member" in refused(*eval_, *weights)
    dpo = ["dpo", "--model", "ENSEMBLE", "--data", "comparisons", "--output-dir", "OUT", "--max-length", "64"]
    assert "a reward model or critic, not a policy" in refused(*dpo)


def test_an_ensemble_chooses_the_best_of_n_and_is_judged(
    ensemble: Path, inputs: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    best = ["best-of-n", "--model", inputs["model"], "--data", inputs["prompts"], "--n", "2", "--max-new-tokens", "4"]
    best += ["--max-length", "64", "--reward", str(ensemble), "--reward-ensemble", "mean-std:1"]
    status, _, err = said([*best, "--output-dir", str(tmp_path / "best")], capsys)
    assert status in (0, 1), err
    judged = ["eval", "--reward-model", str(ensemble), "--data", inputs["comparisons"], "--max-length", "64", "--json"]
    status, out, err = said(judged, capsys)
    assert status == 0, err
    members = RewardModel(str(ensemble)).score_members(PROMPTS, TEXTS)
    assert json.loads(out)["reward_model"]["ensemble_std"] == pytest.approx(
        float(members.std(1, correction=0).mean()), abs=1e-5
    )


def test_a_policy_and_an_ensemble_are_no_classifiers_of_each_other(start: str, ensemble: Path) -> None:
    with pytest.raises(ModelError, match="not a policy"):
        load_policy(ensemble)
    with pytest.raises(ModelError, match="ensemble of 3 adapters"):
        load_scorer(ensemble)
    members = [AlignmentModel(model, kind="scorer") for model in load_scorers(ensemble)]
    assert Ensemble(members).tier == members[0].tier
    assert combine(torch.tensor([[1.0, 3.0]]), Combination.parse("mean")).tolist() == [2.0]
