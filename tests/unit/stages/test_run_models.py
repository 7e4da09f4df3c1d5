"""A run's models leave memory when it ends, without waiting for Python to look for cycles."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from assent.cli import main
from assent.models.module import AlignmentModel
from tests.support.stages import arguments, write_inputs


@pytest.mark.parametrize(("command", "more"), [("reward", ["--lora-r", "2"]), ("dpo", []), ("ppo", [])])
def test_a_runs_models_leave_memory_with_it(
    command: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next stage of a pipeline, in the same process, would otherwise hold them beside its own."""
    made: list[ref[AlignmentModel]] = []
    begin = AlignmentModel.__init__

    def noted(self: AlignmentModel, *args: Any, **keywords: Any) -> None:
        made.append(ref(self))
        begin(self, *args, **keywords)

    monkeypatch.setattr(AlignmentModel, "__init__", noted)
    # pytest keeps what is logged, and a library logs an exception, whose frames hold a model.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    inputs = write_inputs(tmp_path)
    gc.collect()
    gc.disable()
    try:
        assert main(arguments(command, inputs, tmp_path / "run") + more) == 0
        left = [one() for one in made]
        assert made
        assert not any(module is not None for module in left)
    finally:
        gc.enable()
