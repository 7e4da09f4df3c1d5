"""`assent judge --revise`: critique by a principle, revision, and a file that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.errors import ConfigError, DataError
from assent.judging.revising import principle_for
from assent.judging.rubric import Rubric
from tests.support.chat import chat
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

PRINCIPLES = ("Be kind.", "Be brief.")


def part(user: str, title: str) -> str:
    """What stands between the line that ends in the title and the next one."""
    mark = user.split(" request\n", maxsplit=1)[0]
    return user.split(f"{mark} {title}\n")[1].split(f"\n{mark}", maxsplit=1)[0]


def scribe(system: str, user: str) -> str:
    """Criticises by naming the principle, and rewrites by adding what was said."""
    principle = next(one for one in PRINCIPLES if one in system)
    if system.startswith("You look"):
        return f"not enough: {principle}"
    assert part(user, "critique") == f"not enough: {principle}"
    return f"{part(user, 'answer')} [{principle}]"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": f"q{i}", "completion": f"old {i}", "topic": i} for i in range(5)]
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text(f"principles: [{', '.join(PRINCIPLES)}]\n")
    return {
        "data": write_rows(tmp_path / "data.jsonl", rows),
        "output_dir": tmp_path / "out",
        "rubric": rubric,
        "model": "m",
    }


def test_the_new_answer_is_chosen_and_each_round_has_a_principle(inputs: dict[str, Any], tmp_path: Path) -> None:
    with chat(scribe) as server:
        found = assent.judge(endpoint=server.url, revise=2, **inputs)
        assert len(server.bodies) == 5 * 2 * 2
        assert {body["max_tokens"] for body in server.bodies} == {512}
    rows = read_rows(found["judged"])
    for number, row in enumerate(rows):
        drawn = [principle_for(Rubric(principles=PRINCIPLES), prompt=number, turn=turn, seed=0) for turn in (0, 1)]
        assert row["chosen"] == f"old {number} [{drawn[0]}] [{drawn[1]}]"
        assert row["critiques"] == [f"not enough: {one}" for one in drawn]
        assert (row["rejected"], row["topic"]) == (f"old {number}", number)
    assert {principle for row in rows for principle in PRINCIPLES if principle in row["chosen"]} == set(PRINCIPLES)
    model = tiny_model(tmp_path / "model", context=1024)
    assert assent.sft(model=model, data=found["judged"], output_dir=tmp_path / "sft", max_steps=1).steps == 1


def test_what_comes_back_unchanged_is_counted_and_left_out(inputs: dict[str, Any]) -> None:
    def lazy(system: str, user: str) -> str:
        if "old 3" in user and system.startswith("You look"):
            return ""  # no critique
        return part(user, "answer") if "old 1" in user else scribe(system, user)

    with chat(lazy) as server:
        found = assent.judge(endpoint=server.url, revise=1, **inputs)
    record = json.loads(Path(found["report"]).read_text())
    assert (record["completions"], record["revised"], record["unchanged"]) == (5, 3, 2)
    assert [row["topic"] for row in read_rows(found["judged"])] == [0, 2, 4]
    with chat(lambda system, user: part(user, "answer")) as server, pytest.raises(DataError, match="no completion was"):
        assent.judge(endpoint=server.url, revise=1, **{**inputs, "output_dir": Path(inputs["output_dir"]) / "again"})


def test_a_spent_budget_keeps_whole_revisions_and_continues(inputs: dict[str, Any]) -> None:
    with chat(scribe) as server:
        first = assent.judge(endpoint=server.url, revise=1, max_requests=7, concurrency=1, **inputs)
        assert (first["spent"], len(read_rows(first["judged"])), len(server.bodies)) == (True, 2, 7)
        second = assent.judge(endpoint=server.url, revise=1, max_requests=10, **inputs)
        assert (second["spent"], len(read_rows(second["judged"])), len(server.bodies)) == (False, 5, 10)


def test_a_budget_too_small_for_one_revision_says_so(inputs: dict[str, Any]) -> None:
    with chat(scribe) as server, pytest.raises(DataError, match="the budget was spent before one completion"):
        assent.judge(endpoint=server.url, revise=1, max_requests=1, concurrency=1, **inputs)


def test_a_dry_run_counts(inputs: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = [part for name, value in inputs.items() for part in (f"--{name.replace('_', '-')}", value)]
    status, out, _ = said(
        ["judge", *words, "--endpoint", "http://h/v1", "--revise", 2, "--dry-run", "--output-price", 1], capsys
    )
    assert status == 0
    assert "at most 20 requests" in out
    assert f"cost at most about {20 * 512 / 1e6:.4g}" in out
    assert not Path(inputs["output_dir"]).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "m:f"}, "revise needs a model that writes"),
        ({"endpoint": "http://h/v1", "model": "m", "probabilities": True}, "probabilities has no effect with revise"),
        ({"endpoint": "http://h/v1", "model": "m", "controls": 3}, "controls has no effect with revise"),
        ({"endpoint": "http://h/v1", "model": "m", "revise": 0, "max_new_tokens": 9}, "max_new_tokens has no effect"),
    ],
)
def test_options_of_comparing_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        assent.judge(**{"data": "d.jsonl", "output_dir": tmp_path / "out", "revise": 1, **options})
