"""`eval --lm-eval`: the harness's figures are those of the model's own log-probabilities, paired by question."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.data.texts import last_content
from assent.errors import DataError
from assent.evaluation.lm_eval_tasks import _questions, as_figures, task_lines
from assent.models.loading import load_policy, load_tokenizer
from assent.sandbox.replies import BAD, GOOD, MIXED, compose
from assent.sandbox.world import World
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import write_rows

pytest.importorskip("lm_eval")

TASK = """task: sandbox
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{answers}}}}"
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def questions() -> list[dict[str, Any]]:
    """Requests of the sandbox, each with a good, a mixed and a bad answer of its writers; the good one is right."""
    rng, rows = random.Random(0), []
    for place, group in enumerate(World(0).prompts("test", 7, 0)):
        answers = [compose(group.columns, style, rng) for style in (GOOD, MIXED, BAD)]
        right = place % 3
        rows.append({"question": last_content(group.prompt), "answers": answers[-right:] + answers[:-right],
                     "right": right})  # fmt: skip
    return rows


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("before", "after")):
        tiny_model(tmp_path / name, context=1024, seed=seed)
    write_rows(tmp_path / "rows.jsonl", questions())
    (tmp_path / "sandbox.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "1?"}, {"prompt": "2?"}])
    return tmp_path


def right_answers(folder: Path) -> list[float]:
    """By transformers alone: is the right answer's log-probability after question and space the highest?"""
    model, tokenizer = load_policy(str(folder)), load_tokenizer(str(folder))
    found = []
    for row in questions():
        question = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
        sums = []
        for answer in row["answers"]:
            whole = tokenizer(f"{row['question']} {answer}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(logprobs[t - 1, whole[t]].item() for t in range(len(question), len(whole))))
        found.append(float(max(range(3), key=sums.__getitem__) == row["right"]))
    return found


WORDS = ["eval", "--policy", "after", "--baseline", "before", "--data", "prompts.jsonl", "--max-new-tokens", "2"]
WORDS += ["--judge", "tests.unit.commands.test_evaluate:length", "--max-length", "64", "--lm-eval"]


def test_means_and_differences_are_those_of_the_models_log_probabilities(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said([*WORDS, "sandbox.yaml", "--output-dir", "out", "--json"], capsys)
    assert status == 0, err
    assert json.loads(out)["command"] == "eval"
    before, after = right_answers(here / "before"), right_answers(here / "after")
    (row,) = json.loads((here / "out/evaluation.json").read_text())["lm_eval"]["tasks"]
    assert (row["task"], row["metric"]) == ("sandbox", "acc")
    assert row["policies"]["before"]["mean"]["value"] == pytest.approx(sum(before) / 7)
    assert row["policies"]["after"]["mean"]["value"] == pytest.approx(sum(after) / 7)
    assert row["policies"]["after"]["difference"]["value"] == pytest.approx((sum(after) - sum(before)) / 7)
    assert "minus before" in (here / "out/table.txt").read_text()


def test_a_limit_asks_the_first_questions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said([*WORDS, "sandbox.yaml", "--lm-eval-limit", "2", "--output-dir", "out"], capsys)
    assert status == 0, err
    (row,) = json.loads((here / "out/evaluation.json").read_text())["lm_eval"]["tasks"]
    assert row["policies"]["before"]["mean"]["n"] == 2
    assert row["policies"]["before"]["mean"]["value"] == pytest.approx(sum(right_answers(here / "before")[:2]) / 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.yaml"], "no such task file"),
        (["no_such_task_of_the_harness"], "has no task"),
    ],
)
def test_a_task_that_is_not_there_is_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, _, err = said([*WORDS, *words], capsys)
    assert status == 2
    assert message in err


def test_options_without_effect_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said([*WORDS[:-1], "--lm-eval-limit", "3"], capsys)
    assert status == 2
    assert "lm_eval_limit has no effect" in err
    write_rows(here / "answers.jsonl", [{"prompt": f"{i}?", "completion": "x"} for i in (1, 2)])
    words = [("answers.jsonl" if word == "before" else word) for word in WORDS]
    status, _, err = said([*words, "sandbox.yaml"], capsys)
    assert status == 2
    assert "the baseline is a file" in err


def sample(number: int, **values: object) -> dict[str, object]:
    return {"doc_id": number, "filter": "none", "metrics": list(values), **values}


def test_questions_are_in_order_and_only_metrics_of_single_questions_count() -> None:
    rows = [sample(1, acc=0.0, perplexity=(1.0, 2)), sample(0, acc=1.0, perplexity=(3.0, 4))]
    found = _questions({"t": rows}, {"t": {"acc,none": 0.5, "perplexity,none": 2.0}})
    assert found == ({("t", "acc"): [1.0, 0.0]}, [("t", "perplexity")])
    with pytest.raises(DataError, match="no metric that is the mean of one number for each question"):
        _questions({"t": [sample(0, perplexity=(1.0, 2))]}, {"t": {"perplexity,none": 2.0}})


def test_a_metric_whose_aggregate_is_not_the_mean_is_left_out_and_told() -> None:
    """A median, and a figure that one question lacks, among others that stay."""
    rows = [sample(i, acc=float(i == 2), delay=float(i**2), **({} if i else {"f1": 1.0})) for i in range(3)]
    asked = _questions({"t": rows}, {"t": {"acc,none": 1 / 3, "delay,none": 1.0, "f1,none": 1.0}})
    assert asked == ({("t", "acc"): [0.0, 0.0, 1.0]}, [("t", "delay"), ("t", "f1")])
    whole = {("t", "acc"): [1.0, 0.0, 1.0], ("t", "delay"): [1.0, 1.0, 1.0]}, [("t", "f1")]
    figures = as_figures({"a": whole, "b": asked}, "a")
    assert [row["metric"] for row in figures["tasks"]] == ["acc"]
    assert sorted(row["metric"] for row in figures["left_out"]) == ["delay", "f1"]
    assert "left out, because they are no mean over questions: t f1, t delay" in task_lines(figures, "a")[-1]


def test_a_paired_difference_is_by_question() -> None:
    figures = as_figures({"a": ({("t", "acc"): [0.0, 1.0, 0.0]}, []), "b": ({("t", "acc"): [1.0, 1.0, 1.0]}, [])}, "a")
    found = figures["tasks"][0]["policies"]["b"]["difference"]
    assert found["value"] == pytest.approx(2 / 3)
    assert found["standard_error"] == pytest.approx((((1 / 3) ** 2 * 2 + (2 / 3) ** 2) / 2 / 3) ** 0.5)
    assert all(len(line) <= 80 for line in task_lines(figures, "a"))
