"""`assent iterate`: rounds from policy to policy, stops by rule, and what was killed continues to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import Field

import assent
from assent.commands.collect import collect
from assent.commands.iterate import decide
from assent.config.iterate import CollectConfig, StopRules
from assent.config.options import Options
from assent.errors import ConfigError, RunFolderError
from assent.feedback.store.database import open_database
from assent.feedback.store.labelling import next_assignment
from assent.feedback.store.people import ensure_annotator
from assent.pipelines import steps
from assent.pipelines.steps import Step
from assent.runs.files import write_json
from tests.support.cli import files_in, said
from tests.support.docs import ROOT
from tests.support.feedback import label_all, say
from tests.support.rows import read_rows, write_rows

CALLS: list[str] = []
DIES: set[str] = set()


class RoundConfig(Options):
    """A whole round of no computation: a model, labels and an evaluation, as they are given."""

    output_dir: str
    """Where."""
    policy: str
    """What it starts from."""
    start: str = ""
    """What the loop started from."""
    seed: int = 0
    """Its number."""
    wins: dict[int, tuple[float, float, float]] = Field(default_factory=dict)
    """Round to win rate and interval."""
    round: int = 0
    """Number of the round."""
    kl: float | None = None
    """KL for each round so far."""


def play(config: RoundConfig, *, progress: Any) -> dict[str, Any]:
    folder = Path(config.output_dir)
    CALLS.append(f"{config.round} from {Path(config.policy).parent.parent.name or config.policy} seed {config.seed}")
    if str(config.round) in DIES:
        raise KeyboardInterrupt
    folder.mkdir(parents=True, exist_ok=True)
    value, low, high = config.wins.get(config.round, (0.6, 0.55, 0.65))
    rate = {"value": value, "low": low, "high": high, "n": 9, "clusters": 9, "standard_error": 0.1, "confidence": 0.95}
    kl = None if config.kl is None else {"kind": "estimate", "value": config.kl * config.round, "k1": rate,
                                         "k3": None, "best_of_n": None, "choice_bound": None}  # fmt: skip
    new = {"name": "new", "sampled": {"win_rate": rate, "gold": {**rate, "value": value}}, "kl": kl}
    before = {"name": "before", "sampled": {"win_rate": None, "gold": None}, "kl": None}
    write_json(folder / "figures.json", {"baseline": "before", "policies": [new, before]})
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    write_rows(folder / "labels.jsonl", [row] * 10)
    return {
        "output_dir": str(folder), "model_path": str(folder / "model"), "labels": str(folder / "labels.jsonl"),
        "evaluation": str(folder / "figures.json"),
    }  # fmt: skip


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    DIES.clear()
    outputs = ("output_dir", "model_path", "labels", "evaluation")
    monkeypatch.setitem(steps.STEPS, "play", Step(f"{__name__}:RoundConfig", f"{__name__}:play", outputs=outputs))


def loop_file(folder: Path, *, rounds: int = 3, stop: str = "{}", options: str = "") -> Path:
    path = folder / "loop.yaml"
    path.write_text(
        f"""
name: loop
output_dir: {folder}/out
rounds: {rounds}
policy: base
stages:
  - name: play
    command: play
    options: {{policy: "${{policy}}", start: "${{start}}", round: "${{round}}"{options}}}
trained: ${{play.model_path}}
labels: ${{play.labels}}
evaluation: ${{play.evaluation}}
stop: {stop}
"""
    )
    return path


@pytest.mark.parametrize(
    ("rules", "rate", "kl", "labels", "reason", "taken"),
    [
        ({}, (0.6, 0.51, 0.7), None, 10, None, True),
        ({}, (0.6, 0.5, 0.7), None, 10, "no gain beyond the interval", False),
        ({"no_gain": False}, (0.4, 0.3, 0.5), None, 10, None, True),
        ({}, (0.6, None, None), None, 10, "no gain beyond the interval", False),
        ({"kl_nats": 5.0}, (0.6, 0.51, 0.7), 5.0, 10, None, True),
        ({"kl_nats": 5.0}, (0.6, 0.51, 0.7), 5.01, 10, "the KL budget is spent: 5.01 of 5 nats", False),
        ({"labels": 11}, (0.6, 0.51, 0.7), None, 10, None, True),
        ({"labels": 10}, (0.6, 0.51, 0.7), None, 10, "the labels are spent: 10 of 10", True),
        ({"labels": 10}, (0.6, 0.4, 0.7), None, 10, "no gain beyond the interval", False),
    ],
)
def test_the_rules(rules: Any, rate: Any, kl: float | None, labels: int, reason: str | None, taken: bool) -> None:
    figures = {
        "win_rate": dict(zip(("value", "low", "high"), rate, strict=True)),
        "kl_nats": None if kl is None else {"value": kl}, "labels_so_far": labels, "judge_faults": [],
    }  # fmt: skip
    said_, took = decide(StopRules(**rules), figures)
    assert took == taken
    assert (said_ is None) == (reason is None)
    assert (said_ or "").startswith(reason or "")
    faulty = {**figures, "judge_faults": ["the judge prefers answers that are known to be bad: empty"]}
    assert decide(StopRules(**rules), faulty) == (
        "the judge of this round has a fault: the judge prefers answers that are known to be bad: empty", False
    )  # fmt: skip
    assert decide(StopRules(**rules, judge_fault=False), faulty) == (said_, took)


@pytest.mark.usefixtures("scripted")
def test_each_round_starts_from_the_policy_that_was_taken_last(tmp_path: Path) -> None:
    found = assent.iterate(loop_file(tmp_path))
    assert CALLS == ["1 from base seed 1", "2 from round-1 seed 2", "3 from round-2 seed 3"]
    assert (found["status"], found["reason"]) == ("finished", "all 3 rounds are done")
    assert found["model_path"] == f"{tmp_path}/out/round-3/play/model"
    assert [one["labels_so_far"] for one in found["rounds"]] == [10, 20, 30]


@pytest.mark.usefixtures("scripted")
def test_a_round_without_a_gain_ends_the_loop_and_is_not_taken(tmp_path: Path) -> None:
    found = assent.iterate(loop_file(tmp_path, options=", wins: {2: [0.52, 0.45, 0.59]}"))
    assert len(CALLS) == 2
    assert found["model_path"] == f"{tmp_path}/out/round-1/play/model"
    assert found["reason"] == "no gain beyond the interval: win rate 0.52 [0.45, 0.59]"
    page = Path(found["report"]).read_text()
    assert "not taken" in page
    assert 'href="round-2/report.html"' in page
    assert (tmp_path / "out/round-2/report.html").is_file()


@pytest.mark.usefixtures("scripted")
def test_the_kl_budget_and_the_labels_end_it(tmp_path: Path) -> None:
    spent = assent.iterate(loop_file(tmp_path, stop="{kl_nats: 3}", options=", kl: 2"))
    assert (len(spent["rounds"]), spent["model_path"]) == (2, f"{tmp_path}/out/round-1/play/model")
    other = loop_file(tmp_path, stop="{labels: 15}")
    labels = assent.iterate(other, output_dir=str(tmp_path / "labels"))
    assert (len(labels["rounds"]), labels["model_path"]) == (2, f"{tmp_path}/labels/round-2/play/model")


@pytest.mark.usefixtures("scripted")
def test_a_loop_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    path = loop_file(tmp_path)
    DIES.add("2")
    with pytest.raises(KeyboardInterrupt):
        assent.iterate(path)
    DIES.clear()
    assent.iterate(path)
    assert CALLS.count("1 from base seed 1") == 1
    killed = (tmp_path / "out/iterate.json").read_text(), (tmp_path / "out/report.html").read_text()
    (tmp_path / "out").rename(tmp_path / "killed")
    assent.iterate(path)
    assert killed == ((tmp_path / "out/iterate.json").read_text(), (tmp_path / "out/report.html").read_text())


@pytest.mark.usefixtures("scripted")
def test_a_finished_loop_repeats_nothing_and_more_rounds_continue_it(tmp_path: Path) -> None:
    path = loop_file(tmp_path, rounds=2)
    first = assent.iterate(path)
    assert assent.iterate(path) == first
    assert len(CALLS) == 2
    assert len(assent.iterate(path, rounds=3)["rounds"]) == 3
    assert len(CALLS) == 3


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trained: ${play.model_path}", "trained: ${play.modl_path}", "trained refers to what is not there"),
        ("policy: base", "policy: ${sft.model_path}", "policy refers to what is not there"),
        ("command: play", "command: plai", "unknown command"),
        ("${start}", "${before.world.model}", "refers to what is not there"),
        ("${start}", "${strt}", "strt"),
        ("labels: ${play.labels}\n", "", "stop.labels has no effect without labels"),
        ("rounds: 3", "variables: {policy: x}\nrounds: 3", "policy, start and round"),
    ],
)
def test_a_loop_is_checked_whole_before_it_starts(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = loop_file(tmp_path, stop="{labels: 5}")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        assent.iterate(path)
    assert CALLS == []


@pytest.mark.usefixtures("scripted")
def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds something else"):
        assent.iterate(loop_file(tmp_path))
    assert files_in(tmp_path / "out").keys() == {"notes.txt"}


def test_people_are_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    CALLS.clear()
    DIES.clear()
    outputs = ("output_dir", "model_path", "labels", "evaluation")
    monkeypatch.setitem(steps.STEPS, "play", Step(f"{__name__}:RoundConfig", f"{__name__}:play", outputs=outputs))
    path = loop_file(tmp_path, rounds=2)
    people = "  - {name: people, command: collect, options: {files: ['labels-${round}.jsonl']}}\n"
    text = path.read_text().replace("stages:\n", f"stages:\n{people}").replace("${play.labels}", "${people.labels}")
    path.write_text(text)
    status, out, _ = said(["iterate", path], capsys)
    assert status == 0
    assert "waiting: labels are not there yet: labels-1.jsonl" in out
    assert CALLS == []
    comparison = {"prompt": "p", "chosen": "a", "rejected": "b"}
    write_rows(tmp_path / "labels-1.jsonl", [comparison] * 3)
    status, out, _ = said(["iterate", path, "--json"], capsys)
    document = json.loads(out)
    assert (status, document["status"], len(document["rounds"]), len(CALLS)) == (0, "waiting", 1, 1)
    ranking = {"prompt": "p", "completions": ["a", "b"], "ranking": [1, 1]}
    write_rows(tmp_path / "labels-2.jsonl", [ranking])
    found = assent.iterate(path)
    assert found["status"] == "finished"
    assert [one["labels"] for one in found["rounds"]] == [3, 1]


@pytest.mark.usefixtures("scripted")
def test_the_reviews_in_a_store_are_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = loop_file(tmp_path, rounds=2)
    people = (
        "  - {name: people, command: collect, options: {store: labels.db, completions: 'answers-${round}.jsonl'}}\n"
    )
    text = path.read_text().replace("stages:\n", f"stages:\n{people}").replace("${play.labels}", "${people.labels}")
    path.write_text(text)
    for name in ("answers-1", "answers-2", "others"):
        rows = [{"prompt": f"{name} {n}?", "completion": text} for n in range(2) for text in "ab"]
        write_rows(tmp_path / f"{name}.jsonl", rows)

    def fill(name: str) -> None:
        assert said(["label", "--completions", f"{name}.jsonl", "--reviews", "2", "--no-serve"], capsys)[0] == 0

    def label(who: str, ranking: list[int]) -> None:
        with open_database("labels.db") as database:
            label_all(database, ensure_annotator(database, who).id, lambda _: ranking)

    found = assent.iterate(path)
    assert found["status"] == "waiting"
    assert found["reason"].startswith("labels are not there yet: there is no store labels.db")
    assert "assent label --completions answers-1.jsonl --store labels.db" in found["reason"]
    fill("others")
    assert "labels.db has none of answers-1.jsonl" in assent.iterate(path)["reason"]
    fill("answers-1")
    label("mia", [1, 2])
    assert "2 reviews to do in labels.db" in assent.iterate(path)["reason"], "those of the other file are not counted"
    assert "skipped" not in assent.iterate(path)["reason"]
    with open_database("labels.db") as database:
        ben = ensure_annotator(database, "ben").id
        while (given := next_assignment(database, ben)) is not None:
            say(database, given, None)
    assert "2 items were skipped by somebody, who does not get them again: ask" in assent.iterate(path)["reason"]
    label("kim", [2, 1])
    fill("answers-2")
    found = assent.iterate(path)
    assert [one["labels"] for one in found["rounds"]] == [4]
    assert "4 reviews to do in labels.db" in found["reason"]
    taken = read_rows(tmp_path / "out/round-1/people/labels.jsonl")
    assert {row["prompt"] for row in taken} == {"answers-1 0?", "answers-1 1?"}
    assert sorted((row["prompt"], row["annotator"]) for row in taken) == [
        (f"answers-1 {n}?", who) for n in range(2) for who in ("kim", "mia")
    ]
    chosen = {(row["annotator"], row["chosen"]) for row in taken}
    assert len(chosen) == 2, "they always differ, over the two answers in one order"
    label("mia", [1, 2])
    label("ben", [1, 2])
    found = assent.iterate(path)
    assert (found["status"], [one["labels"] for one in found["rounds"]]) == ("finished", [4, 4])
    said_of_it: list[str] = []
    options = {"store": "labels.db", "completions": "answers-1.jsonl", "output_dir": "alone"}
    progress: Any = SimpleNamespace(line=said_of_it.append)
    collect(CollectConfig.model_validate(options), progress=progress)
    assert "4 rows (comparisons) -> alone/from-store.jsonl" in said_of_it, "and what was left out, if anything was"


@pytest.mark.parametrize(
    ("options", "message"), [({}, "give files, or store and completions"), ({"store": "s"}, "store needs completions")]
)
def test_labels_come_from_somewhere(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollectConfig(output_dir="out", **options)


def test_labels_of_a_judge_and_of_people_become_one_file(tmp_path: Path) -> None:
    judge = write_rows(tmp_path / "j.jsonl", [{"prompt": "p", "completions": ["a", "b"], "ranking": [1, 1]}])
    people = write_rows(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "c", "rejected": "d", "annotator": "ann"}])
    with people.open("a") as file:
        file.write(json.dumps({"prompt": "q", "chosen": "c", "rejected": "c"}) + "\n")
    told: list[str] = []
    found = collect(
        CollectConfig(output_dir=str(tmp_path / "out"), files=[str(judge), str(people)]),
        progress=Mock(line=told.append),
    )
    assert [f"({people}:2)" in line for line in told if "refused at loading, 1: " in line] == [True]
    assert read_rows(found["labels"]) == [
        {"prompt": "p", "completions": ["a", "b"], "ranking": [1, 1]},
        {"prompt": "q", "completions": ["c", "d"], "ranking": [1, 2], "annotator": "ann"},
    ]


def test_the_sandbox_runs_unattended(tmp_path: Path) -> None:
    """The example's file with few prompts, its real stages, and two rounds. Then it is continued by one more."""
    small = {
        "world.num_demonstrations": 24, "world.num_prompts": 8, "world.num_test_prompts": 4, "sft.num_train_epochs": 1,
        "evaluation.samples_per_prompt": 1, "dpo.batch_size": 8,
    }  # fmt: skip
    options = {"output_dir": str(tmp_path / "out"), "overrides": [f"{name}={value}" for name, value in small.items()]}
    path = ROOT / "examples/loop/sandbox.yaml"
    text = path.read_text().replace("labels: 4000}", "no_gain: false}")
    (tmp_path / "loop.yaml").write_text(text)
    found = assent.iterate(tmp_path / "loop.yaml", rounds=2, **options)
    assert found["status"] == "finished"
    first, second = found["rounds"]
    assert second["from"] == first["trained"] == str(tmp_path / "out/round-1/dpo/model")
    run = json.loads((tmp_path / "out/round-2/dpo/run.json").read_text())
    assert run["config"]["model"] == first["trained"]  # the lineage
    assert 0 < first["labels"] <= 8
    assert first["kl_nats"] is not None
    rows = read_rows(tmp_path / "out/round-1/labels/labels.jsonl")
    assert {"prompt", "chosen", "rejected", "annotator", "gold"} <= rows[0].keys()
