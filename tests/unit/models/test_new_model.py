"""`new-model`: a folder that works like any other, the same bytes for the same arguments."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from assent.errors import DataError, DataFileNotFoundError, ModelError
from assent.models.loading import fingerprint, load_policy, load_tokenizer
from assent.models.new_model import new_model
from assent.models.templates import CHATML, resolve_template
from assent.models.tokenizing import tokenize_groups
from tests.support.rows import pair
from tests.support.tokenizers import TEXTS

SMALL = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "context": 64}


def test_folder_opens_tokenizes_and_runs(tmp_path):
    summary = new_model(tmp_path / "m", texts=TEXTS, **SMALL)
    tokenizer = load_tokenizer(tmp_path / "m")
    model = load_policy(tmp_path / "m", tokenizer=tokenizer, max_length=64)
    assert summary.vocab_size == len(tokenizer) == 300
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.characters == sum(map(len, TEXTS))
    assert tokenizer.chat_template == CHATML
    assert tokenizer.pad_token_id not in resolve_template(tokenizer).eos_ids
    assert set(model.generation_config.eos_token_id) == resolve_template(tokenizer).eos_ids
    template = resolve_template(tokenizer)
    out = tokenize_groups([pair("hello", "ok", "no")], tokenizer=tokenizer, template=template, max_length=64)
    assert out.groups[0].completions[0].ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model(torch.tensor([out.groups[0].prompt_ids])).logits.isfinite().all()


def test_same_arguments_same_bytes_other_seed_other_weights(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        new_model(tmp_path / name, texts=TEXTS, seed=seed, **SMALL)
    a, b, c = (fingerprint(load_policy(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    new_model(tmp_path / "m", texts=TEXTS, **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_text_of_plain_jsonl_and_gzipped_files(tmp_path):
    (tmp_path / "plain.txt").write_text("plain words\n")
    rows = [{"prompt": [{"role": "user", "content": "asked"}], "chosen": "liked"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with gzip.open(tmp_path / "more.txt.gz", "wt") as out:
        out.write("packed")
    files = [tmp_path / name for name in ("plain.txt", "rows.jsonl", "more.txt.gz")]
    summary = new_model(tmp_path / "m", text_files=files, **SMALL)
    assert summary.characters == len("plain words\n") + len("asked") + len("liked") + len("packed")


def test_default_size_is_about_eight_million(tmp_path):
    summary = new_model(tmp_path / "m", texts=TEXTS, context=32)
    assert 6e6 < summary.parameters + 256 * (8192 - summary.vocab_size) < 9e6


def test_impossible_arguments_are_refused(tmp_path):
    with pytest.raises(DataFileNotFoundError):
        new_model(tmp_path / "m", text_files=[tmp_path / "none.txt"], **SMALL)
    with pytest.raises(DataError, match="no text"):
        new_model(tmp_path / "m", **SMALL)
    with pytest.raises(ModelError, match="vocabulary"):
        new_model(tmp_path / "m", texts=TEXTS, **(SMALL | {"vocab_size": 200}))
    with pytest.raises(ModelError, match="heads"):
        new_model(tmp_path / "m", texts=TEXTS, **(SMALL | {"heads": 3}))
    (tmp_path / "bad.jsonl").write_text('{"a": "b"}\n{\n')
    with pytest.raises(DataError, match="line 2"):
        new_model(tmp_path / "m", text_files=[tmp_path / "bad.jsonl"], **SMALL)
    assert not (tmp_path / "m").exists()
    new_model(tmp_path / "m", texts=TEXTS, **SMALL)
    with pytest.raises(ModelError, match="not empty"):
        new_model(tmp_path / "m", texts=TEXTS, **SMALL)
