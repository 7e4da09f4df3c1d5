"""Adapter folders: PEFT's own, for one base, merged to 1e-5; and what is refused before any weights are loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from assent.errors import ConfigError, ModelError
from assent.models import loading
from assent.models.adapters import (
    RECORD,
    Base,
    adapter_off,
    add_adapter,
    base_weights,
    check_quantisation,
    quantisation,
)
from assent.models.loading import fingerprint, load_config, load_policy, load_scorer, load_tokenizer, save_model
from assent.models.templates import attach_template
from assent.models.weight_hashes import content_of
from assent.rewards.reward_model import RewardModel
from tests.support.adapters import adapted, options
from tests.support.cli import said
from tests.support.models import tiny_llama, write_folder
from tests.support.tokenizers import byte_bpe, word_level

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tokenizer = byte_bpe()
    return write_folder(tmp_path / "base", tiny_llama(tokenizer, tie_word_embeddings=False), tokenizer)


def saved(model: Any, folder: Path, base: Path) -> Path:
    """The adapter's folder, with the base's content on record."""
    model.assent_base = Base(str(base.resolve()), content=content_of(base))
    model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    return save_model(folder, model, load_tokenizer(base))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_fresh_adapter_changes_nothing_and_is_a_function_of_the_seed(base: Path) -> None:
    plain = logits(load_policy(base))
    state = torch.random.get_rng_state()
    for given in ({}, {"use_dora": True}):
        models = [add_adapter(load_policy(base), options(**given), base=Base("b"), seed=s) for s in (3, 3, 4)]
        assert torch.equal(logits(models[0]), plain)
        prints = [fingerprint(model) for model in models]
        assert prints[0] == prints[1] != prints[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_by_default_all_linear_layers_but_the_head_are_adapted_and_nothing_else_is_trained(base: Path) -> None:
    model = adapted(load_policy(base))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(trained) == 2 * 7 * 2
    scorer = adapted(load_scorer(base))
    whole = {name for name, p in scorer.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert whole == {"base_model.model.score.modules_to_save.default.weight"}


def test_bfloat16_weights_get_a_float32_adapter(base: Path) -> None:
    model = adapted(load_policy(base, dtype="bfloat16"))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("target", "part"),
    [("q_porj", "q_proj"), ("score", "trained in full"), ("lm_head", "tied"), ("embed_tokens", "tied")],
)
def test_layers_that_cannot_have_an_adapter_are_refused(base: Path, tmp_path: Path, target: str, part: str) -> None:
    tied = tiny_llama(byte_bpe(), tie_word_embeddings=True)
    with pytest.raises(ModelError, match=part):
        adapted(tied, lora_target_modules=["v_proj", target])
    if part == "tied":
        assert adapted(load_policy(base), lora_target_modules=[target]) is not None


def test_switched_off_it_is_the_base_to_the_last_bit(base: Path) -> None:
    model = adapted(load_policy(base), use_dora=True, new_rows=True)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    with adapter_off(model):
        assert torch.equal(logits(model), logits(load_policy(base)))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert not torch.equal(logits(model), logits(load_policy(base)))
    weights = base_weights(dict(model.get_base_model().named_parameters()))
    assert fingerprint(weights) == fingerprint(load_policy(base))


@pytest.mark.parametrize("given", [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_target_modules": ["lm_head"]}])
def test_an_adapter_folder_opens_with_peft_with_transformers_and_merged(
    base: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    model = adapted(load_policy(base), **given)
    folder = saved(model, tmp_path / "adapter", base)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", RECORD} <= names
    assert not names & {"config.json", "model.safetensors", "README.md"}
    assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))
    expected = logits(model)
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    torch.testing.assert_close(logits(opened), expected, rtol=0, atol=1e-6)
    if "use_dora" not in given:  # transformers 5.23 loses DoRA's magnitudes; PEFT itself reads them
        torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), expected, rtol=0, atol=1e-6)
    merged = load_policy(folder, tokenizer=load_tokenizer(folder))
    torch.testing.assert_close(logits(merged).log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=1e-5)
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert load_tokenizer(folder).generation_eos_ids == load_tokenizer(base).generation_eos_ids


def test_a_reward_models_adapter_keeps_its_head_and_bias(base: Path, tmp_path: Path) -> None:
    scorer = load_scorer(base, seed=1, tokenizer=load_tokenizer(base))
    scorer.config.assent_score_bias = 0.75
    model = adapted(scorer)
    folder = saved(model, tmp_path / "reward", base)
    expected = logits(model)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, str(folder))), expected, rtol=0, atol=1e-6)
    merged = load_scorer(folder, seed=77)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    assert merged.config.assent_score_bias == 0.75
    assert load_config(folder).num_labels == 1
    score = RewardModel(str(folder)).score(["hello"], ["there"])
    assert score == pytest.approx(RewardModel(str(folder), max_length=64).score(["hello"], ["there"]))
    with pytest.raises(ModelError, match="not a policy"):
        load_policy(folder)


def test_a_policys_adapter_is_the_start_of_a_scorer(base: Path, tmp_path: Path) -> None:
    folder = saved(adapted(load_policy(base)), tmp_path / "adapter", base)
    policy, scorer = load_policy(folder), load_scorer(folder, seed=3)
    trunk = dict(scorer.model.named_parameters())
    assert all(torch.equal(trunk[name], p) for name, p in policy.model.named_parameters())
    assert torch.equal(scorer.score.weight, load_scorer(base, seed=3).score.weight)
    assert save_model(tmp_path / "out", scorer, load_tokenizer(folder)).is_dir()
    torch.testing.assert_close(logits(load_scorer(tmp_path / "out")), logits(scorer))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading any weights is a failure."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading, "_load", refuse)


def test_another_base_is_refused_before_its_weights_are_loaded(
    base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = saved(adapted(load_policy(base)), tmp_path / "adapter", base)
    reward = saved(adapted(load_scorer(base)), tmp_path / "reward", base)
    request.getfixturevalue("no_weights")
    write_folder(base, tiny_llama(byte_bpe(), tie_word_embeddings=False, seed=1), byte_bpe())  # the same shapes
    for load, path in ((load_policy, folder), (load_scorer, reward)):
        with pytest.raises(ModelError, match="same shapes and other values"):
            load(path)
    for path in (folder, reward):
        (path / RECORD).unlink()  # as PEFT itself leaves it
    write_folder(base, tiny_llama(word_level(), tie_word_embeddings=True).__class__(_wider(base)), byte_bpe())
    for load, path in ((load_policy, folder), (load_scorer, reward)):
        with pytest.raises(ModelError, match="do not fit"):
            load(path)


def _wider(base: Path) -> Any:
    config = load_config(base)
    config.hidden_size, config.head_dim = 32, 16
    return config


def test_an_adapter_for_layers_that_the_base_does_not_have_is_refused(base: Path, tmp_path: Path) -> None:
    folder = saved(adapted(load_policy(base)), tmp_path / "adapter", base)
    (folder / RECORD).unlink()
    config = load_config(base)
    config.num_hidden_layers = 1
    write_folder(base, type(load_policy(base))(config), byte_bpe())
    with pytest.raises(ModelError, match=r"layers\.1"):
        load_policy(folder)


def test_an_adapter_that_lacks_weights_is_not_made_up(base: Path, tmp_path: Path) -> None:
    folder = saved(adapted(load_policy(base)), tmp_path / "adapter", base)
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="lacks 1"):
        load_policy(folder)


def test_a_base_that_was_moved_together_with_its_adapter_is_found(base: Path, tmp_path: Path) -> None:
    folder = saved(adapted(load_policy(base)), tmp_path / "adapter", base)
    expected = logits(load_policy(folder))
    (tmp_path / "moved").mkdir()
    for name in ("base", "adapter"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert torch.equal(logits(load_policy(tmp_path / "moved" / "adapter")), expected)
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="does not exist"):
        load_policy(tmp_path / "moved" / "adapter")


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_trained_saved_and_merged(tmp_path: Path, tied: bool) -> None:
    known = word_level()
    base = write_folder(tmp_path / "base", tiny_llama(known, tie_word_embeddings=tied), known)
    tokenizer = load_tokenizer(base)
    attach_template(None, tokenizer, "chatml")
    model = adapted(load_policy(base, tokenizer=tokenizer), new_rows=True)
    model.assent_base = Base(str(base.resolve()), content=content_of(base))
    model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    folder = save_model(tmp_path / "adapter", model, tokenizer)
    expected = logits(model)
    merged = load_policy(folder)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(expected.shape[-1])
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, str(folder))), expected, rtol=0, atol=1e-6)
    again = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "merged", merged, load_tokenizer(folder)))
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)


def test_merge_writes_an_ordinary_folder(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = adapted(load_policy(base), use_dora=True)
    scorer = adapted(load_scorer(base, tokenizer=load_tokenizer(base)))
    cases = {"policy": (policy, AutoModelForCausalLM), "scorer": (scorer, AutoModelForSequenceClassification)}
    for name, (model, kind) in cases.items():
        folder = saved(model, tmp_path / name, base)
        out = tmp_path / f"{name}-merged"
        status, printed, _ = said(["merge", folder, "--output-dir", out, "--json"], capsys)
        assert status == 0
        assert json.loads(printed)["model_path"] == str(out)
        torch.testing.assert_close(logits(kind.from_pretrained(out)), logits(model), rtol=0, atol=1e-5)
    status, _, err = said(["merge", tmp_path / "policy", "--output-dir", out], capsys)
    assert status == 2
    assert "not empty" in err
    status, _, err = said(["merge", base, "--output-dir", tmp_path / "new"], capsys)
    assert status == 2
    assert "no adapter" in err
    assert not (tmp_path / "new").exists()


def test_4_bits_need_bitsandbytes_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    there = False
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: there or None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        check_quantisation(torch.device("cuda"))
    there = True
    with pytest.raises(ConfigError, match="needs CUDA"):
        check_quantisation(torch.device("cpu"))
    check_quantisation(torch.device("cuda"))


def test_quantisation_is_nf4_of_everything_but_the_heads() -> None:
    asked = quantisation(torch.device("cuda:0"), torch.bfloat16)
    config = asked["quantization_config"].to_dict()
    assert (config["load_in_4bit"], config["bnb_4bit_quant_type"], config["bnb_4bit_use_double_quant"]) == (
        True,
        "nf4",
        True,
    )
    assert config["bnb_4bit_compute_dtype"] == "bfloat16"
    assert set(config["llm_int8_skip_modules"]) == {"lm_head", "score"}
    assert asked["device_map"] == {"": "cuda:0"}
