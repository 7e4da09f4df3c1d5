"""What the doctor costs: `assent doctor` on a long run, and the rules that a run asks of itself while it trains.

    python benchmarks/doctor_time.py --steps 10000

Writes a run of DPO and one of PPO with every metric that a rule reads, asks the command about each in a process of its
own, and feeds the same lines to what watches a live run, held-out figures at every hundredth.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from assent.diagnosis.case import make_case
from assent.diagnosis.rules import all_rules
from assent.diagnosis.watch import Watch

STAGES = ("dpo", "ppo")
OPTIONS = {
    "loss_type": "sigmoid",
    "beta": 0.1,
    "learning_rate": 1e-5,
    "kl_coef": 0.05,
    "output_dir": "run",
    "data": "d",
}


def rows_of(stage: str, steps: int) -> list[dict[str, float]]:
    """Lines of a healthy run: curves with noise, so that every rule looks at all of them."""
    rng = random.Random(stage)
    names = sorted({name for rule in all_rules() if stage in rule.stages for name in rule.names})
    rows = []
    for step in range(1, steps + 1):
        part = step / steps
        row = {"step": step, "epoch": part}
        for name in names:
            if not name.startswith("eval_"):
                row[name] = 0.5 + 0.2 * part + 0.05 * rng.gauss(0, 1)
            elif step % 100 == 0:
                row[name] = 0.5 - 0.2 * part
        row |= {"loss": math.log(2) - 0.2 * part + 0.02 * rng.gauss(0, 1), "learning_rate": 1e-5 * (1 - part)}
        rows.append(row)
    return rows


def command_seconds(stage: str, rows: list[dict[str, float]], folder: Path) -> float:
    run = folder / stage
    run.mkdir()
    manifest = {
        "format": 1,
        "command": stage,
        "config": OPTIONS,
        "hashes": {},
        "status": "finished",
        "facts": {},
        "notes": [],
    }
    (run / "run.json").write_text(json.dumps(manifest))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "assent", "doctor", str(run), "--fail-on", "never"], check=True, stdout=2)
    return time.perf_counter() - began


def watch_seconds(stage: str, rows: list[dict[str, float]]) -> float:
    watch = Watch(report=lambda finding: None, stop_on=None, about=make_case({}, config=OPTIONS, stage=stage))
    began = time.perf_counter()
    for row in rows:
        watch(int(row["step"]), row)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    found: dict[str, Any] = {"steps": steps}
    with tempfile.TemporaryDirectory() as scratch:
        for stage in STAGES:
            rows = rows_of(stage, steps)
            found[stage] = {
                "metrics": len(rows[99]) - 1,
                "assent_doctor_seconds": round(command_seconds(stage, rows, Path(scratch)), 2),
                "live_ms_per_step": round(1000 * watch_seconds(stage, rows) / steps, 3),
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
