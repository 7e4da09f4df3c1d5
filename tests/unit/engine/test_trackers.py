"""Trackers get every line of metrics.jsonl; a missing one is refused before anything, one that fails is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate.tracking import GeneralTracker

from assent.config.loading import parse_options
from assent.config.stages import SftConfig
from assent.errors import ConfigError
from assent.runs.files import read_lines
from assent.stages.sft import train
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import demonstrations

MODULE = """
from accelerate.tracking import GeneralTracker

EVENTS = []

class Fake(GeneralTracker):
    name, requires_logging_directory, tracker = "fake", False, None
    fails_at = None

    def __init__(self, folder):
        super().__init__()
        EVENTS.append(("folder", folder))

    def start(self):
        EVENTS.append(("start", None))

    def store_init_configuration(self, values):
        EVENTS.append(("config", values))

    def log(self, values, step=None, **_):
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("the server has gone")
        EVENTS.append((step, values))

    def finish(self):
        EVENTS.append(("finish", None))

class Breaks(Fake):
    fails_at = 2

class Refuses(Fake):
    def start(self):
        raise PermissionError("log in first")

class Other: pass
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module `my_tracker_N` in the working directory, with a name of its own for each test."""
    import importlib

    name = f"my_tracker_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    text = demonstrations(tmp_path / "demonstrations.jsonl")
    model = tiny_model(tmp_path / "my-model", context=1024)
    return {"model": str(model), "data": str(text), "output_dir": str(tmp_path / "run"), "max_steps": 3}


def _run(options: dict[str, object], *names: str) -> Path:
    result = train(SftConfig(**options, report_to=list(names)))
    return result.output_dir


def test_a_tracker_gets_every_line_the_options_and_its_end(fake, options) -> None:
    folder = _run(options, f"{fake.__name__}:Fake")
    lines = read_lines(folder / "metrics.jsonl")
    told = [(step, values) for step, values in fake.EVENTS if isinstance(step, int)]
    assert told == [(line["step"], {k: v for k, v in line.items() if k != "step"}) for line in lines]
    assert {step for step, _ in told} >= {0, 1, 2, 3}
    names = [event for event, _ in fake.EVENTS if isinstance(event, str)]
    assert names == ["folder", "start", "config", "finish"]
    config = dict(fake.EVENTS)["config"]
    assert config["max_steps"] == 3
    assert all(isinstance(value, bool | int | float | str) for value in config.values())
    assert json.loads(config["report_to"]) == [f"{fake.__name__}:Fake"]


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(fake, options) -> None:
    folder = _run(options, f"{fake.__name__}:Breaks", f"{fake.__name__}:Fake")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert [note for note in record["notes"] if "Breaks failed and is dropped: ConnectionError" in note]
    steps = [event for event, _ in fake.EVENTS if isinstance(event, int)]
    assert steps.count(3) == 1  # the other one went on
    assert steps.count(1) == 2


def test_a_tracker_that_cannot_start_is_refused_and_leaves_nothing(fake, options) -> None:
    with pytest.raises(ConfigError, match="log in first"):
        _run(options, f"{fake.__name__}:Fake", f"{fake.__name__}:Refuses")
    assert not Path(str(options["output_dir"])).exists()
    assert fake.EVENTS[-1] == ("finish", None)  # the one that had started


def test_bad_input_after_the_start_ends_the_tracker(fake, options, monkeypatch) -> None:
    from assent.stages import run_models

    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("no such model")

    monkeypatch.setattr(run_models.RunModels, "add_learner", refuse)
    with pytest.raises(ConfigError, match="no such model"):
        _run(options, f"{fake.__name__}:Fake")
    assert fake.EVENTS[-1] == ("finish", None)
    assert not Path(str(options["output_dir"])).exists()


def test_only_trackers_are_taken(fake, options) -> None:
    with pytest.raises(ConfigError, match="subclass"):
        _run(options, f"{fake.__name__}:Other")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--report-to", "tensorbord"], "unknown tracker"),
        (["--report-to", "nowhere_at_all:Tracker"], "nowhere_at_all:Tracker is not installed"),
        (["--report-to", "wandb", "wandb"], "named twice"),
        (["--project", "p"], "project has no effect without mlflow or trackio or wandb in report_to"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(given, message, capsys, monkeypatch) -> None:
    monkeypatch.setattr("assent.config.trackers._is_installed", lambda module: module == "wandb")
    status, _, err = said(["sft", "--model", "m", "--data", "none.jsonl", "--output-dir", "o", *given], capsys)
    assert status == 2
    assert message in err
    assert "none.jsonl" not in err


def test_a_package_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setattr("assent.config.trackers._is_installed", lambda module: False)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        parse_options(SftConfig, {"model": "m", "data": "d", "output_dir": "o", "report_to": ["mlflow"]})


def test_tensorboard_writes_into_the_run_folder(options) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    folder = _run(options, "tensorboard")
    assert list((folder / "tensorboard").rglob("events.out.tfevents*"))


def test_the_fake_is_accelerates(fake) -> None:
    assert issubclass(fake.Fake, GeneralTracker)
