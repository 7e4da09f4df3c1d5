"""The shipped base model: size, hash, tokenizer; the build is deterministic."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from assent.sandbox import base_model
from assent.sandbox.documents import demonstrations
from assent.sandbox.world import World, frozen_world

FOLDER = base_model.base_folder(0)
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


def test_the_shipped_model_is_small_and_the_one_that_was_frozen() -> None:
    weights = FOLDER / "model.safetensors"
    assert FOLDER.parent == base_model.ASSETS
    assert weights.stat().st_size < 8_000_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == frozen_world()["base_model"]
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.num_parameters() <= 2_000_000
    assert model.dtype == torch.float32


def test_the_tokenizer_is_the_one_the_language_gives() -> None:
    built = base_model.build_tokenizer()
    assert built.get_vocab() == TOKENIZER.get_vocab()
    assert len(TOKENIZER) <= 1024
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(lambda t: "<|" not in t))
def test_every_string_has_a_spelling_and_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_every_word_of_the_world_is_one_token() -> None:
    for group in demonstrations(World(0), 300, 0):
        for text in (group.prompt[0].content, group.completions[0][0].content):  # type: ignore[union-attr]
            pieces = re.findall(r" ?[A-Za-z0-9]+|[^A-Za-z0-9\s]", text)
            assert len(TOKENIZER.encode(text, add_special_tokens=False)) == len(pieces)


def test_the_template_extends_a_prompt_by_its_completion() -> None:
    user, assistant = {"role": "user", "content": "Hello Dana."}, {"role": "assistant", "content": "Bye."}
    prompt = TOKENIZER.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>Hello Dana.<|end|><|assistant|>"
    assert TOKENIZER.apply_chat_template([user, assistant], tokenize=False) == prompt + "Bye.<|end|>"


def test_building_twice_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "DOCUMENTS", 40)
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    cached = base_model.base_folder(123)
    assert cached.parent == tmp_path / "cache"
    base_model.build(tmp_path / "again", 123)
    one, two = ((folder / "model.safetensors").read_bytes() for folder in (cached, tmp_path / "again"))
    assert one == two
    base_model.build(tmp_path / "other", 124)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != one
    assert base_model.base_folder(123) == cached  # the second time from the cache


def test_the_base_model_looks_facts_up() -> None:
    """In raw text it completes statements with the facts of the document, whatever they are."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    hits = 0
    cities = ("Lima", "Oslo", "Riga", "Delhi", "Perth", "Kyoto")
    for number, city in enumerate(cities):
        order = f"order K1{2 * (number % 5)}, item lamp, plan gold, owner Dana, city {city}"
        text = f"Facts: {order}, price 45, delivery 5, refund 30, warranty 12, use easy. We ship it to"
        ids = TOKENIZER(text, return_tensors="pt", add_special_tokens=False).input_ids
        hits += TOKENIZER.decode(model(input_ids=ids).logits[0, -1].argmax().item()) == f" {city}"
    assert hits >= 5
