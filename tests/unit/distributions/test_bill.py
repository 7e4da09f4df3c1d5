"""The bill of materials beside a release: Assent at its root, what it needs, who needs whom, and no folder's name."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import assent
from tests.support.docs import ROOT
from tests.support.scripts import load_script

make_dist = load_script(ROOT / "distributions" / "make_dist.py")
TOOLS = ROOT / "build" / "dist" / "tools" / "bin" / "python"
INSTALLED = {
    f"assent {assent.__version__}": ["pydantic>=2"],
    "pydantic 2.99": ["beta"],
    "beta 2.0": [],
}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment in which Assent and what it needs are installed, as far as their metadata say."""
    found: Path = make_dist.environment(sys.executable, tmp_path / "env")
    [packages] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for name, needs in INSTALLED.items():
        folder = packages / f"{name.replace(' ', '-')}.dist-info"
        folder.mkdir()
        package, version = name.split()
        lines = ["Metadata-Version: 2.4", f"Name: {package}", f"Version: {version}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), "", ""]))
    return found


def billed(python: Path, file: Path) -> dict[str, Any]:
    make_dist.run(make_dist.bill(TOOLS, python, file))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.skipif(not TOOLS.exists(), reason="make dist installs what writes bills")
def test_it_lists_what_the_wheel_needs_and_who_needs_whom(python: Path, tmp_path: Path) -> None:
    found = billed(python, tmp_path / "first.json")
    root = found["metadata"]["component"]
    assert (root["name"], root["version"], root["type"]) == ("assent", assent.__version__, "library")
    references = {part["bom-ref"]: part["name"] for part in [root, *found["components"]]}
    assert sorted(part["name"] for part in found["components"]) == ["beta", "pydantic"]
    needs = {references[one["ref"]]: [references[n] for n in one.get("dependsOn", ())] for one in found["dependencies"]}
    assert needs == {"assent": ["pydantic"], "pydantic": ["beta"], "beta": []}
    billed(python, tmp_path / "second.json")
    first, second = ((tmp_path / f"{name}.json").read_bytes() for name in ("first", "second"))
    assert first == second
    assert str(tmp_path).encode() not in first


def test_the_version_is_one() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        assert tomllib.load(stream)["project"]["version"] == assent.__version__
    assert f"\n## {assent.__version__}, " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_runs_does_not_see_a_source_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert str(tmp_path) not in make_dist.run([sys.executable, "-c", "import sys; print(sys.path)"]).stdout


def test_a_command_that_fails_ends_the_program() -> None:
    failing = [sys.executable, "-c", "import sys; print('why'); sys.exit(3)"]
    with pytest.raises(SystemExit, match="why"):
        make_dist.run(failing)
    assert isinstance(make_dist.run(failing, check=False), subprocess.CompletedProcess)
