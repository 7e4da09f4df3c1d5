"""`assent plan --hardware`: lengths, memory, time and cost of the planned training; calibration; two real steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.commands import plan_calibrate, plan_measure, plan_needs
from assent.commands.plan_calibrate import calibrate
from assent.config.loading import parse_options
from assent.config.plan import PlanConfig
from assent.errors import ConfigError, RunError
from assent.models.loading import load_tokenizer
from assent.planning.devices import device
from assent.planning.stages import PlannedStage
from assent.planning.time import GATE_GROUPS, calibrated
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import write_rows

PAIRS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        {
            "prompt": f"what is {i} plus {i}? ",
            "chosen": f"it is {2 * i}.",
            "rejected": "no, I will not say. " * (1 + i % 3),
        }
        for i in range(1, PAIRS + 1)
    ]
    return str(write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def planned(model: str, pairs: str, **more: Any) -> dict[str, Any]:
    options = {"model": model, "data": [pairs], "constraint": ["one-answer"], "start": "instruct", **more}
    return assent.plan(**options)


def test_the_lengths_are_the_tokenizers(model: str, pairs: str, cache: Path) -> None:
    needs = planned(model, pairs, hardware="cpu")["needs"]
    assert [one["command"] for one in needs] == ["dpo"]
    lengths = needs[0]["lengths"]
    tokenizer = load_tokenizer(model)
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    sizes = {text: len(tokenizer(text).input_ids) for row in rows for text in row.values()}
    longest = max(
        sizes[row["prompt"]] + max(sizes[row["chosen"]], sizes[row["rejected"]]) + 1  # and the end of sequence
        for row in rows
    )
    assert lengths["rows"] == len(rows)
    assert lengths["longest"] == pytest.approx(longest, abs=1)
    assert needs[0]["memory"]["ways"][0]["fits"]
    assert needs[0]["time"] is None  # nothing was measured, and a CPU has no rates of its own


def test_an_online_stage_has_room_for_its_longest_answer(model: str, tmp_path: Path, cache: Path) -> None:
    """Its lengths are those of prompts and of answers of max_new_tokens, which max_length limits together."""
    prompts = [{"prompt": f"what is {i} plus {i}? "} for i in range(1, PAIRS + 1)]
    data = str(write_rows(tmp_path / "prompts.jsonl", prompts))
    found = planned(model, data, reward="tests.support.stages:brevity", hardware="cpu")
    (needs,), stage = found["needs"], found["stages"][-1]
    assert needs["command"] == "grpo"
    tokenizer = load_tokenizer(model)
    longest = max(len(tokenizer(row["prompt"]).input_ids) for row in prompts)
    room = stage["options"]["max_new_tokens"]
    assert needs["lengths"]["longest"] == pytest.approx(longest + room, abs=1)
    assert needs["lengths"]["recommended"] > room


def test_the_time_counts_the_planned_measurements(model: str, pairs: str, cache: Path) -> None:
    """Three tenths of the pairs are held out; each measurement reads them, and the reference once."""
    found = planned(model, pairs, hardware="h100")
    stage = found["stages"][-1]["options"]
    config = parse_options(PlanConfig, {"model": model, "data": [pairs], "hardware": "h100"})
    split = PlannedStage(name="split", command="data-split", options=found["stages"][0]["options"], why="")
    train = PlannedStage(name="train", command="dpo", options=stage, why="")
    (needs,) = plan_needs.needs_of(config, [split, train], device("h100"))
    share = split.options["fraction"]
    assert share == 0.3
    times = 2 + (needs.steps - 1) // stage["eval_steps"]
    once = needs.shape.cost().forward(needs.groups)
    start = min(1.0, needs.steps * stage["batch_size"] / PAIRS) + min(GATE_GROUPS, 2 * stage["batch_size"]) / PAIRS
    assert needs.duration is not None
    assert needs.duration.work["reading"].flops == pytest.approx(once * (start + share * (times + 1)))


def test_a_named_device_has_time_and_cost(
    model: str, pairs: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--constraint",
        "one-answer",
        "--hardware",
        "8xh100",
        "--price",
        "2.5/h",
        "--deadline",
        "8h",
        "--budget",
        200,
    ]
    status, out, err = said(["plan", "--model", model, "--data", pairs, *flags], capsys)
    assert status == 0, err
    for part in ("Memory on 8xh100-80gb", "Lengths of rows", "Cost:", "Deadline of 8.0 h: kept", "Budget of 200: kept",
                 "Start with: learning_rate", "stated and not measured", "arithmetic over config.json"):  # fmt: skip
        assert part in out, part
    text = out.replace(pairs, "")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hardware": "h1000"}, "unknown device: h1000"),
        ({"price": 2.5}, "price has no effect without hardware"),
        ({"hardware": "cpu", "budget": 10.0}, "budget needs price"),
        ({"hardware": "cpu", "measure": True}, "measure runs on this machine"),
        ({"hardware": "cpu", "deadline": "soon"}, "deadline"),
        ({"calibrate": True}, "calibrate measures this machine and plans nothing"),
    ],
)
def test_options_without_effect_and_unknown_devices_are_refused(
    model: str, pairs: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(model, pairs, **more)


def test_a_calibrated_machine_plans_a_time_and_every_run_compares_itself_with_it(
    model: str, pairs: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_calibrate, "SHAPES", ({"layers": 1, "width": 64, "vocab_size": 128},))
    monkeypatch.setattr(plan_calibrate, "LENGTHS", ((2, 16), (1, 48)))
    monkeypatch.setattr(plan_calibrate, "ROUNDS", ((4, 4),))
    monkeypatch.setattr(plan_calibrate, "SECONDS", float("inf"))  # all of them, however slow this machine is
    found, lines = calibrate()
    assert found["path"] == str(cache / "calibration.json")
    assert "measured 9 kinds of work" in lines[0]  # two of updates and of reads, with all weights and LoRA; one round
    assert all(seconds >= 0 for kind in ("training", "reading", "sampling") for seconds in found[kind])
    assert sum(found["training"]) > 0
    assert calibrated() is not None
    time = planned(model, pairs, hardware="cpu")["needs"][0]["time"]
    assert 0 < time["seconds"][0] < time["seconds"][1]
    result = assent.dpo(
        model=model, data=pairs, output_dir=str(tmp_path / "run"), max_steps=1, batch_size=4, max_length=64
    )
    metrics = result.metrics
    assert metrics["cost/planned_seconds_low"] < metrics["cost/planned_seconds_high"]
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["facts"]["plan"]
    assert plan["memory_bytes"] > 0
    assert plan["moment"]
    before = metrics["cost/planned_memory_bytes"] - plan["memory_bytes"]
    assert 0 < before <= metrics["cost/peak_memory_bytes"]
    assert "Planned peak memory" in Path(result.report()).read_text()


@pytest.mark.parametrize(
    ("notes", "told"),
    [(["this run has no plan to be compared with: sizes differ"], "sizes differ"), ([], "the sizes of m are not told")],
)
def test_a_run_without_a_plan_is_compared_with_none(
    monkeypatch: pytest.MonkeyPatch, notes: list[str], told: str
) -> None:
    def trains(line: list[str], **_: Any) -> Any:
        run = Path(json.loads(Path(line[-2]).read_text())["output_dir"])
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"facts": {"plan": None}, "notes": notes}))
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(plan_measure.subprocess, "run", trains)
    with pytest.raises(RunError, match=f"made no plan to compare with[^$]*{told}"):
        plan_measure.measured("dpo", {"model": "m"})


def test_two_real_steps_stand_beside_the_plan(model: str, pairs: str) -> None:
    found = plan_measure.measured("dpo", {"model": model, "data": pairs, "batch_size": 4, "max_length": 64})
    assert 0 < found.first <= found.second
    assert found.planned > 0
    assert found.seconds(10) == 10 * found.seconds_per_step > 0
    with pytest.raises(RunError, match="two steps of dpo could not be measured"):
        plan_measure.measured("dpo", {"model": model, "data": "nowhere.jsonl"})
