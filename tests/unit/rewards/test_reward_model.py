"""Reward models: read at the last token, by ids or by text, alone or in company, and only if they are reward models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from assent.config.rewards import ImplicitSource
from assent.errors import ModelError, RunError
from assent.models.loading import load_scorer, load_tokenizer
from assent.models.saving import save_model
from assent.models.templates import resolve_template
from assent.models.tokenizing import encode_prompt
from assent.rewards.loading import check_contexts, load_reward, reward_hash
from assent.rewards.reward_model import RewardModel, check_reward_model, same_tokenizer
from assent.types import Message, PromptGroup, Rollout, Text
from tests.support.models import tiny_model

TEXTS = ["the cat sat on the mat and the dog ran", "where is my order? it is late. please help me now"] * 20
PROMPTS: list[Text] = [
    (Message("user", "where is my order?"),),
    (Message("user", "where is my order?"),),
    (Message("user", "the cat sat"), Message("assistant", "on the mat"), Message("user", "and the dog?")),
]
COMPLETIONS = ["it is late", "", "please help me now and then"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """policy, a reward model of the same tokenizer, one of another, one with two labels."""
    root = tmp_path_factory.mktemp("models")
    for name, vocab_size in {"policy": 320, "other": 300}.items():
        tiny_model(root / name, texts=TEXTS, vocab_size=vocab_size, seed=1)
    for name, start, labels in (("same_rm", "policy", 1), ("other_rm", "other", 1), ("two", "policy", 2)):
        save_model(root / name, load_scorer(root / start, num_labels=labels, seed=3), load_tokenizer(root / start))
    return {path.name: path for path in root.iterdir()}


def rollouts_of(folder: Path, *, cut: bool = False) -> list[Rollout]:
    """Completions as the policy of `folder` would have sampled them; `cut`: without EOS."""
    tokenizer = load_tokenizer(folder)
    template = resolve_template(tokenizer)
    made = []
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        ids = tokenizer.encode(completion, add_special_tokens=False) + ([] if cut else [template.eos_id])
        made.append(
            Rollout(
                prompt_ids=encode_prompt(prompt, template=template),
                ids=tuple(ids),
                logprobs=(0.0,) * len(ids),
                finish_reason="length" if cut else "stop",
                text=completion,
                prompt_index=i,
                completion_index=0,
                policy_version="v",
            )
        )
    return made


@torch.no_grad()
def plain_score(folder: Path, ids: tuple[int, ...]) -> float:
    """transformers' own classifier on one unpadded row."""
    return float(load_scorer(folder)(input_ids=torch.tensor([ids])).logits[0, 0])


def test_ids_are_scored_as_they_are(folders: dict[str, Path]) -> None:
    reward = load_reward(str(folders["same_rm"]), policy_tokenizer=load_tokenizer(folders["policy"]))
    assert isinstance(reward, RewardModel)
    assert reward.reads_ids
    rollouts = rollouts_of(folders["policy"])
    expected = [plain_score(folders["same_rm"], r.prompt_ids + r.ids) for r in rollouts]
    np.testing.assert_allclose(reward.score(PROMPTS, COMPLETIONS, rollouts=rollouts), expected, atol=1e-5)
    assert len(set(np.round(expected, 4))) == 3
    # other ids with the same text: the ids count
    odd = [rollouts[0], rollouts[1], Rollout(**{**as_dict(rollouts[2]), "ids": (7, *rollouts[2].ids[1:])})]
    assert reward.score(PROMPTS, COMPLETIONS, rollouts=odd)[2] != pytest.approx(expected[2], abs=1e-5)


def as_dict(rollout: Rollout) -> dict:
    return {name: getattr(rollout, name) for name in Rollout.__slots__}


def test_text_is_scored_in_the_models_own_template(folders: dict[str, Path]) -> None:
    """Another tokenizer: ids of the policy are ignored, the text gets the reward model's template and EOS."""
    reward = load_reward(str(folders["other_rm"]), policy_tokenizer=load_tokenizer(folders["policy"]))
    assert isinstance(reward, RewardModel)
    assert not reward.reads_ids
    own = rollouts_of(folders["other"])
    expected = [plain_score(folders["other_rm"], r.prompt_ids + r.ids) for r in own]
    foreign = rollouts_of(folders["policy"])
    np.testing.assert_allclose(reward.score(PROMPTS, COMPLETIONS, rollouts=foreign), expected, atol=1e-5)
    groups = [PromptGroup(prompt=p) for p in PROMPTS]
    np.testing.assert_allclose(reward.score(PROMPTS, COMPLETIONS, groups=groups), expected, atol=1e-5)


def test_ids_and_text_agree(folders: dict[str, Path]) -> None:
    by_ids = RewardModel(str(folders["same_rm"]), policy_tokenizer=load_tokenizer(folders["policy"]))
    by_text = RewardModel(str(folders["same_rm"]))
    for cut in (False, True):
        keep = slice(None) if not cut else slice(0, 3, 2)  # an empty completion that was cut is none
        rollouts = rollouts_of(folders["policy"], cut=cut)[keep]
        given = {"rollouts": rollouts}
        prompts, completions = PROMPTS[keep], COMPLETIONS[keep]
        np.testing.assert_allclose(
            by_ids.score(prompts, completions, **given), by_text.score(prompts, completions, **given), atol=1e-5
        )


def test_scores_do_not_depend_on_company(folders: dict[str, Path]) -> None:
    reward = RewardModel(str(folders["same_rm"]))
    together = reward.score(PROMPTS, COMPLETIONS)
    alone = [reward.score([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    small = RewardModel(str(folders["same_rm"]), micro_batch_tokens=1)
    np.testing.assert_allclose(small.score(PROMPTS, COMPLETIONS), together, atol=1e-5)
    assert reward.score([], []) == []


def test_flops_are_those_of_what_was_read(folders: dict[str, Path]) -> None:
    """F = 2·N·T + 4·L·d·A + 2·h·S, the prompt that two completions share once."""
    reward = RewardModel(str(folders["same_rm"]), policy_tokenizer=load_tokenizer(folders["policy"]))
    rollouts = rollouts_of(folders["policy"])
    reward.score(PROMPTS, COMPLETIONS, rollouts=rollouts)
    weights = {name: p.numel() for name, p in reward.module.hf.named_parameters() if p.ndim == 2}
    N = sum(count for name, count in weights.items() if "embed" not in name and "score" not in name)
    (p, _, q), (a, b, c) = [[len(r.prompt_ids) for r in rollouts], [len(r.ids) for r in rollouts]]
    A = p**2 / 2 + p * a + a**2 / 2 + p * b + b**2 / 2 + q**2 / 2 + q * c + c**2 / 2
    assert reward.flops == 2 * N * (p + a + b + q + c) + 4 * 2 * 32 * A + 2 * 32 * 3


def test_raw_prompts_need_no_template(folders: dict[str, Path]) -> None:
    reward = RewardModel(str(folders["same_rm"]))
    tokenizer = reward.tokenizer
    ids = tokenizer.encode("the cat") + tokenizer.encode(" sat", add_special_tokens=False) + [reward.template.eos_id]
    score = reward.score(["the cat"], [" sat"])[0]
    assert score == pytest.approx(plain_score(folders["same_rm"], tuple(ids)), abs=1e-5)


def test_a_prompt_that_cannot_be_read_is_an_error(folders: dict[str, Path]) -> None:
    reward = RewardModel(str(folders["same_rm"]), max_length=12)
    with pytest.raises(RunError, match="cannot read completion 'it is late' of prompt 'where is my order"):
        reward.score([(Message("user", "where is my order? " * 10),)], ["it is late"])


def test_what_is_read_shortened_is_told(folders: dict[str, Path]) -> None:
    """Of three texts one is longer than the limit: its prompt loses turns, and the figure says so."""
    lengths = [len(ids) for ids in _texts_read(RewardModel(str(folders["other_rm"])))]
    for limit, share in ((max(lengths), None), (max(lengths) - 1, 1 / 3)):
        reward = RewardModel(str(folders["other_rm"]), max_length=limit)
        assert reward.score(PROMPTS, COMPLETIONS).metrics().get("texts_shortened") == share


def _texts_read(reward: RewardModel) -> list[tuple[int, ...]]:
    groups = reward._encoding.tokens(PROMPTS, COMPLETIONS, None, None)
    return [group.prompt_ids + group.completions[0].ids for group in groups]


def test_ids_beyond_the_context_are_refused(folders: dict[str, Path]) -> None:
    rollouts = rollouts_of(folders["policy"])
    longest = max(len(r.prompt_ids) + len(r.ids) for r in rollouts)
    tokenizer = load_tokenizer(folders["policy"])
    RewardModel(str(folders["same_rm"]), policy_tokenizer=tokenizer, max_length=longest).score(
        PROMPTS, COMPLETIONS, rollouts=rollouts
    )
    reward = RewardModel(str(folders["same_rm"]), policy_tokenizer=tokenizer, max_length=longest - 1)
    with pytest.raises(RunError, match=rf"(?s)cannot read completion.*{longest} tokens"):
        reward.score(PROMPTS, COMPLETIONS, rollouts=rollouts)


def test_a_context_shorter_than_the_policys_rows_is_found_before_loading(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(folders["policy"])
    for name in ("same_rm", "other_rm", "policy"):
        shutil.copytree(folders[name], tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 32}))
    check_contexts(str(tmp_path / "same_rm"), tokenizer, 32)
    with pytest.raises(ModelError, match="same_rm's context is shorter than max_length"):
        check_contexts(str(tmp_path / "same_rm"), tokenizer, 33)
    check_contexts(str(tmp_path / "other_rm"), tokenizer, 33)  # it reads text
    implicit = ImplicitSource(reward=f"implicit:{tmp_path / 'policy'},{tmp_path / 'policy'}", beta=0.1)
    with pytest.raises(ModelError, match="policy's context is shorter than max_length"):
        check_contexts([implicit], tokenizer, 33)


def test_what_is_no_reward_model_is_refused_before_its_weights_are_read(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no score head"):
        load_reward(str(folders["policy"]))
    bare = tmp_path / "bare"
    shutil.copytree(folders["two"], bare)
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="2 labels, so it is not a reward model"):
        load_reward(str(bare))


def test_a_declared_ensemble_scores_its_mean(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "ensemble"
    shutil.copytree(folders["two"], folder)
    config = json.loads((folder / "config.json").read_text()) | {"assent_ensemble_size": 2}
    (folder / "config.json").write_text(json.dumps(config))
    assert check_reward_model(str(folder)) == 2
    reward = RewardModel(str(folder), policy_tokenizer=load_tokenizer(folders["policy"]))
    rollouts = rollouts_of(folders["policy"])
    with torch.no_grad():
        rows = [torch.tensor([r.prompt_ids + r.ids]) for r in rollouts]
        expected = [float(load_scorer(folder)(input_ids=row).logits.mean()) for row in rows]
    np.testing.assert_allclose(reward.score(PROMPTS, COMPLETIONS, rollouts=rollouts), expected, atol=1e-5)


def test_a_rewards_hash_is_that_of_all_that_makes_it(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["same_rm"], folder)
    before = reward_hash(str(folder))
    assert reward_hash(str(folders["same_rm"])) == before  # wherever it stands
    (folder / "notes.md").write_text("nothing that scores")
    assert reward_hash(str(folder)) == before
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert reward_hash(str(folder)) != before, name
        (folder / name).write_bytes(content)
    assert reward_hash(str(folder)) == before


def test_tokenizers_are_compared_by_content(folders: dict[str, Path]) -> None:
    a, b, c = (load_tokenizer(folders[name]) for name in ("policy", "same_rm", "other"))
    assert same_tokenizer(a, b)
    assert not same_tokenizer(a, c)
    b.chat_template = a.chat_template + " "
    assert not same_tokenizer(a, b)
