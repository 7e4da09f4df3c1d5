"""`pip install assent-doctor`: built and installed beside pydantic alone, and asked what `assent` is asked."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.config.doctor import LogDoctorConfig
from assent.runs.files import to_json
from tests.support.diagnosis import dpo_rows, write_run
from tests.support.docs import ROOT

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    built = folder / "distributions" / "assent-doctor"
    shutil.copytree(ROOT / "distributions" / "assent-doctor", built)
    (folder / "src").symlink_to(ROOT / "src")
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    subprocess.run([*PIP, "wheel", *offline, "-w", str(folder), str(built)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the distribution and what it declares to need, and nothing else."""
    site = wheel.parent / "site"
    options = ("--no-deps", "--no-index", "--quiet", "--no-compile", "--target", str(site))
    subprocess.run([*PIP, "install", *options, str(wheel)], check=True)
    (folder,) = site.glob("assent_doctor-*.dist-info")
    for needed in closure(metadata.PathDistribution(folder).requires or []):
        for file in metadata.files(needed) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)
    return site


def closure(requirements: list[str]) -> set[str]:
    """Names of the distributions, with those that they need."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        text, _, marker = waiting.pop().partition(";")
        name = re.split(r"[^\w.-]", text)[0]
        if name not in found and "extra" not in marker and "python_version <" not in marker:
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def asked(site: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    """Runs it without the packages of this environment."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1"}
    code = [sys.executable, "-S", "-m", "assent_doctor", *map(str, argv)]
    return subprocess.run(code, capture_output=True, text=True, check=False, env=environment, cwd=site)


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    return write_run(tmp_path / "bad", dpo_rows([0.0] * 60), loss_type="sigmoid", beta=0.1, learning_rate=1e-9)


def test_it_is_small(installed: Path) -> None:
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file())
    assert size < 10 * MEGABYTE  # as docs/doctor.md says
    names = {path.name for path in installed.iterdir() if path.is_dir() and "." not in path.name and path.name != "bin"}
    assert names == {"assent_doctor", "pydantic", "pydantic_core", "annotated_types", "typing_inspection"}


def test_it_says_of_a_run_what_the_whole_package_says(installed: Path, stuck: Path) -> None:
    done = asked(installed, stuck, "--json")
    assert done.returncode == 1, done.stderr
    ours = assent.doctor(stuck)
    assert json.loads(done.stdout)["reports"] == json.loads(to_json(ours["reports"]))
    assert "FAULT  nothing_learned" in asked(installed, stuck).stdout


def test_it_says_of_another_trainers_log_what_the_whole_package_says(installed: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in dpo_rows([0.0] * 60)))
    settings = tmp_path / "theirs.json"
    settings.write_text(json.dumps({"beta": 0.3, "loss_type": "sigmoid"}))
    done = asked(installed, log, "--settings", settings, "--json")
    ours = assent.doctor(log, settings=settings)
    assert json.loads(done.stdout)["reports"] == json.loads(to_json(ours["reports"]))
    settings.rename(tmp_path / "theirs.yaml")
    refused = asked(installed, log, "--settings", tmp_path / "theirs.yaml")
    assert refused.returncode == 2
    assert "give the same as a .json file" in refused.stderr


def test_it_says_of_data_what_the_whole_package_says_without_numpy(installed: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"question {i}", "chosen": f"a long answer to number {i}", "rejected": f"no {i}"} for i in range(80)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows[:9]]))
    done = asked(installed, data, "--json", "--fail-on", "warning")
    assert done.returncode == 1, done.stderr
    (theirs,) = json.loads(done.stdout)["reports"]
    (ours,) = json.loads(to_json(assent.doctor(data)["reports"]))
    with_numpy = [finding for finding in ours["findings"] if finding["rule"] == "length_tells"]
    assert with_numpy
    assert theirs["findings"] == [finding for finding in ours["findings"] if finding not in with_numpy]
    assert {"rule": "length_tells", "reason": "needs numpy, which is not installed"} in theirs["not_checked"]


def test_bad_input_is_refused_in_the_same_words(installed: Path, stuck: Path) -> None:
    for argv, part in (
        ((), "nothing to look at"),
        (("absent",), "there is no absent"),
        ((stuck, "--refresh-seconds", "0"), "--refresh-seconds is not right"),
        ((stuck, "--apply", "x.yaml"), "unrecognized arguments: --apply"),
    ):
        done = asked(installed, *argv)
        assert done.returncode == 2, argv
        assert part in done.stderr
        assert "Traceback" not in done.stderr


def test_every_option_has_its_help(installed: Path) -> None:
    shown = " ".join(asked(installed, "--help").stdout.split())
    for name, field in LogDoctorConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown or name == "targets"
        assert field.description
        assert " ".join(field.description.split())[:30] in shown


def test_python_has_it_under_a_name_of_its_own(installed: Path, stuck: Path) -> None:
    code = f"""
import sys, assent_doctor
document = assent_doctor.doctor({str(stuck)!r})
assert document["exit_status"] == 1, document
assert [report["verdict"] for report in document["reports"]] == ["findings"]
from assent_doctor.integrations.trainer import doctor_callback
heavy = {{"assent", "numpy", "torch", "yaml", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False,
                          env=environment, cwd=installed)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert assent.__version__ == metadata.PathDistribution(next(installed.glob("assent_doctor-*"))).version


LEFT_OUT = {"assent_doctor/config/loading.py": {"assent_doctor.config.yaml_values"}}
"""Modules that a file imports inside functions and that are not there: each says so."""


def test_what_is_left_out_is_known(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    there = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files}
    left_out: dict[str, set[str]] = {}
    for name, text in files.items():
        for module in imports(text):
            assert module.partition(".")[0] != "assent", f"{name} imports {module}"
            if module.startswith("assent_doctor.") and module not in there:
                left_out.setdefault(name, set()).add(module)
    assert left_out == LEFT_OUT


def imports(text: str) -> set[str]:
    found: set[str] = set()
    nodes: list[Any] = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in nodes:
        found |= {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
    return found
