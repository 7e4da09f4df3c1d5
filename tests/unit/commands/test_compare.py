"""compare by the command line, on a tiny model: what is spent is what was allowed, and the table says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.commands.compare import Made, _row
from assent.config.compare import CompareConfig
from assent.types import PromptGroup
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations

OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 2},
    "dpo": {"batch_size": 2, "beta": 0.2},
    "reward": {"batch_size": 2},
    "ppo": {"batch_size": 2, "num_completions": 1, "total_steps": 1},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl", count=8)
    comparisons(folder / "pairs.jsonl", count=12)
    comparisons(folder / "test.jsonl", count=3, first=20)
    tiny_model(folder / "model")
    return folder


def argv(shared: Path, out: Path, methods: str, budget: str, amounts: str, **options: Any) -> list[object]:
    given = ["compare", "--methods", methods, "--model", shared / "model", "--data", shared / "pairs.jsonl"]
    given += ["--test-data", shared / "test.jsonl", "--judge", "tests.support.stages:brevity", "--budget", budget]
    given += ["--amounts", amounts, "--output-dir", out, "--max-length", 64, "--max-new-tokens", 4, "--device", "cpu"]
    given += ["--samples-per-prompt", 2]
    for name, part in (options or OPTIONS).items():
        given += [f"--options.{name}", json.dumps(part)]
    return given


def by_method(document: dict[str, Any], amount: float) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in document["rows"] if row["amount"] == amount}


def test_methods_get_equal_numbers_of_labels(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    methods = "sft,dpo,ppo,best-of-n,sft+dpo"
    given = [*argv(shared, tmp_path / "out", methods, "labels", "4,8"), "--n", 3]
    status, out, err = said([*given, "--json"], capsys)
    assert status == 0, err
    document = json.loads(out)
    for amount in (4, 8):
        rows = by_method(document, amount)
        assert list(rows) == ["start", *methods.split(",")]
        assert [row["labels"] for row in rows.values()] == [0, *[amount] * 5]
        # two of each comparison; a round of ppo samples 2; best-of-n 3 for each of 3 test prompts
        sampled = [0, 2 * amount, 2 * amount, 2 * amount + 2, 2 * amount + 9, 2 * amount]
        assert [row["completions"] for row in rows.values()] == sampled
        assert rows["sft+dpo"]["flops"] > rows["dpo"]["flops"] > 0
        assert rows["best-of-n"]["n"] == 3
        assert rows["start"]["win_rate"] is None
        for row in rows.values():
            assert row["score"]["n"] == (3 if row["method"] == "best-of-n" else 6)  # 3 prompts, 2 answers
            assert row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]
    assert by_method(document, 4)["start"]["kl_nats"] == pytest.approx(0, abs=1e-5)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"] == document["rows"]
    again = said(given, capsys)
    assert again[0] == 0
    assert "equal labels: 8" in again[1]
    assert "best-of-n (3)" in again[1]
    assert "nothing to do" in again[2]  # the runs are not repeated
    few = (tmp_path / "out" / "seed-0" / "4" / "dpo-dpo.jsonl").read_text().splitlines()
    more = (tmp_path / "out" / "seed-0" / "8" / "dpo-dpo.jsonl").read_text().splitlines()
    assert (len(few), more[:4]) == (4, few)


def test_a_test_prompt_that_stands_twice_is_one_unit_of_the_intervals() -> None:
    given: dict[str, Any] = dict.fromkeys(("model", "data", "test_data", "output_dir"), "x")
    config = CompareConfig(methods=["dpo"], budget="labels", amounts=[4], judge="module:function", **given)
    made = Made(model="x", scores=[(1.0, 0.0), (0.0, 0.5), (1.0, 0.0)])
    row = _row(config, 4, "dpo", [made], [made], [PromptGroup(prompt=text) for text in "aba"])
    assert (row["score"]["n"], row["score"]["clusters"], row["win_rate"]["clusters"]) == (6, 2, 2)


def test_seeds_are_repetitions_with_other_rows(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    given = argv(shared, tmp_path / "out", "sft+dpo", "labels", "6", sft=OPTIONS["sft"], dpo=OPTIONS["dpo"])
    given += ["--demonstrations", shared / "demonstrations.jsonl", "--demonstration-cost", 3, "--num-seeds", 2]
    status, out, err = said([*given, "--json"], capsys)
    assert status == 0, err
    start, one = json.loads(out)["rows"]
    assert (one["labels"], one["completions"], one["score"]["n"], start["score"]["clusters"]) == (6, 6, 12, 2)
    read = [(tmp_path / "out" / f"seed-{s}" / "6" / "sft+dpo-dpo.jsonl").read_text().splitlines() for s in (0, 1)]
    assert (len(read[0]), len(read[1])) == (3, 3)  # half on one demonstration, half on three comparisons
    assert set(read[0]) != set(read[1])


def test_equal_flops_and_completions_are_met_within_a_step(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    trimmed = {name: {k: v for k, v in part.items() if k != "total_steps"} for name, part in OPTIONS.items()}
    amount = 2.4e8
    given = argv(shared, tmp_path / "flops", "sft,dpo,ppo,best-of-n", "flops", str(amount), **trimmed)
    status, out, err = said([*given, "--json"], capsys)
    assert status == 0, err
    rows = by_method(json.loads(out), amount)
    spent = {name: row["flops"] / amount for name, row in rows.items() if name != "start"}
    assert all(0.65 < share < 1.1 for share in spent.values()), spent
    given = argv(shared, tmp_path / "sampled", "dpo,ppo,best-of-n", "completions", "16",
                 **{name: trimmed[name] for name in ("dpo", "reward", "ppo")})  # fmt: skip
    status, out, err = said([*given, "--json"], capsys)
    assert status == 0, err
    rows = by_method(json.loads(out), 16)
    # best-of-n: 4 comparisons, and of 8 completions 2 for each of 3 prompts
    assert {name: row["completions"] for name, row in rows.items()} == {
        "start": 0, "dpo": 16, "ppo": 16, "best-of-n": 8 + 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"amounts": "13"}, ["more comparisons than the data has", "got:      12", "at least 13"]),
        ({"dpo": {"bta": 1}}, ["bta", "beta", "dpo"]),
        ({"judge": "no.module:f"}, ["no.module"]),
        ({"data": "demonstrations.jsonl"}, ["not a comparison"]),
    ],
)
def test_bad_input_writes_nothing(
    change: dict[str, Any], parts: list[str], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dpo": change.pop("dpo", {})}
    given = argv(shared, tmp_path / "out", "dpo", "labels", change.pop("amounts", "4"), **options)
    for name, value in change.items():
        given[given.index(f"--{name}") + 1] = shared / value if name == "data" else value
    status, out, err = said(given, capsys)
    assert (status, out) == (2, ""), err
    for part in parts:
        assert part in err, err
    assert not (tmp_path / "out").exists()
