"""assent plan --measure: two real steps of a planned stage, in a process of their own, beside what the plan says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assent.errors import RunError
from assent.planning.setup import ONLINE
from assent.runs.files import read_lines, write_json
from assent.runs.folder import MANIFEST, METRICS
from assent.stages.planned import NO_PLAN

STEPS = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """first, second     peak bytes above what the process held, until the end of that step
    planned             what the plan expected of them
    seconds_per_step    of the second step, sampling included
    """

    first: float
    second: float
    planned: float
    seconds_per_step: float

    @property
    def error(self) -> float:
        return self.planned / self.second - 1

    def seconds(self, steps: int) -> float:
        """Of a whole stage of so many steps, without its start."""
        return steps * self.seconds_per_step

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error}


def measured(command: str, options: Mapping[str, Any]) -> Measured:
    """Runs `assent COMMAND` with these options for two steps. Raises RunError if it fails."""
    limit = {"total_steps": STEPS} if command in ONLINE else {"max_steps": STEPS}
    with tempfile.TemporaryDirectory() as folder:
        given = {name: value for name, value in options.items() if value not in (None, {}, [])}
        run = Path(folder) / "run"
        file = Path(folder) / "options.yaml"  # JSON is YAML
        write_json(file, {**given, **limit, "output_dir": str(run), "save_steps": 0, "stop": False})
        line = [sys.executable, "-m", "assent", command, "--config", str(file), "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(
                f"two steps of {command} could not be measured",
                got=done.stderr.strip()[-1000:],
                fix="mend what it says, or leave --measure out",
            )
        manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
        plan = manifest["facts"].get("plan")
        if plan is None:
            told = [note for note in manifest.get("notes", []) if NO_PLAN in note]
            raise RunError(
                "the run made no plan to compare with",
                got="; ".join(told) or f"the sizes of {options.get('model')} are not told by its configuration",
                fix="leave --measure out",
            )
        rows = [row for row in read_lines(run / METRICS) if "cost/peak_memory_bytes" in row]  # the steps
    before = rows[-1]["cost/planned_memory_bytes"] - plan["memory_bytes"]
    first, second = (row["cost/peak_memory_bytes"] - before for row in rows[:STEPS])
    seconds = rows[1]["cost/seconds"] - rows[0]["cost/seconds"]
    return Measured(first, second, plan["memory_bytes"], seconds)
