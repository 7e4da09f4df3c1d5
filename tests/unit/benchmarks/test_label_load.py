"""The simulated annotators label everything, and nothing is lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "label_load.py"


def test_simulated_annotators_label_everything() -> None:
    argv = [sys.executable, str(SCRIPT), "--items", "12", "--annotators", "3", "--think", "0", "--stored", "30"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert (found["answers_sent"], found["lost"], found["left"]) == (12, 0, 0)
    assert (found["judged_twice"], found["given_twice"]) == (0, 0)
    assert found["next_item_ms"]["p95"] > 0
