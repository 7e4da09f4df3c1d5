"""A pipeline is checked whole before it starts; what is finished is not repeated; what was interrupted goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from assent.commands.tools import report_on
from assent.config.options import Options
from assent.errors import AssentError, ConfigError, RunFolderError
from assent.pipelines import plan as planning
from assent.pipelines import steps
from assent.pipelines.plan import read_plan
from assent.pipelines.runner import run_pipeline
from assent.pipelines.steps import Step
from assent.runs.folder import lock_folder
from assent.runs.progress import Silent
from tests.support.cli import files_in, said


class WriteConfig(Options):
    """Writes a file."""

    output_dir: str
    """Where."""
    text: str = "a"
    """What."""
    source: str | None = None
    """A file to put before it."""
    parts: dict[str, str] = Field(default_factory=dict)
    """More files."""
    times: int = 1
    """How often."""
    seed: int = 0
    """Its number."""


CALLS: list[tuple[str, WriteConfig]] = []
FAILING: set[str] = set()


def write(config: WriteConfig, *, progress: Any) -> dict[str, Any]:
    name = Path(config.output_dir).name
    CALLS.append((name, config))
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    if name in FAILING:
        raise KeyboardInterrupt
    before = Path(config.source).read_text() if config.source else ""
    before += "".join(Path(path).read_text() for path in config.parts.values())
    path = Path(config.output_dir) / "out.txt"
    path.write_text(before + config.text * config.times)
    return {"file": path, "size": path.stat().st_size, "lines": [f"{name} says {path.read_text()}"]}


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"write": Step(f"{__name__}:WriteConfig", f"{__name__}:write", outputs=("file", "size"))}
    for module in (steps, planning):
        monkeypatch.setattr(module, "STEPS", here)
    monkeypatch.setattr(steps, "_imported", lambda location: globals()[location.partition(":")[2]])
    CALLS.clear()
    FAILING.clear()


TWO = """
name: two
stages:
  - name: first
    command: write
    options: {text: x, times: 2}
    fast: {times: 1}
  - name: second
    command: write
    options:
      text: y
      source: ${first.file}
      parts: {again: "${first.file}"}
"""


def written(tmp_path: Path, text: str = TWO) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def run(tmp_path: Path, text: str = TWO, **options: Any) -> dict[str, dict[str, Any]]:
    plan = read_plan(written(tmp_path, text), output_dir=str(tmp_path / "out"), **options)
    return run_pipeline(plan, report=report_on, progress=Silent()).outputs


def names() -> list[str]:
    return [name for name, _ in CALLS]


def test_stages_run_in_order_and_take_from_earlier_ones(tmp_path: Path) -> None:
    outputs = run(tmp_path)
    assert names() == ["first", "second"]
    assert Path(outputs["second"]["file"]).read_text() == "xxxxy"
    assert outputs["second"]["size"] == 5
    record = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert [entry["name"] for entry in record["stages"]] == ["first", "second"]
    assert record["stages"][1]["options"]["source"] == outputs["first"]["file"]
    assert record["stages"][1]["result"]["size"] == 5
    assert "first" in (tmp_path / "out" / "report.html").read_text()


def test_a_finished_pipeline_is_not_repeated_and_gives_the_same(tmp_path: Path) -> None:
    first = run(tmp_path)
    CALLS.clear()
    assert run(tmp_path) == first
    assert names() == []


def test_an_interrupted_stage_goes_on_and_finished_ones_stand(tmp_path: Path) -> None:
    FAILING.add("second")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    record = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert [entry["result"] is None for entry in record["stages"]] == [False, True]
    FAILING.clear()
    CALLS.clear()
    outputs = run(tmp_path)
    assert names() == ["second"]
    assert Path(outputs["second"]["file"]).read_text() == "xxxxy"


def test_changed_options_are_refused_until_the_folders_go(tmp_path: Path) -> None:
    run(tmp_path)
    before = files_in(tmp_path / "out")
    CALLS.clear()
    with pytest.raises(RunFolderError, match="first, second") as caught:
        run(tmp_path, overrides=["first.text=z"])
    assert str(tmp_path / "out" / "second") in str(caught.value)
    assert (names(), files_in(tmp_path / "out")) == ([], before)
    with pytest.raises(RunFolderError, match="other options or inputs: second"):
        run(tmp_path, overrides=["second.text=z"])
    (tmp_path / "out" / "second" / "out.txt").unlink()
    (tmp_path / "out" / "second").rmdir()
    outputs = run(tmp_path, overrides=["second.text=z"])
    assert names() == ["second"]
    assert Path(outputs["second"]["file"]).read_text() == "xxxxz"


def test_a_changed_input_file_is_a_changed_stage(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    text = f"name: one\nstages:\n  - {{name: only, command: write, options: {{source: '{source}'}}}}\n"
    source.write_text("1")
    run(tmp_path, text)
    run(tmp_path, text)
    assert names() == ["only"]
    source.write_text("2")
    with pytest.raises(RunFolderError, match="other options or inputs: only"):
        run(tmp_path, text)


def test_fast_seed_and_set_reach_the_stages(tmp_path: Path) -> None:
    run(tmp_path, fast=True, seed=7, overrides=["second.seed=9", "second.text=no"])
    (_, first), (_, second) = CALLS
    assert (first.times, first.seed) == (1, 7)
    assert (second.seed, second.text) == (9, "no")


def test_set_takes_mappings_and_null_as_the_file_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", written(tmp_path), "--output-dir", tmp_path / "out"]
    argv += ["--set", 'second.parts={one: "${first.file}", two: "${first.file}"}', "--set", "second.source=null"]
    status, out, err = said(argv, capsys)
    assert status == 0, err
    assert "second says xxxxy" in out
    assert CALLS[1][1].source is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RunFolderError, match="belongs to another pipeline"):
        run(tmp_path, TWO.replace("name: two", "name: three"))
    (tmp_path / "out" / "pipeline.json").unlink()
    with pytest.raises(RunFolderError, match="holds something else"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("${first.file}\n", "${frist.file}\n", r"\$\{frist.file\} of stage second: unknown earlier stage: frist"),
        ("${first.file}\n", "${first.fil}\n", r"unknown output of write: fil\n.*did you mean file\?"),
        ("${first.file}\n", "${first}\n", r"\$\{first\} of stage second: there is no variable\n.*\$\{STAGE.OUTPUT\}"),
        ("${first.file}\n", "${first.file\n", r"a reference of stage second is not closed\n.*\$\{first.file\n"),
        ('"${first.file}"', '"${first.file} ${first.size"', "a reference of stage second is not closed"),
        ('"${first.file}"', '"${{first.file}}"', "a reference of stage second is not closed"),
        ("${first.file}\n", "${second.file}\n", "unknown earlier stage: second"),
        ("text: x", 'source: "${second.file}"', "there is no earlier stage"),
        ('"${first.file}"', '"${third.file}"', "unknown earlier stage: third"),
        ("text: y", "txt: y", r"unknown option: txt of stage second\n.*did you mean text\?"),
        ("text: y", "times: often", "times of stage second is not right"),
        ("text: y", "output_dir: o", "output_dir of stage second is set by the pipeline"),
        ("command: write\n    options:\n", "command: wriet\n    options:\n", r"unknown command: wriet of stage second"),
        ("name: second", "name: first", "two stages have the name first"),
        ("name: second", "name: a/b", "name of stage a/b in .* is not right"),
        ("name: second\n", "nam: second\n", "unknown option: nam of stage 2"),
        ("fast: {times: 1}", "fast: {tims: 1}", "unknown option: tims of stage first"),
        ('"${first.file}"', "${first.file}", r"not valid YAML\n.*line 13.*\n.*in quotes"),
        ("name: two\n", "nmae: two\n", "unknown option: nmae"),
        ("name: two\n", "name: two\nseed: -1\n", "seed in .* is not right"),
    ],
)
def test_a_fault_anywhere_is_found_before_anything_runs(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TWO
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, TWO.replace(old, new))
    assert names() == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": ["third.text=x"]}, "unknown stage in --set: third"),
        ({"overrides": ["first.txet=x"]}, "unknown option: txet of stage first"),
        ({"overrides": ["first=x"]}, "(?s)--set cannot be read.*STAGE.OPTION=VALUE, as the file has no variables"),
        ({"overrides": ["first.text"]}, "--set cannot be read"),
        ({"overrides": ["first.times=1", "first.times=1"]}, "--set gives first.times twice"),
        ({"overrides": ["second.parts={a"]}, "not valid YAML"),
        ({"overrides": ["second.source=${first.file"]}, "is not closed"),
    ],
)
def test_an_override_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, **options)
    assert names() == []


VARIED = """
name: varied
variables: {folder: here, times: 2}
stages:
  - name: first
    command: write
    options: {text: "${folder}/a ", times: "${times}"}
    fast: {times: 1}
  - name: second
    command: write
    options: {text: "${folder}", source: "${first.file}"}
"""


def test_variables_stand_in_options_and_set_overrides_them(tmp_path: Path) -> None:
    outputs = run(tmp_path, VARIED)
    assert Path(outputs["second"]["file"]).read_text() == "here/a here/a here"
    assert CALLS[0][1].times == 2
    (tmp_path / "other").mkdir()
    outputs = run(tmp_path / "other", VARIED, overrides=["folder=there", "second.text=${folder}!", "times=1"])
    assert Path(outputs["second"]["file"]).read_text() == "there/a there!"


def test_a_run_with_another_value_of_a_variable_is_another_run_where_it_is_used(tmp_path: Path) -> None:
    text = VARIED.replace('"${folder}", source: "${first.file}"', "b")
    run(tmp_path, text)
    with pytest.raises(RunFolderError, match="other options or inputs: first\n"):
        run(tmp_path, text, overrides=["folder=there"])


@pytest.mark.parametrize(
    ("old", "new", "overrides", "message"),
    [
        ("${folder}/a", "${fodler}/a", [], r"(?s)\$\{fodler\} of stage first: unknown variable: fodler.*mean folder\?"),
        ("here", "null", [], r"variable folder of .* has no value\n.*--set folder=VALUE"),
        ("here", "[a, b]", [], "variable folder of .* holds more than one value"),
        ("times: 2}", "times: 2, more: 3}", [], r"variable more of .* has no effect: no stage has \$\{more\}"),
        ("times: 2}", "times: 2, first: 3}", [], "variable first of .* has no effect"),
        ("times: 2}", "times: often}", [], "times of stage first is not right"),
        ("here", "there", ["fodler=x"], r"(?s)unknown variable in --set: fodler.*mean folder\?"),
        ("here", "there", ["folder=x", "folder=y"], "--set gives folder twice"),
        ("here", "there", ["first.=y"], "--set cannot be read"),
    ],
)
def test_a_variable_that_cannot_be_is_refused(
    tmp_path: Path, old: str, new: str, overrides: list[str], message: str
) -> None:
    assert old in VARIED
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, VARIED.replace(old, new), overrides=overrides)
    assert names() == []


def test_fast_without_a_fast_section_and_a_missing_output_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--fast has no effect"):
        run(tmp_path, TWO.replace("    fast: {times: 1}\n", ""), fast=True)
    with pytest.raises(ConfigError, match="no output folder"):
        read_plan(written(tmp_path))


def test_a_pipeline_that_another_process_runs_is_left_alone(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"), pytest.raises(RunFolderError, match="in use by another process"):
        run(tmp_path)
    assert names() == []
    run(tmp_path)
    assert names() == ["first", "second"]


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "out" / "pipeline.json").write_text("{")
    with pytest.raises(AssentError, match="cannot be read"):
        run(tmp_path)


def test_the_command_prints_what_stages_say_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", written(tmp_path), "--output-dir", tmp_path / "out", "--set", "first.times=1"]
    status, out, err = said(argv, capsys)
    assert status == 0
    assert out == f"first says x\n\nsecond says xxy\n\nreport: {tmp_path}/out/report.html\n"
    assert "stage 1 of 2: first (write)" in err
    status, out, _ = said([*argv, "--json"], capsys)
    assert json.loads(out)["stages"]["second"]["size"] == 3
    assert said(["run", tmp_path / "none.yaml"], capsys)[0] == 2


def test_a_finished_stage_whose_record_is_damaged_runs_again(tmp_path: Path) -> None:
    """A stage that trains says what to do about it; this one leaves the damaged file, at which the report ends."""
    run(tmp_path)
    CALLS.clear()
    (tmp_path / "out" / "second" / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match="is damaged"):
        run(tmp_path)
    assert names() == ["second"]


def test_a_pipeline_under_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AssentError, match="one process"):
        run(tmp_path)
    assert names() == []
