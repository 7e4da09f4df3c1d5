"""A pipeline whose last stage is best-of-n: its gain leads, beside what the reward model is worth on held-out pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from assent.reporting import write_report
from assent.reporting.progress import tiles_of
from assent.reporting.sources import read_source
from assent.reporting.verdict import verdict_of
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from tests.support.reporting import Page, estimate

COIN = (0.425, 0.267, 0.6)
GAIN = {"value": 0.176, "low": -0.06, "high": 0.41, "clusters": 4}


def _run(folder: Path, command: str, lines: dict[int, dict[str, float]], **result: Any) -> dict[str, Any]:
    run = RunFolder.open(folder, {"model": "m"}, command=command, resume=True)
    for step, values in lines.items():
        RunLog(run).metrics(step, values)
    found = {"steps": max(lines), "metrics": lines[max(lines)], **result}
    run.finish(found)
    run.close()
    return {"name": folder.name, "command": command, "options": {}, "output_dir": str(folder), "result": found}


def _pipeline(folder: Path, accuracy: tuple[float, float, float] = COIN, gain: dict[str, float] = GAIN) -> Path:
    value, low, high = accuracy
    held_out = {"eval_accuracy": value, "eval_accuracy_low": low, "eval_accuracy_high": high}
    curve = [{"n": 1, "gain": estimate(0.0, 0.0, n=4)}, {"n": 2, "gain": {**estimate(0.0, 0.1, n=4), **gain}}]
    stages = [
        _run(folder / "reward", "reward", {1: {"loss": 0.7}, 2: {"loss": 0.7, "cost/seconds": 43.0, **held_out}}),
        _run(folder / "best", "best-of-n", {0: {"mean_reward": 0.12, "cost/seconds": 28.0}}, n=2, curve=curve),
    ]
    (folder / "pipeline.json").write_text(json.dumps({"format": 1, "name": "p", "stages": stages, "finished": True}))
    return folder


def test_the_gain_leads_and_a_reward_model_at_chance_stands_beside_it(tmp_path: Path) -> None:
    folder = _pipeline(tmp_path / "p")
    found = verdict_of(read_source(folder))
    assert found.sentence == (
        "The best of 2 completions scores 0.18 more than a single one (95% interval −0.06 to 0.41, 4 prompts)."
    )
    assert found.tone == "open"
    assert found.beside[0] == (
        "reward ranks 42% of held-out pairs as labelled (95% interval 27% to 60%). "
        "That is not shown to be better than a coin: the interval includes 50%."
    )
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "training figures only" not in text
    tiles = {tile.title: (tile.value, tile.beside) for tile in tiles_of(read_source(folder))}
    assert tiles["Gain of the best of 2"] == ("0.18", "95% interval −0.06 to 0.41, by the reward that chose")
    assert tiles["Accuracy (held out)"] == ("42%", "95% interval 27% to 60%")
    assert tiles["Time"][1] == "step 2"  # of the reward model: best-of-n has no steps


@pytest.mark.parametrize(
    ("accuracy", "gain", "tone"),
    [
        ((0.7, 0.6, 0.8), {"value": 0.3, "low": 0.1, "high": 0.5}, "plain"),
        ((0.7, 0.6, 0.8), GAIN, "open"),
        (COIN, {"value": 0.3, "low": 0.1, "high": 0.5}, "open"),
    ],
)
def test_a_gain_is_worth_what_both_intervals_show(
    tmp_path: Path, accuracy: tuple[float, float, float], gain: dict[str, float], tone: str
) -> None:
    folder = _pipeline(tmp_path / "p", accuracy, gain)
    assert verdict_of(read_source(folder)).tone == tone
    mark = re.search(r'class="mark \w+">(.*?)<', write_report(folder).read_text(encoding="utf-8"))
    assert mark is not None
    assert mark[1] == {"plain": "Best of N", "open": "Undecided"}[tone]


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ((0.7, 0.6, 0.8), ""),
        (COIN, "That is not shown to be better than a coin: the interval includes 50%."),
        ((0.3, 0.2, 0.4), "That is worse than a coin: it ranks pairs the wrong way round."),
    ],
)
def test_a_reward_models_own_page_compares_it_with_a_coin(
    tmp_path: Path, accuracy: tuple[float, float, float], said: str
) -> None:
    found = verdict_of(read_source(_pipeline(tmp_path / "p", accuracy) / "reward"))
    assert found.sentence.endswith(said)
    assert ("coin" in found.sentence) == bool(said)
    assert found.tone == ("open" if said else "plain")


def test_a_finished_run_took_what_its_result_says_not_what_its_last_step_logged(tmp_path: Path) -> None:
    """The last measurement on held-out data comes after the last step's line, and may take longer than the steps."""
    _run(tmp_path / "r", "dpo", {1: {"loss": 0.7, "cost/seconds": 44.0}}, metrics={"loss": 0.1, "cost/seconds": 197.0})
    (stage,) = read_source(tmp_path / "r").stages
    assert (stage.last("cost/seconds"), stage.last("loss")) == (197.0, 0.7)
