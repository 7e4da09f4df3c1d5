"""eval in shards: its table is the whole command's to the byte, whoever did the work and died."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.evaluation.answers import Answers
from tests.support.cli import said
from tests.support.http import server
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

SUPPORT = "tests.support.sharding"
PROMPTS = 45
SCORED = ["--judge", f"{SUPPORT}:place", "--safety", f"{SUPPORT}:has_an_a", "--slices", "side"]
RESULTS = ("evaluation.json", "table.txt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 prompts, two models, and two files of completions, of which one lacks lengths in its last rows."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_model(folder / "one")
    tiny_model(folder / "two", seed=1)
    rows = [{"prompt": f"row {i + 40} " + "a" * (i % 7), "side": "left" if i % 3 else "right"} for i in range(PROMPTS)]
    write_rows(folder / "prompts.jsonl", rows)
    for name, more in (("short", 3), ("long", 8)):
        answers = [
            {
                "prompt": row["prompt"],
                "completion": " b" * (1 + (i * more) % 11 + k),
                "tokens": 5,
                "finish_reason": "stop",
            }
            for i, row in enumerate(rows)
            for k in range(2)
        ]
        if name == "long":
            answers[-1].pop("tokens")
        write_rows(folder / f"{name}.jsonl", answers)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def models(shared: Path, out: str, *more: Any) -> list[Any]:
    """Two models and best-of-2 of one of them: 135 rows, in three units that end within a policy's prompts."""
    argv = ["eval", "--baseline", shared / "one", "--policy", shared / "two", "--data", shared / "prompts.jsonl"]
    argv += ["--reward-model", f"{SUPPORT}:length", "--best-of-n", 2, "--samples-per-prompt", 2]
    argv += ["--max-new-tokens", 2, "--max-length", 64, "--seed", 3, "--device", "cpu"]
    return [*argv, "--output-dir", out, *more]


def files(shared: Path, out: str, *more: Any) -> list[Any]:
    argv = ["eval", "--baseline", shared / "short.jsonl", "--policy", shared / "long.jsonl"]
    return [*argv, "--data", shared / "prompts.jsonl", "--output-dir", out, *more]


def same(*names: str) -> bool:
    return all(Path(names[0], file).read_bytes() == Path(name, file).read_bytes() for file in RESULTS for name in names)


def test_one_process_for_each_shard_gives_the_whole_commands_table(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(models(shared, "whole", *SCORED), capsys)
    assert status == 0, err
    table = json.loads(Path("whole/evaluation.json").read_text())
    assert [row["name"] for row in table["policies"]] == ["one", "two", "best-of-2"]
    assert table["policies"][1]["kl"]["value"] > 0
    places = [max(map(max, row["sampled"]["scores"])) for row in table["policies"]]
    assert places == [2 * 45 - 1, 2 * 26 - 1, 37]  # units of 64 rows, and in a unit each policy by itself
    argv = models(shared, "parts", *SCORED, "--num-shards", 3)
    for shard, done in ((2, [2]), (0, [0, 2])):
        status, out, err = said([*argv, "--shard", shard, "--json"], capsys)
        assert status == 0, err
        assert (json.loads(out)["done"], json.loads(out)["evaluation"]) == (done, None)
    assert json.loads(said([*argv, "--status", "--json"], capsys)[1]) == json.loads(out)
    assert "3 shards: 2 done, 0 running, 1 waiting" in said([*argv, "--status"], capsys)[1]
    status, out, err = said([*argv, "--shard", 1], capsys)
    assert (status, "eval -> parts" in out) == (0, True), err
    assert same("whole", "parts")
    assert "nothing to do" in said([*argv, "--shard", 1], capsys)[2]


def test_a_pool_gives_the_whole_commands_table_though_a_worker_is_killed(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assent.commands.divided.cores", lambda: 2 * torch.get_num_threads())
    judged = ["--judge", f"{SUPPORT}:length_or_die_once"]
    Path("killed-once").touch()
    assert said(models(shared, "whole", *judged), capsys)[0] == 0
    Path("killed-once").unlink()
    status, _, err = said(models(shared, "parts", *judged, "--engine", "local", "--workers", 2), capsys)
    assert status == 0, err
    assert "SIGKILL" in Path("parts/shards/failures.jsonl").read_text()
    assert same("whole", "parts")


@pytest.mark.parametrize("shards", [1, 2])
def test_files_are_scored_in_shards_and_compared_when_these_are_joined(
    shards: int, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, judged in (("scored", SCORED), ("compared", ["--pair-judge", f"{SUPPORT}:shorter"])):
        assert said(files(shared, name, *judged), capsys)[0] == 0
        status, _, err = said(files(shared, f"{name}-in-shards", *judged, "--num-shards", shards), capsys)
        assert status == 0, err
        assert same(name, f"{name}-in-shards")
    short, long = json.loads(Path("scored/evaluation.json").read_text())["policies"]
    assert (short["sampled"]["length"]["value"], long["sampled"]["length"]) == (5, None)  # one row lacks it
    assert json.loads(Path("compared/evaluation.json").read_text())["judge"]["calls"] > 50


def test_a_judge_of_pairs_at_an_address_is_asked_once_though_the_join_is_repeated(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered: list[int] = []

    def judge(path: str, body: Any, headers: Any) -> tuple[int, Any]:
        if len(answered) == 40:
            answered.append(0)
            return 400, "no more today"
        answered.append(1)
        return 200, {"choices": [{"message": {"content": "A"}}]}

    with server(judge) as url:
        argv = files(shared, "out", "--pair-judge", f"{url}/v1", "--judge-model", "m", "--num-shards", 2)
        status, _, err = said(argv, capsys)
        assert (status, "no more today" in err) == (3, True), err
        first = Path("out/shards/00000.jsonl").stat().st_mtime_ns
        status, _, err = said(argv, capsys)
        assert (status, "answers of servers are kept from before" in err) == (0, True), err
    assert Path("out/shards/00000.jsonl").stat().st_mtime_ns == first
    calls = json.loads(Path("out/evaluation.json").read_text())["judge"]["calls"]
    assert sum(answered) == len(read_rows(Path("out/judgements.jsonl"))) <= calls


def test_a_prompt_that_one_policy_fails_on_is_left_out_for_all_and_taken_again(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(shared / "long.jsonl")
    rows[40]["completion"] = " poison"  # of prompt 20
    write_rows(tmp_path / "long.jsonl", rows)
    argv = files(shared, "out", "--judge", f"{SUPPORT}:length_but_poison", "--num-shards", 2, "--json")
    argv[argv.index("--policy") + 1] = tmp_path / "long.jsonl"
    status, out, err = said(argv, capsys)
    assert (status, json.loads(out)["apart"]) == (1, 1), err
    assert "1 of 45 prompts are left out" in err
    [apart] = read_rows(Path("out/apart.jsonl"))
    assert apart["source"].startswith("long: ")
    assert apart["source"].endswith("prompts.jsonl:21")
    table = json.loads(Path("out/evaluation.json").read_text())
    assert (table["num_prompts"], [len(row["sampled"]["scores"]) for row in table["policies"]]) == (44, [44, 44])
    assert all(not sample["prompt"].startswith("row 60 ") for sample in table["samples"])
    Path("mended").touch()
    status, out, err = said(argv, capsys)
    assert (status, "apart" in json.loads(out)) == (0, False), err
    argv = argv[: argv.index("--num-shards")]
    argv[argv.index("--output-dir") + 1] = "whole"
    assert said(argv, capsys)[0] == 0
    assert same("whole", "out")
    assert not Path("out/apart.jsonl").exists()


def test_what_cannot_be_in_shards_is_refused(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = files(shared, "out", *SCORED, "--num-shards", 2)
    at = nowhere.index("--output-dir")
    status, _, err = said(nowhere[:at] + nowhere[at + 2 :], capsys)
    assert (status, "need output_dir" in err) == (2, True), err
    of_pairs = ["eval", "--reward-model", f"{SUPPORT}:length", "--data", shared / "prompts.jsonl", "--num-shards", 2]
    status, _, err = said(of_pairs, capsys)
    assert (status, "num_shards has no effect without policies" in err) == (2, True), err


def test_answers_of_prompts_are_those_that_were_told_by_prompt() -> None:
    """What one prompt lacks is unknown for all of them; of a measure, for that prompt's answers."""
    one = Answers(prompt_index=[0, 0, 1], texts=["a", "b", "c"], tokens=[1, 2, 3], scores=[0.1, 0.2, 0.3])
    one.measures = {"safe": [1.0, None, 0.0]}
    assert Answers.of_prompts(one.by_prompt(2)) == one
    other = Answers(prompt_index=[0], texts=["d"], scores=[0.4], measures={"kind": [0.5]})
    both = Answers.of_prompts([*one.by_prompt(2), *other.by_prompt(1)])
    assert (both.prompt_index, both.texts, both.tokens) == ([0, 0, 1, 2], ["a", "b", "c", "d"], None)
    assert both.measures == {"safe": [1.0, None, 0.0, None], "kind": [None, None, None, 0.5]}
