"""Folders in, folders out: safetensors only, ordinary Hugging Face folders, errors that say what the folder lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from assent.errors import ModelError, StorageError
from assent.models import saving
from assent.models.loading import (
    check_context,
    fingerprint,
    load_config,
    load_policy,
    load_scorer,
    load_tokenizer,
    save_model,
)
from assent.models.templates import attach_template
from tests.support.models import tiny_llama, write_folder
from tests.support.tokenizers import byte_bpe, word_level


@pytest.fixture
def folder(tmp_path):
    tokenizer = byte_bpe()
    return write_folder(tmp_path / "policy", tiny_llama(tokenizer), tokenizer)


def test_policy_round_trip_opens_with_transformers(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder, tokenizer=tokenizer)
    saved = save_model(tmp_path / "out", model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(saved)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)
    reread = AutoTokenizer.from_pretrained(saved)
    assert reread.chat_template == tokenizer.chat_template
    assert reread.pad_token == "<|pad|>"
    assert fingerprint(again) == fingerprint(model)
    assert sorted(p.suffix for p in saved.iterdir() if p.suffix not in (".json", ".jinja")) == [".safetensors"]


def test_scorer_from_a_causal_folder_gets_a_seeded_head(folder):
    a, b, c = (load_scorer(folder, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.score.weight, b.score.weight)
    assert not torch.equal(a.score.weight, c.score.weight)
    assert a.score.weight.shape == (1, 16)
    assert load_scorer(folder, num_labels=3).score.weight.shape == (3, 16)
    trunk, policy = dict(a.model.named_parameters()), load_policy(folder)
    assert all(torch.equal(trunk[n], p) for n, p in policy.model.named_parameters())


def test_head_deviation_is_one_over_the_root_of_width_plus_one(folder):
    wide = load_scorer(folder, num_labels=4000).score.weight
    assert wide.std().item() == pytest.approx(1 / 17**0.5, rel=0.02)
    assert wide.mean().item() == pytest.approx(0, abs=0.01)


def test_scorer_round_trip_scores_right_padded_batches_as_transformers_does(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    scorer = load_scorer(folder, seed=1, tokenizer=tokenizer)
    saved = save_model(tmp_path / "scorer", scorer, tokenizer)
    again = AutoModelForSequenceClassification.from_pretrained(saved)
    rows = [[5, 6, 7, 8], [9, 10]]
    pad = tokenizer.pad_token_id
    batch = torch.tensor([rows[0], rows[1] + [pad, pad]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batched = again(batch, attention_mask=mask).logits
    alone = torch.cat([scorer(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(batched, alone, rtol=0, atol=1e-6)
    kept = load_scorer(saved, seed=99)
    assert torch.equal(kept.score.weight, scorer.score.weight)


def test_a_reward_model_is_not_a_policy(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    saved = save_model(tmp_path / "scorer", load_scorer(folder), tokenizer)
    with pytest.raises(ModelError, match="not a policy"):
        load_policy(saved)


def test_weights_have_the_type_asked_for(folder):
    assert load_policy(folder, dtype="bfloat16").dtype == torch.bfloat16
    scorer = load_scorer(folder, dtype="bfloat16")
    assert scorer.score.weight.dtype == torch.bfloat16


def test_fingerprint_sees_one_bit_and_not_the_order(folder):
    model = load_policy(folder)
    first = fingerprint(model)
    assert len(first) == 16
    assert fingerprint(dict(reversed(list(model.named_parameters())))) == first
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-7
    assert fingerprint(model) != first


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing/at/all"])
def test_a_missing_folder_is_refused(name):
    with pytest.raises(ModelError, match="does not exist"):
        load_policy(name)


def test_hub_name_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for load in (load_policy, load_scorer, load_tokenizer):
        with pytest.raises(ModelError, match="hub cannot be reached") as error:
            load("acme/nothing")
        assert "hf download acme/nothing" in str(error.value)


def test_pickled_weights_are_refused_with_the_conversion(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled") as error:
        load_policy(folder)
    assert "save_pretrained" in str(error.value)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_policy(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(folder)


def test_a_broken_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        load_tokenizer(folder)


def test_folder_that_is_not_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        load_policy(tmp_path)


def test_code_in_the_folder_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="code from its own folder"):
        load_policy(folder)


def test_code_of_a_tokenizer_is_never_run(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    assert load_tokenizer(folder).eos_token == "<|im_end|>"


def test_missing_weights_are_not_made_up(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="lacks"):
        load_policy(folder)


def test_context_shorter_than_max_length(folder):
    assert load_policy(folder, max_length=128) is not None
    with pytest.raises(ModelError, match="context 128"):
        load_policy(folder, max_length=129)
    with pytest.raises(ModelError, match="--max-length 128"):
        check_context(load_config(folder), 129)


def test_pad_that_ends_texts_is_replaced_by_an_unused_token(folder):
    tokenizer = byte_bpe(special=("<|reserved_0|>",))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token == "<|pad|>"
    unpadded = word_level()
    unpadded.pad_token = None
    unpadded.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert loaded.pad_token_id not in {loaded.eos_token_id, loaded.bos_token_id, loaded.unk_token_id}


def test_new_pad_gets_a_row_and_is_saved(tmp_path):
    tokenizer = word_level()
    size = len(tokenizer)
    model = tiny_llama(tokenizer)
    tokenizer.pad_token = "</s>"
    folder = write_folder(tmp_path / "base", model, tokenizer)
    config = json.loads((folder / "tokenizer.json").read_text())
    config["added_tokens"] = [t for t in config["added_tokens"] if t["content"] != "<pad>"]
    (folder / "tokenizer.json").write_text(json.dumps(config))
    loaded = load_tokenizer(folder)
    assert loaded.pad_token == "<|pad|>"
    assert loaded.pad_token_id == size
    policy = load_policy(folder, tokenizer=loaded)
    assert policy.get_input_embeddings().weight.shape[0] >= size + 1
    saved = save_model(tmp_path / "out", policy, loaded)
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert again.config.pad_token_id == again.generation_config.pad_token_id == size
    assert again(torch.tensor([[size]])).logits.isfinite().all()


def test_eos_of_the_generation_config_reaches_the_tokenizer_and_the_saved_folder(folder, tmp_path):
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [2, 4]}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.generation_eos_ids == {2, 4}
    saved = save_model(tmp_path / "out", load_policy(folder, tokenizer=tokenizer), tokenizer)
    assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == [4, 2]


def test_attached_template_is_saved_with_the_result(tmp_path):
    tokenizer = word_level()
    model = tiny_llama(tokenizer)
    attach_template(model, tokenizer, "chatml")
    saved = save_model(tmp_path / "out", model, tokenizer)
    again = load_tokenizer(saved)
    assert again.chat_template == tokenizer.chat_template
    assert again.generation_eos_ids == tokenizer.generation_eos_ids
    assert again.convert_tokens_to_ids("<|im_end|>") == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert load_policy(saved).get_input_embeddings().weight.shape[0] == 64


def test_template_attached_before_the_model_is_loaded(tmp_path):
    tokenizer = word_level()
    size = len(tokenizer)
    model = tiny_llama(tokenizer, vocab_size=size + 10)  # rows in reserve, as many models have
    folder = write_folder(tmp_path / "base", model, tokenizer)
    mean = model.get_input_embeddings().weight[:size].mean(0)
    tokenizer = load_tokenizer(folder)
    attach_template(None, tokenizer, "chatml")
    policy = load_policy(folder, tokenizer=tokenizer)
    rows = policy.get_input_embeddings().weight
    torch.testing.assert_close(rows[size : size + 2], mean.expand(2, -1))
    with torch.no_grad():
        rows[size] += 1
    trained = save_model(tmp_path / "trained", policy, tokenizer)
    again = load_policy(trained, tokenizer=tokenizer).get_input_embeddings().weight
    assert torch.equal(again, rows)  # neither saving nor loading sets a trained row back


def test_saving_replaces_a_folder_whole(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder)
    target = tmp_path / "out"
    target.mkdir()
    (target / "left-over").write_text("old")
    save_model(target, model, tokenizer)
    assert not (target / "left-over").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_failed_save_leaves_the_old_folder_and_no_litter(folder, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder)
    target = save_model(tmp_path / "out", model, tokenizer)
    before = load_file(target / "model.safetensors")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "fsync", full)
    with torch.no_grad():
        model.model.norm.weight += 1
    with pytest.raises(StorageError, match="No space left"):
        save_model(target, model, tokenizer)
    after = load_file(target / "model.safetensors")
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_save_that_fails_at_the_rename_puts_the_old_folder_back(folder, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder)
    target = save_model(tmp_path / "out", model, tokenizer)
    rename = Path.rename

    def failing(self, to):
        if ".part-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError):
        save_model(target, model, tokenizer)
    assert (target / "model.safetensors").is_file()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_generation_config_that_transformers_refuses_to_write(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder)
    model.generation_config.temperature = 0.6  # without do_sample
    saved = save_model(tmp_path / "out", model, tokenizer)
    assert "temperature" not in json.loads((saved / "generation_config.json").read_text())
    model.generation_config.temperature, model.generation_config.do_sample = 0.6, True
    saved = save_model(tmp_path / "out", model, tokenizer)
    assert json.loads((saved / "generation_config.json").read_text())["temperature"] == 0.6


def test_adapter_folder_gives_the_base_with_the_adapter_merged(folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_policy(folder)
    lora = get_peft_model(load_policy(folder), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    lora.peft_config["default"].base_model_name_or_path = str(folder)
    adapter = tmp_path / "adapter"
    lora.save_pretrained(adapter)
    merged = load_policy(adapter)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(merged(ids).logits, lora.eval()(ids).logits, rtol=0, atol=1e-5)
    assert (merged(ids).logits - base(ids).logits).abs().max() > 1e-4
    assert load_tokenizer(adapter).chat_template == load_tokenizer(folder).chat_template


def test_loading_prints_nothing(folder, capfd):
    load_scorer(folder)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
