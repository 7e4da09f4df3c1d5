"""`explain` with models: token by token as plain transformers gives it; their sums; rows by number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import assent
from assent.commands.explain import _of_bytes, token_text
from assent.errors import DataError, ModelError
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import answers, comparisons, demonstrations, question, write_rows
from tests.support.tokenizers import byte_bpe

CPU = {"max_length": 128, "device": "cpu"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl")
    comparisons(folder / "pairs.jsonl")
    tiny_model(folder / "reference")
    tiny_model(folder / "policy", seed=1)  # the same tokenizer, other weights
    return folder


def plain(folder: Path, prompt: str, completion: str) -> list[float]:
    """Log-probabilities of the completion's tokens and of EOS after it, by transformers alone, float64."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    first = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = [*first, *tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logps[place - 1, ids[place]]) for place in range(len(first), len(ids))]


def test_every_token_is_as_plain_transformers_has_it(shared: Path) -> None:
    text = {"prompt": "what is 1 plus 1", "chosen": " it is 2", "rejected": " no"}
    models = {"model": shared / "policy", "reference": shared / "reference"}
    found = assent.explain(**models, **text, **CPU, beta=0.5)
    sums = []
    for key, folder in (("logprob", shared / "policy"), ("reference_logprob", shared / "reference")):
        for side in ("chosen", "rejected"):
            expected = plain(folder, text["prompt"], text[side])
            assert [token[key] for token in found["tokens"][side]] == pytest.approx(expected, abs=1e-5)
            sums.append(sum(expected))
    assert list(found["logps"].values()) == pytest.approx(sums, abs=1e-5)
    by_sums = assent.explain(logps=list(found["logps"].values()), beta=0.5)
    assert {name: found[name] for name in by_sums if name != "input"} == {
        name: value for name, value in by_sums.items() if name != "input"
    }
    for side in ("chosen", "rejected"):
        tokens = found["tokens"][side]
        assert "".join(token["token"] for token in tokens[:-1]) == text[side]
        assert [token["position"] for token in tokens] == list(range(1, len(tokens) + 1))
        assert sum(token["log_ratio"] for token in tokens) == pytest.approx(found[f"log_ratio_{side}"], abs=1e-12)
        assert sum(token["reward"] for token in tokens) == pytest.approx(found[f"reward_{side}"], abs=1e-12)
        assert any(abs(token["log_ratio"]) > 1e-3 for token in tokens)


def test_a_policy_that_is_its_reference_prefers_neither(shared: Path) -> None:
    models = {"model": shared / "policy", "reference": shared / "policy"}
    found = assent.explain(**models, data=shared / "pairs.jsonl", row=2, **CPU)
    assert found["prefers"] == "neither"
    assert found["loss"] == pytest.approx(0.6931471805599453, abs=1e-15)
    assert found["source"].endswith("pairs.jsonl:2")
    assert any("1 of 1 used" in note for note in found["notes"])


def test_messages_as_json_are_the_row_of_a_file(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model", shared / "policy", "--reference", shared / "reference", "--max-length", 128, "--device", "cpu"]
    texts = dict(zip(("prompt", "chosen", "rejected"), (question(2), *answers(2)), strict=True))
    given = [word for name, text in texts.items() for word in (f"--{name}", json.dumps(text))]
    status, of_texts, _ = said(["explain", *models, *given, "--json"], capsys)
    assert status == 0
    status, of_row, _ = said(["explain", *models, "--data", shared / "pairs.jsonl", "--row", 3, "--json"], capsys)
    assert status == 0
    assert json.loads(of_texts)["tokens"] == json.loads(of_row)["tokens"]
    status, out, _ = said(["explain", *models, *given], capsys)
    assert status == 0
    tables = out[out.index("chosen     ") :]
    assert max(map(len, tables.splitlines())) <= 80
    assert "'<|im_end|>'" in tables


def test_of_long_completions_the_tokens_that_carry_the_ratio_are_shown(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--model", shared / "policy", "--reference", shared / "reference", "--max-length", 128, "--device", "cpu"]
    texts = ["--prompt", "1", "--chosen", "2" * 40 + "答", "--rejected", "3"]
    status, out, _ = said(["explain", *models, *texts], capsys)
    assert status == 0
    chosen = out.split("\nchosen: ")[1].split("\nrejected: ")[0]
    assert "the 24 with the largest log-ratios" in chosen
    shown = [float(line.split()[-3]) for line in chosen.splitlines() if line[:4].strip().isdigit()]
    document = json.loads(said(["explain", *models, *texts, "--json"], capsys)[1])
    sizes = sorted((abs(token["log_ratio"]) for token in document["tokens"]["chosen"]), reverse=True)
    assert len(shown) == 24 < len(sizes)
    assert sorted(map(abs, shown), reverse=True) == pytest.approx(sizes[:24], abs=1e-4)


def test_rows_that_are_not_there_or_not_comparisons(shared: Path, tmp_path: Path) -> None:
    models = {"model": shared / "policy", "reference": shared / "reference"}
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = write_rows(tmp_path / "p.jsonl", [row, {**row, "rejected": "b"}, row])
    assert assent.explain(**models, data=file, row=3, **CPU)["source"].endswith(":3")
    for number, part in ((2, "chosen and rejected are identical"), (4, "no usable row 4")):
        with pytest.raises(DataError, match=part):
            assent.explain(**models, data=file, row=number, **CPU)
    with pytest.raises(DataError, match="is not a comparison"):
        assent.explain(**models, data=shared / "demonstrations.jsonl", row=1, **CPU)


def test_a_reference_of_another_tokenizer_is_refused(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "pairs.jsonl", tmp_path)
    tiny_model(tmp_path / "other", vocab_size=280)
    with pytest.raises(ModelError, match="another tokenizer"):
        assent.explain(
            model=shared / "policy", reference=tmp_path / "other", data=tmp_path / "pairs.jsonl", row=1, **CPU
        )


def test_the_bytes_of_a_letter_that_is_spread_over_tokens_are_numbers() -> None:
    tokenizer = byte_bpe()
    pieces = [token_text(tokenizer, i) for i in tokenizer("the möglich").input_ids]
    assert "".join(pieces) == "the m⟨C3⟩⟨B6⟩glich"
    assert not any(letter in "".join(pieces) for letter in "Ã¶")
    assert [_of_bytes(piece) for piece in ("<0xC3>", "ĠÃ", "Ã¶", "▁Ã")] == ["⟨C3⟩", " ⟨C3⟩", "ö", None]
