"""The plan that a run compares itself with: a run never ends because its plan cannot be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.cli import main
from assent.stages import planned
from tests.support.stages import arguments, write_inputs


def test_a_run_whose_plan_fails_trains_without_one_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("sizes differ\nby layer")

    monkeypatch.setattr(planned, "predict", fails)
    assert main(arguments("sft", write_inputs(tmp_path), tmp_path / "run")) == 0
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["facts"]["plan"] is None
    assert "this run has no plan to be compared with: RuntimeError: sizes differ" in manifest["notes"]
