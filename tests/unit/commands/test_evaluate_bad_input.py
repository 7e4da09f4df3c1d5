"""`assent eval` against judges, files and options that are odd or wrong: what it says, and that nothing is silent."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import answer, comparisons, question, write_rows

HERE = "tests.unit.commands.test_evaluate_bad_input"


def length(prompts, completions):
    return [float(len(completion)) for completion in completions]


def beyond_floats(prompts, completions):
    return [10**400] * len(completions)


def near_the_largest_float(prompts, completions):
    return [1.5e308 * (-1) ** i for i, _ in enumerate(completions)]


def leaves(prompts, completions):
    sys.exit(0)


def leaves_pairs(prompts, first, second):
    sys.exit(0)


def first_of_all(prompts, first, second):
    return ["A"] * len(prompts)


def safety_nan(prompts, completions, groups):
    return [{"harm_in_answer": math.nan} for _ in completions]


def safety_beyond_floats(prompts, completions, groups):
    return [{"harm_in_answer": 10**400} for _ in completions]


def safety_without_names(prompts, completions, groups):
    return [{1: True} for _ in completions]


def safety_leaves(prompts, completions, groups):
    sys.exit(0)


def safety_of_two(prompts, completions):
    return [{"harm_in_answer": False} for _ in completions]


def safety_numpy(prompts, completions, groups):
    return [{"harm_in_answer": np.bool_(True), "words": np.int64(2), "share": np.float32(0.5)} for _ in completions]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": question(i), "topic": "few" if i < 3 else "b"} for i in range(8)]
    )
    for name, text in {"x": "it is surely {}", "y": "no {}"}.items():
        rows = [{"prompt": question(i), "completion": answer(text.format(i))} for i in range(8)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def compare(*more: object) -> list[object]:
    return ["eval", "--policy", "x.jsonl", "--baseline", "y.jsonl", "--data", "prompts.jsonl", *more]


def judged(*more: object) -> list[object]:
    return compare("--judge", f"{HERE}:length", *more)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (compare("--judge", f"{HERE}:beyond_floats"), ["returned inf", "completion 'no 0'", "a finite number"]),
        (compare("--judge", f"{HERE}:near_the_largest_float"), ["returned 1.5e+308", "completion 'no 0'", "3.4e+38"]),
        (compare("--judge", f"{HERE}:leaves"), [f"{HERE}:leaves raised RuntimeError: sys.exit(0)"]),
        (compare("--pair-judge", f"{HERE}:leaves_pairs"), [f"{HERE}:leaves_pairs raised SystemExit: 0"]),
        (judged("--safety", f"{HERE}:safety_leaves"), ["safety_leaves raised SystemExit: 0"]),
        (judged("--safety", f"{HERE}:safety_nan"), ["safety function", "completion 'no 0'", "nan", "a finite number"]),
        (judged("--safety", f"{HERE}:safety_beyond_floats"), ["safety function", "completion 'no 0'"]),
        (judged("--safety", f"{HERE}:safety_without_names"), ["safety function", "{1: True}"]),
    ],
    ids=lambda value: str(value[-1]).rpartition(":")[2] if "eval" in value else None,
)
def test_a_judge_that_does_what_it_must_not_stops_the_run_and_is_named(
    argv: list[object], parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(argv, capsys)
    assert (status, out) == (3, ""), err
    for part in parts:
        assert part in err
    assert "unexpected" not in err


def test_figures_of_numpy_are_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(judged("--safety", f"{HERE}:safety_numpy", "--json"), capsys)
    assert status == 0, err
    safety = json.loads(out)["figures"]["policies"][0]["sampled"]["safety"]
    assert {name: one["value"] for name, one in safety.items()} == {"harm_in_answer": 1, "words": 2, "share": 0.5}


def bad_labels(here: Path) -> Path:
    path = here / "labels.json"
    path.write_text('{"ceiling": 1}')
    return path


def pairs(here: Path, *more: object) -> list[object]:
    options = ["--reward-model", f"{HERE}:length", "--reward-pairs", comparisons(here / "pairs.jsonl")]
    return judged(*options, *more)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (lambda here: judged("--safety", f"{HERE}:safety_of_two"), ["cannot be called with prompts, completions and"]),
        (lambda here: judged("--seed", 4), ["seed has no effect", "files of completions"]),
        (lambda here: [*pairs(here)[:-1], "nosuch.jsonl"], ["there is no file nosuch.jsonl"]),
        (lambda here: [*pairs(here)[:-1], "prompts.jsonl"], ["is neither a comparison nor a ranking"]),
        (lambda here: pairs(here, "--slices", "topic"), ["pairs.jsonl:1 has no column topic", "that every row has"]),
        (lambda here: pairs(here, "--labels", "nosuch.json"), ["the noise ceiling cannot be read", "nosuch.json"]),
        (lambda here: pairs(here, "--labels", bad_labels(here)), ["the noise ceiling cannot be read", "labels.json"]),
        (lambda here: ["nosuch.jsonl" if a == "x.jsonl" else a for a in judged()], ["there is no file nosuch.jsonl"]),
        (lambda here: ["./y.jsonl" if a == "x.jsonl" else a for a in judged()], ["name the same thing twice"]),
        (
            lambda here: (
                ["--policies.a" if a == "--policy" else "a" if a == "y.jsonl" else a for a in judged()]
                + ["--precision", "0.1"]
            ),
            ["precision needs two policies"],
        ),
    ],
)
def test_what_has_no_effect_or_cannot_be_read_is_refused_before_anything_is_judged(
    argv: Any, parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said([*argv(here), "--output-dir", "out"], capsys)
    assert (status, out) == (2, ""), err
    for part in parts:
        assert part in err
    assert "evaluation:" not in err  # no policy had its turn
    assert not (here / "out").exists()


def test_a_prompt_as_text_is_not_one_as_messages_and_the_message_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(here / "x.jsonl", [{"prompt": question(i)[0]["content"], "completion": "a"} for i in range(8)])
    status, _, err = said(judged(), capsys)
    assert status == 2
    assert "whose first is 'what is 0 plus 0?'\n" in err
    assert "the first of which is 'what is 0 plus 0?' (messages)" in err


def test_nothing_but_ties_is_no_certainty(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(here / "z.jsonl", [{"prompt": question(i), "completion": answer("z" * (i + 1))} for i in range(8)])
    argv = compare("--pair-judge", f"{HERE}:first_of_all", "--against", "z.jsonl")
    policies = json.loads(said([*argv, "--json"], capsys)[1])["figures"]["policies"]
    for policy in policies[1:]:
        assert policy["sampled"]["win_rate"]["value"] == 0.5
        assert policy["sampled"]["length_controlled"] is None
        assert abs(policy["rating"]["value"]) < 1e-6
        assert (policy["rating"]["low"], policy["rating"]["high"]) == (None, None)


def test_a_score_of_too_few_prompts_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(judged("--slices", "topic"), capsys)[1]
    row = next(line for line in out.splitlines() if line.startswith("few · y"))
    assert "4.00 (too few)" in row


def test_prompts_that_stand_twice_are_one_cluster(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(here / "tiny")
    write_rows(here / "prompts.jsonl", [{"prompt": question(i % 2)} for i in range(12)])
    options = ["--judge", f"{HERE}:length", "--max-length", 64, "--max-new-tokens", 4, "--samples-per-prompt", 1]
    argv = ["eval", "--policies.a", model, "--baseline", "a", "--data", "prompts.jsonl", *options]
    status, out, err = said([*argv, "--json"], capsys)
    assert status == 0, err
    sampled = json.loads(out)["figures"]["policies"][0]["sampled"]
    assert (sampled["gold"]["n"], sampled["gold"]["clusters"], sampled["k1"]["clusters"]) == (12, 2, 2)


def test_folders_that_are_no_policies_are_refused_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(here / "tiny")
    options = ["--max-length", 64, "--max-new-tokens", 4]
    data = ["--data", comparisons(here / "c.jsonl"), "--output-dir", "rm", "--max-steps", 1, "--max-length", 64]
    assert said(["reward", "--model", model, *data], capsys)[0] == 0
    argv = [model if a == "y.jsonl" else "rm/model" if a == "x.jsonl" else a for a in judged(*options)]
    status, _, err = said(argv, capsys)
    assert (status, "evaluation:" in err) == (2, False)
    assert "holds a reward model or critic, not a policy" in err
    status, _, err = said(["rm" if a == "rm/model" else a for a in argv], capsys)
    assert status == 2
    assert "this is the folder of a run, not of a model" in err
    assert f"give {Path('rm/model')}" in err
    status, _, err = said(compare("--judge", "rm/model", "--max-length", 32), capsys)
    assert (status, "max_length has no effect" in err) == (2, True)  # the judge has a length of its own
