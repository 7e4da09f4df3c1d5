"""sample, best-of-n and score in shards: the joined file is the whole command's, whoever did the work and died."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

SUPPORT = "tests.support.sharding"
ROWS = 150
SAMPLING = ["--max-new-tokens", 3, "--max-length", 64, "--seed", 3, "--device", "cpu"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    tiny_model(folder / "model")
    write_rows(folder / "prompts.jsonl", [{"prompt": f"row {i} " + "a" * (i % 7)} for i in range(ROWS)])
    rows = [{"prompt": f"p {i}", "completion": f" row {i} " + "b" * (i % 5)} for i in range(600)]
    write_rows(folder / "completions.jsonl", rows)
    rows[300] = {**rows[300], "completion": " poison"}
    write_rows(folder / "poisoned.jsonl", rows)
    pairs = [{"prompt": f"p {i}", "chosen": " b" * (i % 4 + 1), "rejected": f" c {i}"} for i in range(300)]
    write_rows(folder / "pairs.jsonl", pairs)
    pairs[7] |= {"rejected": pairs[7]["chosen"]}  # refused at loading
    pairs[270] |= {"chosen": " b" * 99, "rejected": " b" * 98}  # the same when they are cut: refused by the reader
    write_rows(folder / "some-refused.jsonl", pairs)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sampling(shared: Path, out: Path) -> list[Any]:
    return ["--model", shared / "model", "--data", shared / "prompts.jsonl", "--output-dir", out, *SAMPLING]


def scoring(shared: Path, out: Path, reward: str, data: str = "completions") -> list[Any]:
    return ["score", "--data", shared / f"{data}.jsonl", "--output-dir", out, "--reward", f"{SUPPORT}:{reward}"]


COMMANDS = {
    "sample": ["sample", "--num-completions", 2],
    "sample best": ["sample", "--num-completions", 2, "--keep", "best", "--reward", f"{SUPPORT}:length"],
    "best-of-n": ["best-of-n", "--n", 2, "--reward", f"{SUPPORT}:length"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_one_process_for_each_shard_gives_the_whole_commands_bytes(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*COMMANDS[name], *sampling(shared, tmp_path / "whole"), "--json"]
    status, out, err = said(argv, capsys)
    assert status == 0, err
    whole = json.loads(out)
    argv = [*COMMANDS[name], *sampling(shared, tmp_path / "parts"), "--json", "--num-shards", 3]
    for shard, done in ((2, [2]), (0, [0, 2])):
        status, out, err = said([*argv, "--shard", shard], capsys)
        assert (status, json.loads(out)["done"]) == (0, done), err
    assert json.loads(said([*argv, "--status"], capsys)[1]) == json.loads(out)
    status, out, err = said([*argv, "--shard", 1], capsys)
    assert status == 0, err
    joined = json.loads(out)
    for file in ("completions", "candidates") if name == "best-of-n" else ("completions",):
        parts, all_at_once = (tmp_path / folder / f"{file}.jsonl" for folder in ("parts", "whole"))
        assert parts.read_bytes() == all_at_once.read_bytes()
    machine = ("cost/seconds", "cost/peak_memory_bytes")
    known, found = ({k: v for k, v in one["metrics"].items() if k not in machine} for one in (whole, joined))
    assert found == pytest.approx(known)


def test_a_pool_gives_the_whole_commands_bytes_though_a_worker_is_killed(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("killed-once").touch()
    assert said(scoring(shared, tmp_path / "whole", "length_or_die_once"), capsys)[0] == 0
    argv = scoring(shared, tmp_path / "parts", "length_or_die_once")
    (tmp_path / "killed-once").unlink()
    status, _, err = said([*argv, "--engine", "local", "--workers", 2], capsys)
    assert status == 0, err
    assert (tmp_path / "killed-once").exists()
    assert (tmp_path / "parts/scores.jsonl").read_bytes() == (tmp_path / "whole/scores.jsonl").read_bytes()
    assert "SIGKILL" in (tmp_path / "parts/shards/failures.jsonl").read_text()


def test_a_poisoned_row_is_named_and_kept_apart_and_taken_again(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*scoring(shared, tmp_path / "out", "length_but_poison", "poisoned"), "--num-shards", 2, "--json"]
    status, out, err = said(argv, capsys)
    assert (status, json.loads(out)["apart"]) == (1, 1), err
    [row] = read_rows(tmp_path / "out/apart.jsonl")
    assert row["source"].endswith("poisoned.jsonl:301")
    assert "poison" in row["error"]
    assert len(read_rows(tmp_path / "out/scores.jsonl")) == 599
    status, out, _ = said([*argv, "--status"], capsys)
    assert (status, json.loads(out)["apart"][0]["source"]) == (1, row["source"])
    Path("mended").touch()
    first = (tmp_path / "out/shards/00000.jsonl").stat().st_mtime_ns
    status, out, err = said(argv, capsys)
    assert (status, "apart" in json.loads(out)) == (0, False), err
    assert "nothing to do" not in err  # rows were apart, so it was not finished
    assert (tmp_path / "out/shards/00000.jsonl").stat().st_mtime_ns == first  # what is done is not repeated
    assert len(read_rows(tmp_path / "out/scores.jsonl")) == 600
    assert not (tmp_path / "out/apart.jsonl").exists()


@pytest.mark.parametrize("more", [["--num-shards", 2], ["--num-shards", 3], ["--engine", "local", "--workers", 1]])
def test_a_reward_that_sees_its_batch_gives_the_same_in_any_number_of_shards(
    more: list[Any], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(scoring(shared, tmp_path / "whole", "place"), capsys)[0] == 0
    status, _, err = said([*scoring(shared, tmp_path / "parts", "place"), *more], capsys)
    assert status == 0, err
    assert (tmp_path / "parts/scores.jsonl").read_bytes() == (tmp_path / "whole/scores.jsonl").read_bytes()
    assert max(row["score"] for row in read_rows(tmp_path / "whole/scores.jsonl")) == 255


@pytest.mark.parametrize("more", [[], ["--num-shards", 2]])
def test_score_tells_and_keeps_the_rows_that_it_refuses(
    more: list[Any], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: the same command has nothing left to try."""
    argv = ["score", "--data", shared / "some-refused.jsonl", "--logprobs", shared / "model", "--max-length", 64]
    argv += ["--output-dir", tmp_path / "out", *more]
    status, out, err = said([*argv, "--json"], capsys)
    assert (status, json.loads(out)["refused"]) == (0, 1), err
    assert "refused at loading, 1:" in err
    assert "rows: 298 of 299 used" in err
    [row] = read_rows(tmp_path / "out/apart.jsonl")
    assert row["source"].endswith("some-refused.jsonl:271")
    assert len(read_rows(tmp_path / "out/logprobs.jsonl")) == 298
    status, out, err = said(argv, capsys)
    assert (status, "nothing to do" in err, "1 rows were refused" in out) == (0, True, True), err


def test_where_no_prompt_can_be_worked_on_the_command_says_why(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "one.jsonl", [{"prompt": "row 0"}])
    for command in (["sample", "--num-completions", 2, "--keep", "best"], ["best-of-n", "--n", 2]):
        argv = [*command, *sampling(shared, tmp_path / command[0]), "--reward", f"{SUPPORT}:refusing"]
        argv[argv.index("--data") + 1] = tmp_path / "one.jsonl"
        status, _, err = said([*argv, "--num-shards", 1], capsys)
        assert (status, "no prompt could be worked on" in err, "ValueError: never" in err) == (3, True, True), err


def test_without_shards_a_poisoned_row_ends_the_command_and_is_named(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(scoring(shared, tmp_path / "out", "length_but_poison", "poisoned"), capsys)
    assert status == 3
    assert "poison" in err


def test_scores_can_be_read_by_the_commands_that_choose(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(scoring(shared, tmp_path / "scored", "length", "pairs"), capsys)[0] == 0
    rows = read_rows(tmp_path / "scored/scores.jsonl")
    assert rows[1] == {"prompt": "p 1", "completions": [" b b", " c 1"], "scores": [4.0, 4.0]}
    argv = ["best-of-n", "--samples", tmp_path / "scored/scores.jsonl", "--output-dir", tmp_path / "best"]
    assert said(argv, capsys)[0] == 0
    assert read_rows(tmp_path / "best/completions.jsonl")[3]["completion"] == " b b b b"


def test_log_probabilities_are_those_of_dpos_own_reference(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with logged numbers trains to the bit as one that reads the reference itself, on the same tokens."""
    read = ["score", "--data", shared / "pairs.jsonl", "--logprobs", shared / "model", "--max-length", 64]
    for name, more in (("whole", []), ("parts", ["--num-shards", 2])):
        status, _, err = said([*read, "--output-dir", tmp_path / name, *more], capsys)
        assert status == 0, err
    logged = tmp_path / "whole/logprobs.jsonl"
    assert logged.read_bytes() == (tmp_path / "parts/logprobs.jsonl").read_bytes()
    train = ["dpo", "--model", shared / "model", "--max-length", 64, "--max-steps", 2, "--batch-size", 4]
    for name, data in (("own", [shared / "pairs.jsonl"]), ("logged", [logged, "--reference", "logged"])):
        cache = [] if name == "logged" else ["--reference-cache", tmp_path / "cache"]
        status, _, err = said([*train, *cache, "--data", *data, "--output-dir", tmp_path / name], capsys)
        assert status == 0, err
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("own", "logged")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--shard", 0], "shard has no effect without num_shards"),
        (["--num-shards", 2, "--shard", 2], "counts from 0"),
        (["--num-shards", 2, "--shard", 0, "--engine", "local"], "leave one of them out"),
        (["--workers", 2], "workers has no effect without engine"),
        (["--status"], "status is about shards"),
        (["--num-shards", 9, "--shard", 8], "there is no such shard"),
        (["--max-length", 8], "max_length has no effect with reward"),
        (["--logprobs", "model"], "give either reward"),
    ],
)
def test_what_cannot_be_is_refused(
    given: list[Any], part: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said([*scoring(shared, tmp_path / "out", "length"), *given], capsys)
    assert (status, part in err) == (2, True), err


def test_shards_of_other_data_are_refused(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = scoring(shared, tmp_path / "out", "length")
    assert said([*argv, "--num-shards", 2, "--shard", 0], capsys)[0] == 0
    shutil.copy(shared / "poisoned.jsonl", tmp_path / "other.jsonl")
    argv[argv.index("--data") + 1] = tmp_path / "other.jsonl"
    status, _, err = said([*argv, "--num-shards", 2, "--shard", 1], capsys)
    assert (status, "hash of data" in err) == (2, True), err
    assert said([*scoring(shared, tmp_path / "out", "length"), "--num-shards", 3, "--shard", 1], capsys)[0] == 2
