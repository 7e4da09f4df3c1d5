"""With models: fresh ratings are scored, and the server's log-probabilities are held against the policy's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assent.commands.monitor import monitor
from assent.commands.monitor_models import Kept, read_back, served_beside
from assent.config.loading import parse_options
from assent.config.monitor import MonitorConfig
from assent.diagnosis.drift.encoding import DAY_SECONDS
from assent.diagnosis.drift.served import Served, read_ours
from tests.support.models import tiny_model
from tests.support.rows import write_rows
from tests.support.traffic import NEXT_DAY, logged, release


def options(**given: Any) -> MonitorConfig:
    return parse_options(MonitorConfig, {"baseline": "a", "logs": "b", **given})


def served_by(folder: str, *, with_end: bool, temperature: float = 1.0) -> list[Served]:
    """Requests with the log-probabilities that plain transformers gives, as a server would log them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = []
    for number in range(6):
        turns = [{"role": "user", "content": f"what is {number} plus {number}?"}]
        answer = f"it is {2 * number}."
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": answer}], return_dict=True
        )["input_ids"]  # fmt: skip
        ends = [place for place, token in enumerate(whole) if token == tokenizer.eos_token_id and place >= len(prompt)]
        last = ends[0] + 1 if with_end else ends[0]
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0] / temperature
        logps = logits.log_softmax(-1)[range(len(prompt) - 1, last - 1), whole[len(prompt) : last]]
        rows.append(read_ours({"prompt": turns, "completion": answer, "logprobs": logps.tolist()}))
    return rows


@pytest.mark.parametrize("with_end", [True, False])
def test_the_same_model_serves_the_same_log_probabilities(tmp_path: Path, with_end: bool) -> None:
    folder = tiny_model(tmp_path / "model")
    found = served_beside(served_by(folder, with_end=with_end), options(policy=folder))
    assert found is not None
    assert found["rows"] == 6
    assert found["nats_per_token"] < 1e-4
    assert found["scale"] == pytest.approx(1, abs=1e-4)


def test_a_temperature_shows(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    cold = served_beside(served_by(folder, with_end=True, temperature=0.1), options(policy=folder))
    assert cold is not None
    assert cold["nats_per_token"] > 0.05
    assert served_beside([], options(policy=folder)) is None


def test_a_text_that_does_not_read_back_says_nothing_about_the_server(tmp_path: Path) -> None:
    """Another way to cut the same text into tokens has another log-probability: one such row in ten is left out."""
    folder = tiny_model(tmp_path / "model")
    rows = served_by(folder, with_end=True) * 2
    rows[3] = replace(rows[3], logprob=-9.0)
    found = served_beside(rows, options(policy=folder))
    assert found is not None
    assert (found["rows"], found["nats_per_token"] < 1e-4, round(found["scale"], 3)) == (11, True, 1)
    rows[4] = replace(rows[4], logprob=-9.0)  # two of twelve are beyond chance
    found = served_beside(rows, options(policy=folder))
    assert found is not None
    assert found["nats_per_token"] > 0.05


@pytest.mark.parametrize("with_end", [True, False])
def test_what_reads_back_has_its_end(tmp_path: Path, with_end: bool) -> None:
    folder = tiny_model(tmp_path / "model")
    rows = served_by(folder, with_end=with_end)
    assert read_back(rows, folder, max_length=64) == float(with_end)
    assert rows[0].num_tokens is not None
    rows[0] = replace(rows[0], num_tokens=rows[0].num_tokens + 1)
    rows[1] = replace(rows[1], num_tokens=None)
    assert read_back(rows, folder, max_length=64) == pytest.approx(0.8 if with_end else 0.2)
    assert read_back(rows[1:2], folder, max_length=64) is None


def test_the_rows_that_are_read_follow_from_their_content() -> None:
    rows = [Served(prompt=f"p{i}", completion="c", logprob=-1.0 if i % 3 else None) for i in range(30)]
    one, other = Kept(5), Kept(5)
    assert list(one.through(rows)) == rows
    list(other.through(rows[::-1]))
    assert sorted(row.prompt for row in one.rows) == sorted(row.prompt for row in other.rows)
    assert len(one.rows) == 5
    assert all(row.logprob is not None for row in one.rows)


def test_the_monitor_asks_policy_and_reward_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another model than --policy, and a reward function that prefers short answers, as users did."""
    folder = tiny_model(tmp_path / "model", context=1024)
    (tmp_path / "my_short.py").write_text(
        "def score(prompts, completions):\n    return [-float(len(text.split())) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def rows(taken: tuple[dict[str, Any], ...], *, liked_are_short: bool) -> list[dict[str, Any]]:
        found = []
        for row in taken:
            kept = {name: value for name, value in row.items() if name not in ("score", "judge")}
            if "rating" in row:
                short = len(row["completion"].split()) < 11
                kept["rating"] = int(short == liked_are_short)
            found.append(kept)
        return found

    write_rows(tmp_path / "release.jsonl", rows(release(), liked_are_short=True))
    write_rows(tmp_path / "logs.jsonl", rows(logged(days=2), liked_are_short=False))
    config = options(
        baseline=str(tmp_path / "release.jsonl"), logs=str(tmp_path / "logs.jsonl"), policy=folder, policy_rows=2,
        reward_model="my_short:score",
    )  # fmt: skip
    document, _, status = monitor(config, now=(NEXT_DAY + 2.2) * DAY_SECONDS)
    assert status == 1
    assert {"serving_differs", "taste_moved"} <= set(document["causes"])
    assert document["policy"]["rows"] == 2
    assert document["policy"]["nats_per_token"] > 0.05
    agrees = next(one for one in document["signals"] if one["name"] == "reward_model/agrees")
    assert agrees["share"] < 0.3
    assert agrees["before"] > 0.7
    json.dumps(document)


def test_watching_loads_the_reward_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, scorers = [], []

    def load_scorer(config: MonitorConfig) -> object:
        loaded.append(config.reward_model)
        return object()

    def look(_: MonitorConfig, scorer: object, __: float) -> tuple[dict[str, Any], list[str], int]:
        scorers.append(scorer)
        if len(scorers) == 3:
            raise KeyboardInterrupt
        return {"new": []}, [], 0

    monkeypatch.setattr("assent.commands.monitor_models.load_scorer", load_scorer)
    monkeypatch.setattr("assent.commands.monitor._look", look)
    monkeypatch.setattr("assent.commands.monitor.time.sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        monitor(options(reward_model="my_judge:score", watch=True, state=str(tmp_path / "state.npz")))
    assert loaded == ["my_judge:score"]
    assert len(set(map(id, scorers))) == 1


def test_what_has_no_effect_is_refused() -> None:
    for given in (
        {"dtype": "bfloat16"},
        {"max_length": 9},
        {"policy_rows": 3},
        {"reward_model": "x", "policy_rows": 3},
    ):
        with pytest.raises(ValueError, match="has no effect"):
            options(**given)
