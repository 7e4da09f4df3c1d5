"""examples/notebooks: every cell runs, from top to bottom, in a process of its own; no output is kept in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docs import ROOT

NOTEBOOKS = sorted(ROOT.glob("examples/notebooks/*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(code_of(notebook)), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "ASSENT_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, str(script)], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if notebook.stem == "own_data":
        assert "wins vs start" in done.stdout


def test_pairs_may_be_a_file_and_instruction_tuning_may_be_left_out(tmp_path: Path) -> None:
    """As the notebook says: nothing after that cell names what it alone made, and the cell reads a file's lines."""
    cells = code_of(ROOT / "examples/notebooks/own_data.ipynb")
    [number] = [i for i, cell in enumerate(cells) if "assent.sft(" in cell]
    assert not any("sft" in cell for cell in cells[number + 1 :])
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    names: dict[str, object] = {"json": json, "Path": Path, "pairs": str(tmp_path / "pairs.jsonl")}
    exec(cells[number].partition("sft = ")[0], names)
    assert names["answers"] == [{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "r"}]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_no_output_is_kept_in_a_notebook(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_notebooks_are_there() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["own_data", "ppo_term_by_term"]
