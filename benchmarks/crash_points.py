"""Every write, rename and fsync of a tiny run fails once: by a kill, a full disk, a broken disk. What is left?

    PYTHONPATH=. python benchmarks/crash_points.py [--scenario sft] [--fault kill ENOSPC EIO] [--from 0] [--every 1]

The run must be usable, a verified checkpoint must not be lost, and the resumed run must end to the bit as the whole one
(tests/support/crash_points.py). Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import assent  # first, for the settings that it makes before torch is imported


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", default="sft")
    parser.add_argument("--fault", nargs="+", default=["kill", "ENOSPC", "EIO"])
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    from tests.support.crash_points import CrashPoints
    from tests.support.kills import inputs_for_kills

    started, faults, tried = time.monotonic(), list[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        run = CrashPoints(args.scenario, Path(folder) / "work", inputs_for_kills(Path(folder)))
        for number in range(args.first, len(run.points), args.every):
            for fault in args.fault:
                tried[fault] += 1
                found = run.fault_of(number, fault)
                faults += [found] if found else []
    print(
        json.dumps(
            {
                "assent": assent.__version__,
                "scenario": args.scenario,
                "points": len(run.points),
                "by_kind": dict(Counter(point.what.split()[0] for point in run.points)),
                "tried": dict(tried),
                "faults": faults,
                "seconds": round(time.monotonic() - started),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
