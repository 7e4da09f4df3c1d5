"""A reward model's held-out accuracy is the same number in training and in `eval`, also where rows are cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assent.data.loading import load_groups
from assent.evaluation.reward_model import quality_lines
from assent.models.tokenizing import tokenize_groups
from assent.rewards.reward_model import RewardModel
from assent.types import PromptGroup
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

MAX_LENGTH = 80


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def long_rows(number: int) -> list[dict[str, object]]:
    """Comparisons of which most are cut: long conversations, a long chosen or rejected answer, and some that are equal
    up to the cut."""
    rows: list[dict[str, object]] = []
    for i in range(number):
        earlier = [turn("user", f"what is {i} plus {i}?"), turn("assistant", f"it is {2 * i}. " * (i % 4))]
        prompt = [*earlier, turn("user", f"what is {i} plus {i + 1}?")]
        short, long = f"it is {i}.", f"no, it is {2 * i}. " * (1 + i % 7)
        chosen, rejected = (short, long) if i % 3 else (long, short)
        if i % 10 == 9:
            chosen, rejected = "it is. " * 60 + "yes", "it is. " * 60 + "no"
        rows.append(
            {"prompt": prompt, "chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
        )
    return rows


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    model = tiny_model(tmp_path / "tiny")
    write_rows(tmp_path / "train.jsonl", long_rows(12))
    write_rows(tmp_path / "held_out.jsonl", long_rows(72)[12:])
    argv = ["reward", "--model", model, "--data", str(tmp_path / "train.jsonl"), "--max-steps", "3"]
    argv += ["--eval-data", str(tmp_path / "held_out.jsonl"), "--max-length", str(MAX_LENGTH), "--batch-size", "4"]
    status, _, err = said([*argv, "--learning-rate", "1e-2", "--output-dir", str(tmp_path / "run")], capsys)
    assert status == 0, err
    return tmp_path


def test_held_out_accuracy_is_that_of_eval_where_rows_are_cut(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = [row for row in read_rows(trained / "run" / "metrics.jsonl") if "eval_accuracy" in row][-1]
    argv = ["eval", "--reward-model", trained / "run" / "model", "--data", trained / "held_out.jsonl"]
    status, out, err = said([*argv, "--max-length", MAX_LENGTH, "--json"], capsys)
    assert status == 0, err
    document = json.loads(out)
    quality = document["reward_model"]
    assert quality["accuracy"]["n"] == 54  # six rows do not differ after they were cut: refused, as in training
    assert "6: completions do not differ after they were cut" in err
    assert quality["accuracy"]["value"] == pytest.approx(logged["eval_accuracy"], abs=1e-12)
    assert 0 < quality["accuracy"]["value"] < 1
    assert quality["margin"]["value"] == pytest.approx(logged["eval_margin"], abs=1e-4)
    assert 0.3 < quality["texts_shortened"] < 1
    assert any(f"texts shortened to --max-length {MAX_LENGTH}" in line for line in document["lines"])


def test_the_completions_of_a_row_are_cut_with_one_prompt(trained: Path) -> None:
    """The ids are those of training; a row that nothing connects with others is cut alone."""
    reward = RewardModel(str(trained / "run" / "model"), max_length=MAX_LENGTH)
    data = list(load_groups(str(trained / "held_out.jsonl")))
    groups: list[PromptGroup] = [group for i, group in enumerate(data) if (i + 12) % 10 != 9]
    expected = tokenize_groups(groups, tokenizer=reward.tokenizer, template=reward.template, max_length=MAX_LENGTH)
    rows = [group for group in groups for _ in group.completions]
    texts = [completion[0].content for group in groups for completion in group.completions]  # type: ignore[union-attr]
    prompts = [row.prompt for row in rows]
    tokens = reward._encoding.tokens(prompts, texts, rows, None)
    assert [(t.prompt_ids, t.completions[0].ids) for t in tokens] == [
        (group.prompt_ids, one.ids) for group in expected.groups for one in group.completions
    ]
    apart = reward._encoding.tokens(prompts, texts, None, None)
    assert any(a.prompt_ids != b.prompt_ids for a, b in zip(tokens, apart, strict=True))
    back = reward._encoding.tokens(prompts[::-1], texts[::-1], rows[::-1], None)  # in any order
    assert back == tokens[::-1]


def test_the_context_is_named_only_where_it_cuts(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--reward-model", trained / "run" / "model", "--data", trained / "held_out.jsonl"]
    quality = json.loads(said([*argv, "--max-length", 128, "--json"], capsys)[1])["reward_model"]
    assert "texts shortened to the model's context" in "\n".join(quality_lines(quality))
    assert "texts shortened to --max-length 128" in "\n".join(quality_lines(quality, max_length=128))
