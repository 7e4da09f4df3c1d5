"""assent plan --update: from logs to verdicts, and to a file that assent update runs as it stands."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.commands.logged_data import logged_data
from assent.commands.plan_update import _slices
from assent.config.loading import parse_options
from assent.config.plan import PlanConfig
from assent.config.update import LoggedDataConfig
from assent.data.loading import load_groups
from assent.data.splitting import prompt_key
from assent.errors import DataError, RunFolderError
from assent.pipelines.plan import read_plan
from assent.pipelines.runner import run_pipeline
from assent.pipelines.update_file import read_update
from assent.planning.logged import Logged
from assent.runs.progress import Silent
from assent.sandbox.settings import LogSettings, Rater
from assent.sandbox.traffic import DAY_SECONDS, Traffic, serve
from assent.sandbox.world import World
from assent.types import PromptGroup
from tests.support.cli import said
from tests.support.models import finished_run
from tests.support.rows import read_rows, write_rows
from tests.support.sandbox_data import base_model
from tests.support.traffic import BASE_DAYS, FIRST_DAY, NEXT_DAY

RELEASE = Traffic(world=World(), feedback=LogSettings(feedback_rate=0.9, selection=0.0, rater=Rater(temperature=0.08)))
JUDGE = "tests.unit.commands.test_update:long"


@cache
def asked_twice(*, first: int, days: int, seed: int) -> tuple[dict[str, Any], ...]:
    """Logs in which each prompt was answered twice, 50 prompts a day."""
    return tuple(_asked_twice(first, days, seed))


def _asked_twice(first: int, days: int, seed: int) -> Iterator[dict[str, Any]]:
    for place, group in enumerate(RELEASE.world.prompts("rl", 50 * days, seed)):
        rng = random.Random(f"{seed}/{place}")
        for answer in range(2):
            row = serve(RELEASE, group, rng)
            time = (first + place // 50) * DAY_SECONDS + 100 * (place % 50) + answer
            yield {**row, "id": f"{seed}-{place}-{answer}", "time": time, "slice": group.columns["kind"]}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with the sandbox's base model, logs of its release, and logs of today."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    finished_run(tmp_path / "run", base_model())
    write_rows(tmp_path / "release.jsonl", asked_twice(first=FIRST_DAY, days=BASE_DAYS, seed=1))
    write_rows(tmp_path / "logs.jsonl", asked_twice(first=NEXT_DAY, days=7, seed=2))
    return tmp_path


PLAN = ["plan", "--update", "--run", "run", "--logs", "logs.jsonl", "--baseline", "release.jsonl"]


def test_from_logs_to_a_new_release(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said([*PLAN, "--judge", JUDGE, "--output", "next.yaml"], capsys)
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= 80
    for part in ("sound: DPO on the logged pairs", "not sound: logged log-probabilities as the reference's",
                 "not possible: weights against selection", "not needed: new samples, rated again",
                 "not sound: the logged answers as episodes of PPO", "The update: DPO on the logged pairs",
                 "reference: the release, whose folder", "pipeline: assent update next.yaml"):  # fmt: skip
        assert part in out
    file = yaml.safe_load(Path("next.yaml").read_text())
    assert file["replaces"] == "run/model"
    assert file["variables"] == {"min_win_rate": 0.5, "min_before": 0.4, "min_slice": 0.3, "kl_budget": 10.0}
    # the composed log-probabilities are no model's, as comparing them with the release's shows
    assert "logged" not in file["stages"][0]["options"]
    assert "reference" not in file["stages"][1]["options"]
    gate = file["stages"][-1]["options"]
    assert set(gate["min_slice_win_rate"]) >= {"era=now", "era=release", "slice=instruction"}
    # every slice with a gate is measured, also in an evaluation as small as this one
    small = ["data.eval_prompts=120", "train.max_steps=1", "train.eval_steps=1", "train.batch_size=4",
             "evaluation.samples_per_prompt=1", "evaluation.max_new_tokens=3",
             "min_win_rate=0", "min_before=0", "min_slice=0", "kl_budget=1e6"]  # fmt: skip
    status, out, err = said(["update", "next.yaml", *(word for one in small for word in ("--set", one))], capsys)
    assert status == 0, err
    assert "reference in training: the release, run/model" in out
    assert json.loads(Path("releases/release.json").read_text())["model"] == "../out/next/train/model"
    assert (place / "out" / "next" / "report.html").is_file()
    Path("next.yaml").unlink()  # out/next holds the released model: a second cycle has another folder
    status, _, err = said([*PLAN, "--judge", JUDGE, "--output", "next.yaml"], capsys)
    assert (status, "give another --output name" in err) == (2, True), err


def test_without_ratings_new_samples_are_rated_by_people_or_by_a_reward(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{name: value for name, value in row.items() if name != "rating"} for row in read_rows("logs.jsonl")]
    rows.append({"prompt": "who?", "completion": "x", "propensity": 0})
    write_rows(place / "logs.jsonl", rows)
    for reward, stage, source in ((None, "collect", "labels"), ("assent.sandbox.gold:reward", "judge", "judged")):
        file = f"{stage}.yaml"
        with_reward = [] if reward is None else ["--reward", reward]
        status, out, err = said([*PLAN, "--judge", JUDGE, "--output", file, *with_reward, "--json"], capsys)
        assert status == 0, err
        document = json.loads(out)
        assert document["way"]["kind"] == "prompts"
        assert document["not_used"] == {"a propensity that is no probability above 0": 1}
        assert {one["question"]: one["verdict"] for one in document["verdicts"]}["samples"] == "needed"
        assert "as_text" not in document["stages"][0]["options"]
        update = read_update(file)
        assert [one.command for one in update.plan.stages] == ["logged-data", "sample", stage, "dpo", "eval", "gate"]
        assert update.new.options["data"] == f"${{labels.{source}}}"
    assert update.plan.stages[2].options["reward"] == "assent.sandbox.gold:reward"
    model = place / "raw"
    shutil.copytree(place / "run" / "model", model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": None}))
    status, out, err = said([*PLAN, "--model", model, "--judge", JUDGE, "--output", "raw.yaml", "--json"], capsys)
    assert status == 0, err
    assert json.loads(out)["stages"][0]["options"]["as_text"] is True


def test_a_run_that_is_not_finished_has_no_release(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((place / "run" / "run.json").read_text())
    (place / "run" / "run.json").write_text(json.dumps({**manifest, "status": "running"}))
    status, _, err = said(PLAN, capsys)
    assert (status, "run is not finished" in err) == (2, True)
    status, _, err = said([*PLAN, "--output", "release.jsonl", "--judge", JUDGE], capsys)
    assert (status, "exists already" in err) == (2, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logs": "l", "model": "m", "data": ["d"]}, "logs has no effect without update"),
        ({"update": True, "run": "r"}, "update needs logs"),
        ({"update": True, "run": "r", "logs": "l", "data": ["d"]}, "data has no effect with update"),
        ({"update": True, "run": "r", "logs": "l", "method": "dpo"}, "method has no effect with update"),
        ({"update": True, "run": "r", "logs": "l", "output": "o"}, "give output and judge, or neither"),
        ({"update": True, "run": "r", "logs": "l", "judge": "j"}, "give output and judge, or neither"),
        ({"update": True, "run": "r", "logs": "l", "reward": "w"}, "rates new samples in the file"),
        ({"update": True, "run": "r", "logs": "l", "safety": "s"}, "safety has no effect without judge"),
    ],
)
def test_no_option_is_without_effect(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options(PlanConfig, given)


def data(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"output_dir": str(folder / "data"), "logs": str(folder / "logs.jsonl"), **options}
    return logged_data(parse_options(LoggedDataConfig, given))


def test_no_prompt_that_is_compared_on_is_trained_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "logs.jsonl", asked_twice(first=NEXT_DAY, days=3, seed=2))
    rows = asked_twice(first=NEXT_DAY, days=3, seed=2)[:40] + asked_twice(first=FIRST_DAY, days=1, seed=1)
    write_rows(tmp_path / "release.jsonl", rows)
    found = data(tmp_path, kind="pairs", logged=True, baseline=str(tmp_path / "release.jsonl"), eval_prompts=10)
    train, held_out, prompts = (list(load_groups(found[name])) for name in ("train", "eval", "prompts"))
    asked = [{prompt_key(group.prompt) for group in part} for part in (train, held_out, prompts)]
    assert not asked[0] & asked[1]
    assert not asked[0] & asked[2]
    assert not asked[1] & asked[2]  # prompts that chose the checkpoint do not judge it
    assert [group.columns["era"] for group in prompts] == ["now"] * 10 + ["release"] * 10
    assert all(group.columns["slice"] for group in prompts)
    assert all(group.logps is not None and group.preference is not None for group in train)
    again = data(tmp_path, kind="pairs", logged=True, baseline=str(tmp_path / "release.jsonl"), eval_prompts=10)
    assert list(load_groups(again["train"])) == train
    found = data(tmp_path, kind="prompts")
    assert found["rows"] == {"train": 120, "eval": 15, "prompts": 15}  # of 150: a fifth is held out, in halves


def test_a_model_without_a_template_has_rows_of_plain_text(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "who?"}]
    rows = [{"prompt": [*turns, {"role": "user", "content": f"{n // 2}?"}], "completion": f"{n}", "rating": n % 2}
            for n in range(2)] + [{"prompt": f"what is {n // 2}?", "completion": f"{n}", "rating": n % 2}
                                  for n in range(80)]  # fmt: skip
    write_rows(tmp_path / "logs.jsonl", rows)
    found = data(tmp_path, kind="pairs", as_text=True)
    groups = [group for name in ("train", "eval") for group in load_groups(found[name])]
    assert {type(text) for group in groups for text in (group.prompt, *group.completions)} == {str}
    assert all(isinstance(group.prompt, str) for group in load_groups(found["prompts"]))
    texts = {group.prompt for name in ("train", "eval", "prompts") for group in load_groups(found[name])}
    assert texts == {"who?\n0?", *(f"what is {n}?" for n in range(40))}


def test_every_evaluated_row_has_both_columns_and_prompts_are_drawn_from_all_days(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {n}?", "completion": "x", **({"slice": "news"} if n % 2 else {})} for n in range(400)]
    write_rows(tmp_path / "logs.jsonl", rows)
    write_rows(tmp_path / "release.jsonl", [{**row, "prompt": f"who is {n}?"} for n, row in enumerate(rows)])
    found = data(tmp_path, kind="prompts", baseline=str(tmp_path / "release.jsonl"), eval_prompts=20)
    prompts = list(load_groups(found["prompts"]))
    assert {group.columns["slice"] for group in prompts} == {"news", "none"}
    places = {era: [int(str(group.prompt[0].content).split()[-1][:-1]) for group in prompts  # type: ignore[union-attr]
                    if group.columns["era"] == era] for era in ("now", "release")}  # fmt: skip
    for drawn in places.values():
        assert len(drawn) == 20
        assert 120 < sum(drawn) / 20 < 280  # of 0 to 399, not the first ones


@pytest.mark.parametrize(
    ("others", "count", "expected"),
    [(0, 40, ["news"]), (0, 39, []), (400, 79, []), (400, 80, ["news"]), (49, 40, ["news"]), (50, 40, [])],
)
def test_a_slice_has_a_gate_where_enough_of_its_prompts_are_compared(
    others: int, count: int, expected: list[str]
) -> None:
    """others: prompts of the logs, each of its own slice; 400: none, and 800 prompts in the baseline"""
    before = [PromptGroup(prompt=f"{n}", columns={"slice": "news"}) for n in range(count)]
    before += [PromptGroup(prompt=f"o{n}") for n in range(800 - count if others == 400 else 0)]
    names = others if others != 400 else 0
    logs = {f"l{n}": PromptGroup(prompt=f"l{n}", columns={"slice": f"s{n}"}) for n in range(names)}
    assert _slices(before, Logged(1, [], logs)) == expected


def test_what_logs_hold_after_the_stage_read_them_does_not_change_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {n}?", "completion": "x"} for n in range(60)]
    write_rows(tmp_path / "logs.jsonl", rows)
    write_rows(tmp_path / "release.jsonl", [{**row, "prompt": f"who is {n}?"} for n, row in enumerate(rows)])
    options = {"logs": str(tmp_path / "logs.jsonl"), "baseline": str(tmp_path / "release.jsonl"), "kind": "prompts"}
    file = {"name": "p", "output_dir": str(tmp_path / "out"),
            "stages": [{"name": "data", "command": "logged-data", "options": options}]}  # fmt: skip
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(file))

    def again() -> dict[str, Any]:
        plan = read_plan(tmp_path / "p.yaml")
        return run_pipeline(plan, report=lambda folder: folder, progress=Silent()).outputs

    first = again()
    write_rows(tmp_path / "logs.jsonl", [*rows, {"prompt": "who?", "completion": "x"}])
    assert again() == first
    write_rows(tmp_path / "release.jsonl", rows[1:])
    with pytest.raises(RunFolderError, match="other options or inputs: data"):
        again()


def test_the_day_and_the_weights_reach_the_rows(tmp_path: Path) -> None:
    rows = [{"id": f"{n}", "prompt": f"what is {n}?", "completion": "x", "rating": n % 2, "time": n * DAY_SECONDS,
             "propensity": 0.5 if n % 2 else 1.0} for n in range(40)]  # fmt: skip
    write_rows(tmp_path / "logs.jsonl", rows)
    found = data(tmp_path, kind="thumbs", up_above=0.5, weighted=True, since="1970-01-11")
    groups = [group for name in ("train", "eval") for group in load_groups(found[name])]
    rated = {f"what is {n}?" for n in range(10, 40)}
    compared = {str(group.prompt[0].content) for group in load_groups(found["prompts"])}  # type: ignore[union-attr]
    assert len(compared) == 4
    assert len(groups) == len(rated - compared)
    assert found["not_used"] == {"a rating before 1970-01-11": 10}
    weights = {group.preference.thumbs: group.preference.weight for group in groups if group.preference}
    assert weights == {(True,): pytest.approx(4 / 3), (False,): pytest.approx(2 / 3)}  # 2 and 1 over their mean
    with pytest.raises(DataError, match="leaves no rows for train"):
        data(tmp_path, kind="pairs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "thumbs"}, "up_above and thumbs go together"),
        ({"kind": "pairs", "up_above": 1.0}, "up_above and thumbs go together"),
        ({"kind": "thumbs", "up_above": 0.5, "logged": True}, "logged has an effect with pairs alone"),
        ({"kind": "prompts", "weighted": True}, "prompts have none"),
        ({"kind": "prompts", "since": "2026-11-30"}, "prompts have none"),
    ],
)
def test_no_option_of_the_stage_is_without_effect(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options(LoggedDataConfig, {"output_dir": "o", "logs": "l", **given})
