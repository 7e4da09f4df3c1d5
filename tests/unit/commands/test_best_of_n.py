"""best-of-n and sample by the command line: the n for a gain, samples at hand, blanks, blocks, mixing, RAFT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assent.data.loading import load_groups
from tests.support.cli import files_in, said
from tests.support.models import tiny_model
from tests.support.rows import answer, demonstrations, question, read_rows, write_rows

SAMPLING = ["--max-new-tokens", 6, "--max-length", 64, "--seed", 3, "--device", "cpu"]
LETTERS = ["--reward", "tests.unit.commands.test_best_of_n:letters"]


def letters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(sum(c.isalpha() for c in text)) for text in completions]


def blanks(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A reward that pays for the lack of visible characters."""
    return [float(not text.strip()) for text in completions]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl", count=4)
    tiny_model(folder / "model")
    rows = (
        {"prompt": question(i), "completions": [answer("a" * ((i + k) % 4 + 1)) for k in range(4)],
         "scores": [float((i + k) % 4) for k in range(4)]}
        for i in range(5)
    )  # fmt: skip
    write_rows(folder / "scored.jsonl", rows)
    return folder


def sampling(shared: Path, out: Path) -> list[object]:
    return ["--model", shared / "model", "--data", shared / "demonstrations.jsonl", "--output-dir", out, *SAMPLING]


def test_the_n_for_a_gain_is_the_smallest_that_reaches_it(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores 0, 1, 2, 3 in some order for each prompt: N (M + 1)/(N + 1) - 1 of all subsets, 1.5, 2.33…, 2.75, 3."""
    argv = ["best-of-n", "--samples", shared / "scored.jsonl", "--json"]
    status, out, err = said([*argv, "--gain", 0.6, "--output-dir", tmp_path / "a"], capsys)
    document = json.loads(out)
    assert (status, document["n"], document["gain_reached"]) == (0, 2, True)
    assert [p["score"]["value"] for p in document["curve"]] == pytest.approx([1.5, 5 * 2 / 3 - 1, 5 * 3 / 4 - 1, 3.0])
    assert [row["score"] for row in read_rows(document["completions"])] == [1.0, 2.0, 3.0, 3.0, 1.0]  # of the first two
    assert document["metrics"]["mean_reward"] == 2.0
    assert document["metrics"]["cost/reward_calls"] == document["metrics"]["cost/flops"] == 0
    assert "best of 2 scores 0.83" in err
    status, out, err = said([*argv, "--gain", 1.6, "--output-dir", tmp_path / "b"], capsys)
    document = json.loads(out)
    assert (status, document["n"], document["gain_reached"]) == (1, 4, False)
    assert "raise --n" in err
    argv.remove("--json")
    status, out, _ = said([*argv, "--gain", 1.6, "--n", 3, "--output-dir", tmp_path / "c"], capsys)
    assert status == 1
    assert "no n reaches a gain of 1.6: raise --n" in out
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["--samples", "scored.jsonl", "--n", 5], ["fewer completions than n", "got:      4", "at least 5"]),
        (["--samples", "demonstrations.jsonl", *LETTERS], ["fewer completions than n", "demonstrations.jsonl:1"]),
        (["--samples", "twice.jsonl"], ["twice.jsonl:1", "no scores", "--reward"]),
        (["--samples", "scored.jsonl", "--model", "model"], ["model has no effect with samples"]),
        (["--samples", "scored.jsonl", "--seed", 1], ["seed has no effect with samples"]),
        (["--samples", "scored.jsonl", "--max-new-tokens", 9], ["max_new_tokens has no effect with samples"]),
        (["--model", "model", "--data", "demonstrations.jsonl"], ["reward missing"]),
        (["--block-size", 2, "--gain", 1, "--samples", "scored.jsonl"], ["no effect with"]),
        (["--model", "model", "--data", "scored.jsonl", *LETTERS, "--block-size", 256], ["below max_new_tokens"]),
        (["--model", "model", "--data", "scored.jsonl", *LETTERS, "--realignment", 2], ["need each other"]),
        (["--samples", "scored.jsonl", "--reward-ensemble", "min"], ["reward_ensemble has no effect without reward"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    given: list[object], parts: list[str], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(shared)
    rows = [{"prompt": question(1), "completion": answer(text)} for text in "ab"]
    write_rows(shared / "twice.jsonl", rows)
    status, out, err = said(["best-of-n", *given, "--output-dir", tmp_path / "out"], capsys)
    assert (status, out, err.count("error: ")) == (2, "", 1)
    for part in parts:
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--keep", "best", "--num-completions", 4], "keep best needs reward"),
        (["--keep", "best", *LETTERS], "num_completions of at least 2"),
        (LETTERS, "reward has no effect with keep all"),
        (["--reference", "model"], "need each other"),
    ],
)
def test_sample_refuses_what_has_no_effect(
    given: list[object], part: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(["sample", *sampling(shared, tmp_path / "out"), *given], capsys)
    assert (status, part in err) == (2, True), err


def test_best_of_sampled_is_best_of_the_same_samples_at_hand_in_either_layout(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["best-of-n", *sampling(shared, tmp_path / "a"), *LETTERS, "--n", 4, "--json"]
    whole = json.loads(said(first, capsys)[1])
    drawn = ["sample", *sampling(shared, tmp_path / "s"), "--num-completions", 4, "--json"]
    rows = json.loads(said(drawn, capsys)[1])["completions"]
    assert whole["metrics"]["rollout/blank"] == 0  # else the files would hold less than was scored
    for number, (samples, reward) in enumerate(
        ((whole["candidates"], []), (whole["candidates"], LETTERS), (rows, LETTERS))
    ):
        again = ["best-of-n", "--samples", samples, *reward, "--output-dir", tmp_path / f"b{number}", "--json"]
        status, out, err = said(again, capsys)
        assert status == 0, err
        document = json.loads(out)
        for ours, theirs in zip(document["curve"], whole["curve"], strict=True):
            assert {**ours, "kl_nats": 0} == {**theirs, "kl_nats": 0}
            kls = [point["kl_nats"]["value"] for point in (ours, theirs)]
            assert kls[0] == pytest.approx(kls[1], abs=0.3)  # of a file no probability is known
        assert [r["completion"] for r in read_rows(document["completions"])] == [
            r["completion"] for r in read_rows(whole["completions"])
        ]
        assert document["metrics"]["cost/reward_calls"] == (16 if reward else 0)
    before = files_in(tmp_path / "b0")["completions.jsonl"]
    argv = ["best-of-n", "--samples", whole["candidates"], "--output-dir", tmp_path / "b0"]
    assert "finished" in said(argv, capsys)[2]
    assert files_in(tmp_path / "b0")["completions.jsonl"] == before


def test_blank_completions_are_in_no_file_and_counted(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what is sampled is blank, and the reward likes that: it must not become data."""
    from dataclasses import replace

    from assent.rollouts.torch_sampler import TorchSampler

    real = TorchSampler.sample

    def half(self: TorchSampler, *args: Any, **keywords: Any) -> Any:
        drawn = real(self, *args, **keywords)
        return [replace(r, text=" \n" if r.completion_index % 2 or r.prompt_index == 0 else "seen") for r in drawn]

    monkeypatch.setattr(TorchSampler, "sample", half)
    paid = ["--reward", "tests.unit.commands.test_best_of_n:blanks"]
    status, out, err = said(["best-of-n", *sampling(shared, tmp_path / "a"), *paid, "--n", 4, "--json"], capsys)
    assert status == 0, err
    document = json.loads(out)
    assert document["metrics"]["rollout/blank"] == 4 + 3 * 2
    assert read_rows(document["completions"]) == []  # the best is blank everywhere
    assert [len(group.completions) for group in load_groups(document["candidates"])] == [2, 2, 2]
    assert "4 of 4 completions have no visible character" in err
    keep = ["sample", *sampling(shared, tmp_path / "s"), *paid, "--num-completions", 4, "--keep", "best", "--json"]
    status, out, err = said(keep, capsys)
    assert status == 0, err
    assert [row["completion"][0]["content"] for row in read_rows(json.loads(out)["completions"])] == ["seen"] * 3
    assert "1 of 4 prompts have no completion with a visible character" in err
    plain = ["sample", *sampling(shared, tmp_path / "p"), "--num-completions", 2, "--json"]
    assert len(load_groups(json.loads(said(plain, capsys)[1])["completions"])) == 3


def test_sft_on_what_sample_keeps_is_raft(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = ["sample", *sampling(shared, tmp_path / "s"), *LETTERS, "--num-completions", 8, "--keep", "best", "--json"]
    status, out, err = said(keep, capsys)
    assert status == 0, err
    document = json.loads(out)
    rows = read_rows(document["completions"])
    assert [row["reward"] for row in rows] == letters([], [row["completion"][0]["content"] for row in rows])
    best = ["best-of-n", *sampling(shared, tmp_path / "b"), *LETTERS, "--n", 8, "--json"]
    assert [r["score"] for r in read_rows(json.loads(said(best, capsys)[1])["completions"])] == [
        r["reward"] for r in rows
    ]
    assert document["metrics"]["cost/reward_calls"] == document["metrics"]["cost/completions_sampled"] == 32
    sft = ["sft", "--model", shared / "model", "--data", document["completions"], "--output-dir", tmp_path / "sft"]
    status, _, err = said([*sft, "--max-length", 64, "--max-steps", 1], capsys)
    assert status == 0, err


def test_a_prompt_that_stands_twice_is_one_unit_of_the_intervals(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "data.jsonl", [{"prompt": question(i)} for i in (0, 1, 0)])
    given = ["--model", shared / "model", "--data", tmp_path / "data.jsonl", "--output-dir", tmp_path / "out"]
    status, out, err = said(["best-of-n", *given, *SAMPLING, *LETTERS, "--n", 2, "--json"], capsys)
    assert status == 0, err
    point = json.loads(out)["curve"][1]
    assert [(point[name]["n"], point[name]["clusters"]) for name in ("score", "gain", "kl_nats")] == [(3, 2)] * 3


def test_blocks_mixing_and_soft_choice(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["best-of-n", *sampling(shared, tmp_path / "blocks"), *LETTERS, "--n", 3, "--block-size", 2, "--json"]
    document = json.loads(said(argv, capsys)[1])
    rows = read_rows(document["completions"])
    assert [row["score"] for row in rows] == letters([], [row["completion"][0]["content"] for row in rows])
    assert all(row["tokens"] <= 6 for row in rows)
    assert document["metrics"]["cost/completions_sampled"] % 3 == 0
    assert document["metrics"]["cost/completions_sampled"] > 4 * 3
    bound = document["kl_nats_upper_bound"]
    assert bound > 0
    assert f"KL at most {bound:.2f} nats" in said(argv[:-1], capsys)[1]  # of the finished run, as text
    other = shared / "reference"
    if not other.exists():
        shutil.copytree(shared / "model", other)
    mixed = ["sample", *sampling(shared, tmp_path / "mixed"), "--reference", other, "--realignment", 3, "--json"]
    plain = ["sample", *sampling(shared, tmp_path / "plain"), "--json"]
    two, one = (json.loads(said(argv, capsys)[1]) for argv in (mixed, plain))
    assert [r["completion"] for r in read_rows(two["completions"])] == [
        r["completion"] for r in read_rows(one["completions"])
    ]
    assert two["metrics"]["cost/models_resident"] == 2
    assert two["metrics"]["cost/flops"] == 2 * one["metrics"]["cost/flops"]
    soft = ["best-of-n", "--samples", shared / "scored.jsonl", "--soft-temperature", 100.0, "--json"]
    found = [
        json.loads(said([*soft, "--seed", seed, "--output-dir", tmp_path / f"soft{seed}"], capsys)[1])
        for seed in (1, 2)
    ]
    kept = [[row["score"] for row in read_rows(one["completions"])] for one in found]
    assert kept[0] != kept[1]
    assert min(kept[0]) < 3  # nearly an even draw of four
    assert found[0]["curve"][3]["kl_nats"] is None
    cold = [*soft[:-2], 1e-3, "--output-dir", tmp_path / "cold", "--json"]
    assert [row["score"] for row in read_rows(json.loads(said(cold, capsys)[1])["completions"])] == [3.0] * 5
