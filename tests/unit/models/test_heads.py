"""Reward models and critics of any causal model: a score head of their own where transformers has no class for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from assent.config.options import AdapterOptions
from assent.errors import ModelError
from assent.models.adapters import Base, add_adapter
from assent.models.folder_contents import SCORE_HEAD
from assent.models.heads import add_score_head, has_classifier_class
from assent.models.loading import (
    fingerprint,
    load_config,
    load_policy,
    load_scorer,
    load_tokenizer,
    merge_folder,
    save_model,
)
from assent.models.module import AlignmentModel
from assent.models.one_trunk import siblings
from assent.models.packing import pack
from assent.models.shape import Cost
from assent.models.trunk import trunk_of
from assent.rewards.reward_model import check_reward_model
from tests.support.architectures import plain_logprobs, random_groups
from tests.support.causal_only import CAUSAL_ONLY, causal_only
from tests.support.models import tiny_llama
from tests.support.tokenizers import byte_bpe

SCORES = frozenset({"scores"})


def scores(model: Any, groups: Any) -> torch.Tensor:
    with torch.no_grad():
        return AlignmentModel(model, kind="scorer")(pack(groups, device="cpu"), SCORES).scores


@pytest.mark.parametrize("name", CAUSAL_ONLY)
def test_a_policy_of_such_an_architecture_has_the_plain_models_numbers(name: str) -> None:
    model, groups = causal_only(name), random_groups()
    with torch.no_grad():
        expected = plain_logprobs(model, groups)
        read = AlignmentModel(model, kind="policy")(pack(groups, device="cpu"), frozenset({"logprobs"}))
    torch.testing.assert_close(read.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL_ONLY)
def test_scores_are_the_heads_at_the_last_state_packed_and_alone(name: str) -> None:
    model, groups = causal_only(name), random_groups(holes=False)
    assert not has_classifier_class(model.config)
    scorer: Any = add_score_head(model, 2)
    nn.init.normal_(scorer.score.weight, std=0.1)
    rows = [group.prompt_ids + one.ids for group in groups for one in group.completions]
    states: list[torch.Tensor] = []
    hook = trunk_of(model).register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state[0, -1]))
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row]), use_cache=False)  # the whole causal model, one row at a time
        hook.remove()
        expected = torch.stack(states) @ scorer.score.weight.T
    torch.testing.assert_close(scores(scorer, groups), expected, rtol=0, atol=1e-5)


def test_a_trunk_that_cannot_be_told_is_an_error() -> None:
    model = tiny_llama()
    model.base_model_prefix = "elsewhere"
    assert trunk_of(model) is model.model
    model.other = tiny_llama().model
    with pytest.raises(ModelError, match="trunk of LlamaForCausalLM cannot be told"):
        trunk_of(model)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an OLMoE with a tokenizer."""
    tokenizer = byte_bpe()
    model = causal_only("olmoe", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    return save_model(tmp_path_factory.mktemp("policy") / "olmoe", model, tokenizer)


def saved(policy: Path, folder: Path, **options: Any) -> Path:
    scorer = load_scorer(policy, seed=3, **options)
    scorer.config.assent_score_bias = 0.25
    if (labels := options.get("num_labels", 1)) > 1:
        scorer.config.assent_ensemble_size = labels
    return save_model(folder, scorer, load_tokenizer(policy))


def test_the_folder_is_a_policys_with_a_score_head_and_says_so(policy: Path, tmp_path: Path) -> None:
    folder = saved(policy, tmp_path / "rm", num_labels=3)
    opened, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert fingerprint(opened) == fingerprint(load_policy(policy))
    assert {name: tuple(w.shape) for name, w in load_file(folder / SCORE_HEAD).items()} == {"weight": (3, 32)}
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["assent_score_head"]) == (["OlmoeForCausalLM"], True)
    assert config["pad_token_id"] == load_tokenizer(policy).pad_token_id
    assert check_reward_model(str(folder)) == 3
    again, groups = load_scorer(folder), random_groups(holes=False)
    assert torch.equal(scores(again, groups), scores(load_scorer(folder, num_labels=3), groups))
    assert scores(again, groups).shape == (8, 3)
    assert torch.equal(again.score.weight, load_scorer(policy, seed=3, num_labels=3).score.weight)
    with pytest.raises(ModelError, match="does not have the given number of heads"):
        load_scorer(folder, num_labels=2)


def test_a_policy_is_no_reward_model_nor_the_reverse(policy: Path, tmp_path: Path) -> None:
    folder = saved(policy, tmp_path / "rm")
    with pytest.raises(ModelError, match="not a policy") as error:
        load_policy(folder)
    assert SCORE_HEAD in str(error.value)
    with pytest.raises(ModelError, match="no score head"):
        check_reward_model(str(policy))


def test_what_only_logits_need_is_kept_and_not_trained(policy: Path) -> None:
    scorer = load_scorer(policy, num_labels=2)
    assert [name for name, p in scorer.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert scorer.lm_head.weight.abs().max() > 0
    cost, whole = (Cost.of(model, shared=True) for model in (scorer, load_policy(policy)))
    assert cost.head_weights == 2 * 32
    assert cost.trunk_weights == whole.trunk_weights
    tied = add_score_head(tiny_llama(tie_word_embeddings=True), 1)
    assert all(p.requires_grad for p in tied.parameters())
    members = siblings(scorer, 3)
    own = [{id(p) for p in member.parameters()} for member in members]
    assert len(own[0] & own[1] & own[2]) == len(own[0]) - 1
    assert len({id(member.score) for member in members}) == 3


def damaged(folder: Path, how: str) -> None:
    head, config = folder / SCORE_HEAD, folder / "config.json"
    if how == "cut off":
        head.write_bytes(head.read_bytes()[:-8])
    elif how == "missing":
        head.unlink()
    elif how == "not said":
        stated = json.loads(config.read_text())
        stated.pop("assent_score_head")
        config.write_text(json.dumps(stated))
    elif how == "said otherwise":
        config.write_text(config.read_text().replace('"assent_score_head": true', '"assent_score_head": "yes"'))
    elif how == "elsewhere":
        head.rename(folder.parent / "other.safetensors")
        head.symlink_to(folder.parent / "other.safetensors")
    else:
        weights: dict[str, dict[str, torch.Tensor]] = {
            "wrong shape": {"weight": torch.ones(1, 16)},
            "more heads": {"weight": torch.ones(2, 32)},
            "wrong name": {"score.weight": torch.ones(1, 32)},
            "a bias": {"weight": torch.ones(1, 32), "bias": torch.ones(1)},
            "integers": {"weight": torch.ones(1, 32, dtype=torch.int64)},
            "not finite": {"weight": torch.full((1, 32), float("nan"))},
        }
        save_file(weights[how], head)


DAMAGES = {
    "cut off": "cut off or damaged",
    "missing": "do not agree on whether this is a reward model",
    "not said": "do not agree on whether this is a reward model",
    "said otherwise": "do not agree on whether this is a reward model",
    "elsewhere": "outside its folder",
    "wrong shape": "head does not fit",
    "more heads": "head does not fit",
    "wrong name": "head does not fit",
    "a bias": "head does not fit",
    "integers": "not floating-point numbers",
    "not finite": "not finite",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_head_that_lies_or_is_cut_off_is_named(how: str, policy: Path, tmp_path: Path) -> None:
    folder = saved(policy, tmp_path / "rm")
    damaged(folder, how)
    with pytest.raises(ModelError, match=DAMAGES[how]) as error:
        load_scorer(folder)
    assert str(folder) in str(error.value)
    if DAMAGES[how].startswith("do not agree"):
        with pytest.raises(ModelError, match=DAMAGES[how]):
            load_policy(folder)


@pytest.mark.parametrize("name", ["olmoe", "bamba"])
def test_an_adapter_and_the_folder_it_is_merged_into_give_the_same_scores(name: str, tmp_path: Path) -> None:
    """OLMoE's experts are stacked, and adapted as parameters."""
    tokenizer = byte_bpe()
    model = causal_only(name, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    base = save_model(tmp_path / "base", model, tokenizer)
    adapted = with_adapter(load_scorer(base, num_labels=2), base)
    assert [n for n, p in adapted.named_parameters() if p.requires_grad and ".lora_" not in n] == [
        "base_model.model.score.modules_to_save.default.weight"
    ]
    adapted.get_base_model().config.assent_ensemble_size = 2
    groups = random_groups(holes=False)
    expected = scores(adapted, groups)
    folder = save_model(tmp_path / "adapter", adapted, tokenizer)
    assert load_config(folder).assent_score_head is True
    assert check_reward_model(str(folder)) == 2
    opened = load_scorer(folder)
    torch.testing.assert_close(scores(opened, groups), expected, rtol=0, atol=1e-5)
    assert (expected - scores(load_scorer(base, num_labels=2), groups)).abs().max() > 1e-2
    merge_folder(folder, tmp_path / "merged")
    torch.testing.assert_close(scores(load_scorer(tmp_path / "merged"), groups), expected, rtol=0, atol=1e-5)
    assert "lm_head.weight" in {n for n, p in opened.named_parameters() if not p.requires_grad}


def test_a_policys_adapter_that_says_it_has_a_head_is_refused(policy: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "adapter", with_adapter(load_policy(policy), policy), load_tokenizer(policy))
    record = folder / "assent_adapter.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"config": {"assent_score_head": True}}))
    with pytest.raises(ModelError, match="adapter has no score head"):
        check_reward_model(str(folder))


def with_adapter(model: Any, base: Path) -> Any:
    adapted: Any = add_adapter(model, AdapterOptions(lora_r=2), base=Base(str(base)), seed=0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapted


@pytest.mark.parametrize("load", [load_policy, load_scorer])
def test_weights_are_named_as_in_the_base_where_two_parameters_of_a_module_have_adapters(
    load: Callable[..., Any], policy: Path, tmp_path: Path
) -> None:
    """Of stacked experts: the start of a run that goes on from an adapter is saved under these names."""
    from assent.models.adapters import base_weights

    model = load(policy)
    names = set(model.state_dict())
    assert set(base_weights(with_adapter(model, policy).state_dict())) == names


def test_a_folder_without_the_file_is_no_trap_for_a_copy(policy: Path, tmp_path: Path) -> None:
    """Written over, a reward model's folder that becomes a policy's has no head left, and the reverse."""
    folder = saved(policy, tmp_path / "folder")
    shutil.copytree(folder, tmp_path / "copy")
    assert check_reward_model(str(tmp_path / "copy")) == 1
    save_model(folder, load_policy(policy), load_tokenizer(policy))
    assert not (folder / SCORE_HEAD).exists()
    load_policy(folder)
