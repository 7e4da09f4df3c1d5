"""`assent frontier` from the command line: checkpoints, proxies, files, the picture, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations

REWARDS = """
def gold(prompts, completions):
    return [text.count("e") - 0.02 * len(text) for text in completions]


def proxy(prompts, completions):
    return [text.count("e") + 0.01 * len(text) for text in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, prompts, two rewards, and runs of one and of three updates at the same constant rate."""
    path = tmp_path_factory.mktemp("frontier")
    demonstrations(path / "demonstrations.jsonl")
    tiny_model(path / "model", context=1024)
    comparisons(path / "pairs.jsonl")
    (path / "rewards_of_test.py").write_text(REWARDS)
    return path


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def train(command: str, name: str, *options: object, capsys: pytest.CaptureFixture[str]) -> str:
    data = "demonstrations.jsonl" if command == "sft" else "pairs.jsonl"
    fixed = ["--lr-scheduler-type", "constant", "--learning-rate", 0.01, "--batch-size", 2]
    argv = [command, "--model", "model", "--data", data, "--output-dir", name, *fixed, *options]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    return name


def frontier(name: str, *options: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    fixed = ["--reference", "model", "--data", "pairs.jsonl", "--gold", "rewards_of_test:gold"]
    status, out, err = said(
        ["frontier", "--output-dir", name, *fixed, "--max-new-tokens", 6, "--json", *options], capsys
    )
    assert status == 0, err
    document = json.loads(out)
    assert document["command"] == "frontier"
    return document | {"written": json.loads(Path(document["frontier"]).read_text())}


def test_checkpoints_of_runs_and_models_make_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = train("sft", "long", "--max-steps", 3, "--save-steps", 1, "--save-total-limit", 9, capsys=capsys)
    short = train("sft", "short", "--max-steps", 1, capsys=capsys)
    reward = train("reward", "rm", "--max-steps", 1, capsys=capsys)
    told = frontier(
        "out",
        *("--curves.sft", long, "--curves.mixed", "[model, short]", "--samples-per-prompt", 8, "--best-of-n", 8),
        *("--proxies.wrong", "rewards_of_test:proxy", "--proxies.rm", f"{reward}/model"),
        capsys=capsys,
    )
    found = told["written"]
    curves = {curve["name"]: curve for curve in found["methods"]}
    assert list(curves) == ["best-of-n wrong", "best-of-n rm", "sft", "mixed"]
    by_step = {point["step"]: point for point in curves["sft"]["points"]}
    assert sorted((point["label"], point["run"]) for point in by_step.values()) == [
        (f"step {step}", long) for step in (1, 2, 3)
    ]
    mixed = {point["label"]: point for point in curves["mixed"]["points"]}
    assert set(mixed) == {"model", "short step 1"}
    assert curves["sft"]["method"] == "sft"
    assert curves["best-of-n rm"]["pairs"] == 2  # the one update read two of six comparisons
    assert curves["best-of-n wrong"]["pairs"] is None
    assert [point["n"] for point in curves["best-of-n rm"]["points"]] == [1, 2, 3, 4, 6, 8]
    assert mixed["model"]["kl"]["value"] == pytest.approx(0.0, abs=1e-4)  # the reference itself
    d = [point["d"] for point in curves["sft"]["points"]]
    assert d == sorted(d)
    assert d[0] > 0.01
    assert len(set(d)) == 3
    # best-of-N never loses by its own proxy, whichever that is
    for curve in (curves["best-of-n wrong"], curves["best-of-n rm"]):
        own = [point["proxy"]["value"] for point in curve["points"]]
        assert own == sorted(own)
    assert {row["curve"] for row in found["at_equal_kl"]} == {"sft", "mixed"}
    # a checkpoint's weights are those of a run that ended there
    again = frontier("again", "--curves.sft", short, "--samples-per-prompt", 8, capsys=capsys)["written"]
    assert again["methods"][0]["points"][0]["kl"]["value"] == pytest.approx(by_step[1]["kl"]["value"], rel=1e-3)
    assert again["gold_at_reference"] != 0
    lines = told["lines"]
    assert max(map(len, lines)) <= 80
    assert Path(told["table"]).read_text().splitlines() == lines
    assert any(line.startswith("best-of-n wrong") for line in lines)
    ElementTree.fromstring(Path(told["picture"]).read_text())
    assert "var(--series-1)" in Path(told["picture"]).read_text()
    status, _, err = said(["frontier", "--output-dir", "out", "--sandbox"], capsys)
    assert (status, "error" in err) == (2, True)  # the folder holds another run


def test_a_curve_knows_the_proxy_that_it_was_trained_against(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("reward", "rm-own", "--max-steps", 2, capsys=capsys)
    options = ["--total-steps", 1, "--batch-size", 2, "--max-new-tokens", 4, "--reward", "rm-own/model"]
    argv = ["ppo", "--model", "model", "--data", "pairs.jsonl", "--output-dir", "ppo", *options]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    found = frontier(
        "known",
        *("--curves.ppo", "ppo", "--samples-per-prompt", 1, "--best-of-n", 4),
        *("--proxies.wrong", "rewards_of_test:proxy", "--proxies.own", "rm-own/model"),
        capsys=capsys,
    )["written"]
    ppo = found["methods"][-1]
    assert (ppo["proxy"], ppo["pairs"]) == ("own", 4)
    assert ppo["points"][0]["proxy"] is not None
    assert [row["best_of_n"] for row in found["at_equal_kl"]] in ([], ["best-of-n own"])


def test_an_adapter_s_checkpoints_are_measured_as_what_they_were(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's checkpoint after its first step is what a run of one step ends with."""
    train("sft", "lora-1", "--max-steps", 1, "--lora-r", 2, capsys=capsys)
    train("sft", "lora-3", "--max-steps", 3, "--lora-r", 2, "--save-steps", 1, "--save-total-limit", 9, capsys=capsys)
    options = ["--samples-per-prompt", 4]
    found = frontier("adapters", "--curves.sft", "lora-3", *options, capsys=capsys)["written"]["methods"][0]["points"]
    by_step = {point["step"]: point["kl"]["value"] for point in found}
    assert by_step.keys() == {1, 2, 3}
    assert len(set(by_step.values())) == 3
    short = frontier("adapter", "--curves.sft", "lora-1", *options, capsys=capsys)["written"]["methods"][0]["points"]
    assert by_step[1] == pytest.approx(short[0]["kl"]["value"], rel=1e-3)


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    status, out, err = said(["frontier", "--output-dir", "refused", *options], capsys)
    assert (status, out) == (2, "")
    assert not Path("refused").exists()
    return err


def test_what_cannot_be_measured_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--reference", "model", "--data", "pairs.jsonl", "--gold", "rewards_of_test:gold"]
    assert "data, gold missing: give it, or sandbox" in refused(capsys, "--reference", "model")
    assert "nothing to measure" in refused(capsys, *base)
    assert "best_of_n has no effect without proxies" in refused(capsys, *base, "--curves.a", "model", "--best-of-n", 4)
    proxies = ["--proxies.p", "rewards_of_test:proxy"]
    assert "samples_per_prompt has no effect" in refused(capsys, *base, *proxies, "--samples-per-prompt", 2)
    assert "data, gold, reference has no effect with sandbox" in refused(capsys, "--sandbox", *base)
    assert "fast has no effect without sandbox" in refused(capsys, *base, *proxies, "--fast")
    assert "no score head" in refused(capsys, *base, "--proxies.p", "model")
    assert "no folders" in refused(capsys, *base, "--curves.a", "[]")
    tiny_model(folder / "stranger", texts=["wholly other words"] * 9, context=1024)
    assert "another tokenizer" in refused(capsys, *base, "--curves.a", "stranger")
    train("sft", "one", "--max-steps", 1, capsys=capsys)
    manifest = json.loads(Path("one/run.json").read_text())
    Path("unfinished").mkdir()
    Path("unfinished/run.json").write_text(json.dumps(manifest | {"status": "running", "result": None}))
    assert "not a finished training run" in refused(capsys, *base, "--curves.a", "unfinished")


def test_a_prompt_that_stands_twice_is_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "twice.jsonl").write_text("".join(json.dumps({"prompt": f"{word} me"}) + "\n" for word in "abac"))
    argv = ["frontier", "--output-dir", "twice", "--reference", "model", "--data", "twice.jsonl", "--max-new-tokens", 6]
    argv += ["--gold", "rewards_of_test:gold", "--curves.start", "model", "--samples-per-prompt", 2]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    found = json.loads(Path("twice/frontier.json").read_text())
    assert found["num_prompts"] == 3
    gold = found["methods"][0]["points"][0]["gold"]
    assert (gold["n"], gold["clusters"]) == (4, 3)
