"""The walk of architectures: its page is its figures, and common types beside those of tests/invariance pass it."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.docs import ROOT
from tests.support.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return load_script(ROOT / "benchmarks" / "architectures.py")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_page_is_the_kept_figures_of_every_type(script: ModuleType) -> None:
    make = load_script(ROOT / "docs" / "make_architectures.py")
    document = json.loads(make.FOUND.read_text(encoding="utf-8"))
    assert list(document["architectures"]) == script.TYPES
    page = make.PAGE.read_text(encoding="utf-8")
    assert page == make.page(document), "write it anew: make architectures (python docs/make_architectures.py)"
    assert all(f"`{name}`" in page for name in script.TYPES)


COMMON = {
    "gemma3": "segments",
    "gemma4_text": "segments",
    "deepseek_v3": "segments",
    "glm4_moe": "segments",
    "cohere2": "segments",
    "llama4_text": "padded",
    "lfm2": "padded",
}
"""Beside tests/support/architectures.py."""


@pytest.mark.parametrize("model_type", COMMON)
def test_common_architectures_give_the_plain_models_numbers_in_every_command(
    script: ModuleType, model_type: str
) -> None:
    found = script.walk(model_type)
    assert not found["failed"]
    assert found["policy tier"] == found["scorer tier"] == COMMON[model_type]
    for what in ("policy difference", "policy gradient", "scorer difference", "scorer gradient"):
        assert found[what] <= 1e-4
        assert found.get(f"{what} in float64", found[what]) <= 1e-5
    assert found["sample difference"] <= 2e-5


def test_one_that_takes_too_long_is_ended_and_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(model_type: str, *, at: Callable[[tuple[str, object]], None]) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_CPU)[0] - int(time.process_time())
        at(("policy", {"failed": {}, "allowed": allowed}))
        os.kill(os.getpid(), signal.SIGXCPU)  # what the system sends after these seconds

    monkeypatch.setattr(script, "walk", walk)
    found = script.apart("llama", cache=str(tmp_path))
    assert found == {"failed": {"policy": "more than 20 CPU seconds"}, "allowed": script.CPU_SECONDS}
