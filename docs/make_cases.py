"""Runs cases and keeps what they print in docs/cases, for their pages in the site.

    python docs/make_cases.py [NUMBER ...] [--limit SECONDS]

Without numbers, all. A case that takes longer than the limit is named, and its output stays as it was. The head line of
an output names the hash of what it was printed by, so that a test sees when the case has changed since, and the time of
the processor, which does not depend on what else runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
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


def _seconds() -> float:
    """Processor time of the cases that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def source_hash(case: Path) -> str:
    """The beginning of the SHA-256 of the case and of the modules beside it that it imports."""
    text = case.read_text("utf-8")
    beside = sorted(set(re.findall(r"^from (\w+) import|^import (\w+)$", text, flags=re.MULTILINE)))
    files = [case, *(path for pair in beside if (path := case.with_name(f"{pair[0] or pair[1]}.py")).is_file())]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def keep(case: Path, limit: float) -> bool:
    began = _seconds()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
        try:
            done = subprocess.run(
                [sys.executable, str(case)],
                check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{case.name}: took more than {limit:g} seconds; its output is not kept anew", file=sys.stderr)
            return False
    seconds = _seconds() - began
    if done.returncode != 0 or folder in done.stdout:
        what = done.stderr[-500:] if done.returncode else "its output names the folder that it ran in"
        print(f"{case.name}: status {done.returncode}: {what}", file=sys.stderr)
        return False
    took = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    head = f"Kept on {date.today()}, of source {source_hash(case)}; it takes {took} of one core."
    said = re.sub(re.escape(tempfile.gettempdir()) + r"/tmp\w+/", "", done.stdout)  # folders of a case's own
    said = said.replace(f"{ROOT}/", "")
    (KEPT / f"{case.stem}.txt").write_text(f"{head}\n{said}", "utf-8")
    print(f"{case.name}: {took}")
    return True


if __name__ == "__main__":
    sys.exit(main())
