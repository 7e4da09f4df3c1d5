"""`assent eval` goes on where it was interrupted: nothing that was paid for is asked again, nothing drawn twice."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from assent.rollouts.kept import KeptDraws
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.scripted import ScriptedSampler
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.kept import Kept
from tests.support.cli import said
from tests.support.http import server
from tests.support.models import tiny_model
from tests.support.rows import answer, question, write_rows

FAULTY: list[bool] = []


def fails_once(prompts, completions):
    """A judge that is not there when it is asked for the second time."""
    FAULTY.append(True)
    if len(FAULTY) == 2:
        raise RuntimeError("away")
    return [float(len(text)) for text in completions]


class Judge:
    """A chat model that prefers the shorter answer, counts what it answers, and may refuse after so many."""

    def __init__(self, *, until: int | None = None) -> None:
        self.until, self.answered, self.lock = until, 0, Lock()

    def __call__(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        with self.lock:
            if self.until is not None and self.answered >= self.until:
                return 400, "no more today"
            self.answered += 1
        if "prompts" in body:
            return 200, {"scores": [float(len(text)) for text in body["completions"]]}
        lines = body["messages"][1]["content"].splitlines()
        marks = [i for i, line in enumerate(lines) if line.startswith("===")]
        if len(marks) == 3:
            return reply("no no no")
        first, second = (lines[marks[i] + 1 : marks[i + 1]] for i in (1, 2))
        return reply("A" if len(str(first)) < len(str(second)) else "B")


def reply(text: str) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": text}}]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": question(i)} for i in range(20)])
    for name, text in {"long": "it is surely {}", "short": "{}", "mid": "it is {}"}.items():
        rows = [{"prompt": question(i), "completion": answer(text.format(i))} for i in range(20)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def files(url: str, *more: object) -> list[object]:
    argv = ["eval", "--policy", "long.jsonl", "--baseline", "short.jsonl", "--data", "prompts.jsonl", *more]
    return [str(a).replace("URL", url) for a in argv]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--against", "mid.jsonl", "--pair-judge", "URL/v1", "--judge-model", "m"], 3 * 2 * 20),
        (["--pair-judge", "URL/v1", "--judge-model", "m", "--safety", "URL/v1"], 2 * 20 + 2 * 20),
        (["--judge", '{"reward": "URL", "batch_size": 3}'], 2 * 7),
        (["--judge", "{reward: URL, batch_size: 3}", "--judge", "{reward: length, maximum: 9, weight: 0.5}"], 2 * 7),
    ],
    ids=["pairs", "safety", "scores", "a part of the score"],
)
def test_a_server_is_asked_as_often_with_an_interruption_as_without(
    options: list[str], asked: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Judge()
    with server(judge) as url:
        assert said(files(url, *options, "--output-dir", "whole"), capsys)[0] == 0
        assert judge.answered == asked
        judge.answered, judge.until = 0, asked // 2
        argv = files(url, *options, "--output-dir", "halves")
        status, _, err = said(argv, capsys)
        assert (status, "no more today" in err) == (3, True), err
        assert judge.answered == asked // 2
        with Path("halves/judgements.jsonl").open("a") as stream:
            stream.write('{"key": "cut by a ki')
        judge.until = None
        status, _, err = said(argv, capsys)
        assert status == 0, err
        assert f"{asked // 2} answers of servers are kept from before" in err
        assert judge.answered == asked
        assert "nothing to do" in said(argv, capsys)[2]
    assert Path("halves/evaluation.json").read_bytes() == Path("whole/evaluation.json").read_bytes()


def test_other_judging_is_asked_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = Judge(until=10)
    options = ["--pair-judge", "URL/v1", "--judge-model", "m", "--output-dir", "out"]
    with server(judge) as url:
        argv = files(url, *options)
        assert said(argv, capsys)[0] == 3
        status, _, err = said([*argv, "--judge-rubric", "which is kinder"], capsys)
        assert (status, "belongs to another run" in err) == (2, True)


def test_replies_that_are_no_verdict_are_asked_for_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = ["both"]
    with server(lambda *_: reply(told[-1])) as url:
        argv = files(url, "--pair-judge", "URL/v1", "--judge-model", "m", "--output-dir", "out")
        assert said(argv, capsys)[0] == 3
        told.append("A")
        status, _, err = said(argv, capsys)
    assert status == 0, err


def test_a_question_has_one_answer_and_other_content_is_another_question(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept.jsonl")
    asked = {"model": "m", "prompt": "p", "answers": ["a", "b"]}
    assert kept.find(asked) is None
    assert kept.keep(asked, "A") == "A"
    assert kept.keep(asked, "B") == "A"
    again = Kept(tmp_path / "kept.jsonl")
    assert (len(again), again.find(asked)) == (1, "A")
    for other in ({"model": "n"}, {"prompt": "q"}, {"answers": ["b", "a"]}):
        assert again.find({**asked, **other}) is None


def test_what_models_drew_is_not_drawn_again(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge fails on the first policy's second answers: both of its draws are there already."""
    model = tiny_model(here / "one")
    other = tiny_model(here / "two")
    real, drawn = TorchSampler.sample, []

    def counted(self: TorchSampler, *args: Any, **keywords: Any) -> Any:
        drawn.append(keywords["seed"].purpose)
        return real(self, *args, **keywords)

    monkeypatch.setattr(TorchSampler, "sample", counted)
    options = ["--max-length", 64, "--max-new-tokens", 6, "--samples-per-prompt", 2, "--num-prompts", 4]
    argv = ["eval", "--policy", other, "--baseline", model, "--data", "prompts.jsonl", *options]
    argv += ["--judge", "tests.unit.commands.test_evaluate_resumed:fails_once"]
    FAULTY[:] = [True] * 9
    assert said([*argv, "--output-dir", "whole"], capsys)[0] == 0
    assert len(drawn) == 4
    assert not Path("whole/drawn").exists()
    drawn.clear()
    FAULTY.clear()
    assert said([*argv, "--output-dir", "halves"], capsys)[0] == 3
    assert len(drawn) == 2
    assert said([*argv, "--output-dir", "halves"], capsys)[0] == 0
    assert len(drawn) == len(set(drawn)) == 4
    assert Path("halves/evaluation.json").read_bytes() == Path("whole/evaluation.json").read_bytes()
    assert json.loads(Path("halves/run.json").read_text())["status"] == "finished"


def test_only_the_same_request_of_the_same_policy_is_read_again(tmp_path: Path) -> None:
    opened: list[int] = []

    def sampler() -> ScriptedSampler:
        opened.append(1)
        return ScriptedSampler(lambda prompt, k, seed: [(5 + k, -0.1 - k / 3), (2, -0.7)], eos_ids={2}, decode=str)

    def draw(policy: str = "p", prompts: Any = ((3, 4), (3,)), number: int = 2, seed: int = 0, longest: int = 4) -> Any:
        params = SamplingParams(max_new_tokens=longest)
        key = SeedKey(seed, "evaluate", 0)
        return KeptDraws(tmp_path, [policy]).sample(sampler, prompts, num_completions=number, params=params, seed=key)

    first = draw()
    assert (draw(), len(opened)) == (first, 1)  # ids, log-probabilities to the last digit, prompts, texts
    others: list[dict[str, Any]] = [
        {"policy": "q"}, {"prompts": ((3, 4), (9,))}, {"number": 1}, {"seed": 1}, {"longest": 5},
    ]  # fmt: skip
    for other in others:
        draw(**other)
    assert len(opened) == 1 + len(others)


@pytest.mark.parametrize("change", [(b"-0.7", b"-0.9"), (b'"ids"', b'"idz"'), (b"\n", b"x"), (b"sha256", b"sha257")])
def test_a_damaged_file_of_draws_is_drawn_again(change: tuple[bytes, bytes], tmp_path: Path) -> None:
    sampler = ScriptedSampler(lambda prompt, k, seed: [(5 + k, -0.1 - k / 3), (2, -0.7)], eos_ids={2}, decode=str)

    def draw() -> Any:
        options: dict[str, Any] = {"params": SamplingParams(max_new_tokens=4), "seed": SeedKey(0, "evaluate", 0)}
        return KeptDraws(tmp_path, ["p"]).sample(lambda: sampler, [(3, 4), (3,)], num_completions=2, **options)

    first = draw()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole.replace(*change, 1))
    assert draw() == first
    assert file.read_bytes() == whole


def test_a_prompt_beyond_the_context_is_refused_before_any_weight_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(here / "one")
    from assent.models import loading

    monkeypatch.setattr(loading, "_load", lambda *_, **__: pytest.fail("weights were loaded"))
    options = ["--data", "prompts.jsonl", "--max-new-tokens", 300, "--output-dir", "out"]
    judge = "tests.unit.commands.test_evaluate_resumed:fails_once"
    for argv in (
        ["eval", "--policies.a", model, "--baseline", "a", "--judge", judge, *options],
        ["frontier", "--reference", model, "--gold", judge, "--proxies.rm", judge, *options],
        ["sample", "--model", model, *options],
        ["best-of-n", "--model", model, "--reward", judge, *options],
    ):
        status, _, err = said(argv, capsys)
        assert status == 2, err
        assert "context" in err
        assert not (here / "out").exists()
