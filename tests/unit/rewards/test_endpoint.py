"""A reward that a server gives: what it is sent, how it is asked again, what is told of it, and that the key stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.config.rewards import read_sources
from assent.errors import ConfigError, RunError
from assent.rewards.loading import load_reward
from assent.types import Message, PromptGroup
from tests.support.cli import said
from tests.support.http import server
from tests.support.rows import read_rows
from tests.support.stages import write_inputs

PROMPTS = ["a", (Message("user", "what is b?"),), "c"]


def reward_at(url: str, **options: Any) -> Any:
    return load_reward(read_sources({"reward": f"{url}/score", "retries": 0, **options}))


def test_prompts_completions_columns_and_the_key_arrive_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    seen: list[tuple[dict[str, Any], str | None]] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        assert path == "/score"
        seen.append((body, headers.get("Authorization")))
        return 200, {"scores": [len(text) for text in body["completions"]]}

    groups = [PromptGroup(prompt=prompt, columns={"level": i, "other": 1}) for i, prompt in enumerate(PROMPTS)]
    with server(answer) as url:
        reward = reward_at(url, batch_size=2, columns=["level"], api_key_env="JUDGE_KEY")
        assert reward.score(PROMPTS, ["x", "yy", "zzz"], groups=groups) == [1.0, 2.0, 3.0]
        with pytest.raises(ConfigError, match="no column missing"):
            reward_at(url, columns=["missing"]).score(PROMPTS, ["x", "y", "z"], groups=groups)
        assert reward.score([], []) == []
    assert [body["completions"] for body, _ in seen] == [["x", "yy"], ["zzz"]]
    assert seen[0][0] == {
        "prompts": ["a", [{"role": "user", "content": "what is b?"}]],
        "completions": ["x", "yy"],
        "columns": {"level": [0, 1]},
    }
    assert {key for _, key in seen} == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("of_bad", "message"),
    [
        ((200, {"scores": ["good"]}), "not a number for completion 'bad'"),
        ((200, {"scores": []}), "completion 'bad' of prompt 'c'"),
        ((200, {"score": [1]}), "did not return scores.*\n.*completion 'bad' of prompt 'c' alone"),
        ((200, "oops"), "did not answer with JSON.*\n.*completion 'bad'"),
        ((400, {"error": "too rude"}), "status 400.*too rude.*completion 'bad'"),
        ((500, "crash"), "status 500: crash.*completion 'bad'"),
    ],
)
def test_the_completion_that_a_server_cannot_judge_is_named(of_bad: tuple[int, Any], message: str) -> None:
    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        texts = body["completions"]
        if "bad" not in texts:
            return 200, {"scores": [1.0] * len(texts)}
        status, document = of_bad
        if isinstance(document, dict) and isinstance(document.get("scores"), list):
            return status, {"scores": [1.0] * (len(texts) - 1) + document["scores"]}
        return status, document

    with server(answer) as url, pytest.raises(RunError, match=message):
        reward_at(url).score(PROMPTS, ["fine", "well", "bad"])


def test_who_is_at_fault_is_looked_for_without_more_patience() -> None:
    """Twice for the three, then once for each up to the one that fails."""
    asked: list[int] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(len(body["completions"]))
        return (500, "crash") if "bad" in body["completions"] else (200, {"scores": [1.0] * asked[-1]})

    with server(answer) as url, pytest.raises(RunError, match="completion 'bad'"):
        reward_at(url, retries=1).score(PROMPTS, ["fine", "bad", "well"])
    assert asked == [3, 3, 1, 1]


def test_a_busy_server_is_asked_again_and_one_that_nobody_runs_is_told() -> None:
    asked: list[int] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(1)
        return (429, "later") if len(asked) < 3 else (200, {"scores": [7]})

    with server(answer) as url:
        assert reward_at(url, retries=2).score(["a"], ["x"]) == [7.0]
    assert len(asked) == 3
    with pytest.raises(RunError, match="did not answer") as caught:
        reward_at(url).score(["a"], ["x"])
    assert "completion" not in str(caught.value)  # which is not at fault


def test_a_server_that_lets_nobody_in_is_asked_once_and_no_completion_is_blamed() -> None:
    asked: list[int] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(1)
        return 403, "no"

    with server(answer) as url, pytest.raises(RunError, match="status 403: no") as caught:
        reward_at(url, retries=3).score(PROMPTS, ["x", "y", "z"])
    assert len(asked) == 1
    assert "completion" not in str(caught.value)


def test_a_slow_server_is_given_up() -> None:
    from threading import Event

    done = Event()

    def answer(*_: Any) -> tuple[int, Any]:
        done.wait(120)
        return 200, {"scores": [1]}

    with server(answer) as url:
        try:
            with pytest.raises(RunError, match="timed out"):
                reward_at(url, timeout_seconds=0.2).score(["a"], ["x"])
        finally:
            done.set()


def test_no_key_reaches_a_message_or_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    inputs = write_inputs(tmp_path)

    def argv(url: str, name: str) -> list[str]:
        source = f"{{reward: '{url}', api_key_env: JUDGE_KEY, retries: 0, name: judge}}"
        argv = ["grpo", "--model", inputs["model"], "--data", inputs["prompts"], "--output-dir", str(tmp_path / name)]
        argv += ["--total-steps", "1", "--batch-size", "2", "--num-completions", "2", "--max-new-tokens", "4"]
        short = "{reward: length, maximum: 2, unit: characters, weight: 0.5}"
        return [*argv, "--max-length", "64", "--reward", source, short]

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        return 200, {"scores": [float(len(text)) for text in body["completions"]]}

    with server(answer) as url:
        status, _, err = said(argv(url, "run"), capsys)
        assert status == 0, err
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    found = next(row for row in rows if "objective/scores" in row)
    total = found["rewards/judge"] + 0.5 * found["rewards/length"]
    assert found["objective/scores"] == pytest.approx(total, abs=1e-5)
    samples = read_rows(tmp_path / "run" / "samples.jsonl")
    assert set(samples[0]["rewards"]) == {"judge", "length"}
    with server(lambda path, body, headers: (400, f"what is {headers['Authorization']}?")) as url:
        status, _, err = said(argv(url, "failed"), capsys)
    assert status == 3
    assert "status 400: what is Bearer ***?" in err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file
    monkeypatch.delenv("JUDGE_KEY")
    status, _, err = said(argv("http://127.0.0.1:1", "none"), capsys)
    assert status == 2
    assert "JUDGE_KEY is not set" in err
    assert not (tmp_path / "none").exists()
