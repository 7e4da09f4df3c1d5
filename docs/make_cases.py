"""Runs cases and keeps what they print in docs/cases, for their pages in the site.

    python docs/make_cases.py [NUMBER ...] [--limit SECONDS]

Without numbers, all. A case that takes longer than the limit is named, and keeps no output.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "cases"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--limit", type=float, default=600.0)
    given = parser.parse_args()
    failed = 0
    for case in sorted(ROOT.glob("examples/cases/[0-9]*.py")):
        if not given.numbers or int(case.name[:2]) in given.numbers:
            failed += not keep(case, given.limit)
    return int(failed > 0)


def keep(case: Path, limit: float) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
        try:
            done = subprocess.run(
                [sys.executable, str(case)],
                check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{case.name}: took more than {limit:g} seconds; nothing is kept", file=sys.stderr)
            return False
    seconds = time.monotonic() - began
    if done.returncode != 0 or folder in done.stdout:
        what = done.stderr[-500:] if done.returncode else "its output names the folder that it ran in"
        print(f"{case.name}: status {done.returncode}: {what}", file=sys.stderr)
        return False
    took = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    (KEPT / f"{case.stem}.txt").write_text(
        f"Kept on {date.today()}; took {took} on one core of two.\n{done.stdout}", "utf-8"
    )
    print(f"{case.name}: {took}")
    return True


if __name__ == "__main__":
    sys.exit(main())
