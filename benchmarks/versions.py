"""Does the package, built and installed, work on the lowest and the newest versions of what it stands on?

Builds wheel and sdist, installs the wheel into an empty environment for each combination of interpreter, torch and
transformers, runs `assent --help`, `assent demo --fast` and the quick tests (golden, properties) there, and
writes the bill of materials (CycloneDX) of each environment. An environment in which all passed is removed again.

    python benchmarks/versions.py WORK --python python3.11 python3.13 --set torch=2.11.0,transformers=5.17.0
        --set torch=2.15.0,transformers=5.24.0

Each combination downloads up to 3 GB where the index has torch's CUDA build alone. Prints one JSON document: passed or
failed, at which step and with which last lines, and what of the interpreters named was not found.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "distributions"))
from make_dist import bill, build, environment, run, tools_in

QUICK = ("tests/golden", "tests/properties")
TEST_TOOLS = ("pytest", "hypothesis", "pytest-xdist")
TRIED = ("torch", "transformers", "accelerate", "peft", "datasets", "numpy", "pydantic", "cyclopts")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--set", action="append", default=[], metavar="PACKAGE=VERSION,…", help="one combination")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tools = tools_in(work / "tools")
    wheel = build(tools, work / "dist")
    built = sorted(path.name for path in (work / "dist").iterdir())
    rows, absent = [], []
    for python in given.python:
        if shutil.which(python) is None:
            absent.append(python)
            continue
        for pins in given.set or [""]:
            rows.append(combination(work, tools, wheel, python=python, pins=pins))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    document = {"date": str(date.today()), "built": built, "combinations": rows, "interpreters_not_found": absent}
    print(json.dumps(document, indent=2))
    return int(any(row["failed"] for row in rows))


def combination(work: Path, tools: Path, wheel: Path, *, python: str, pins: str) -> dict[str, object]:
    """Installs and tries one combination. It stops at the first step that fails."""
    name = f"{Path(python).name}-{pins or 'resolved'}".replace(",", "-").replace("=", "")
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    ours = environment(python, folder / "env")
    pip = [tools, "-m", "pip", "--python", ours]
    pinned = [part.replace("=", "==", 1) for part in pins.split(",") if part]
    steps: list[tuple[str, list[object]]] = [
        ("install", [*pip, "install", "--quiet", *pinned, wheel]),
        ("bill", bill(tools, ours, work / f"{name}.cdx.json")),
        ("help", [ours, "-m", "assent", "--help"]),
        ("demo", [ours, "-m", "assent", "demo", "--fast", "--output-dir", folder / "demo"]),
        ("test tools", [*pip, "install", "--quiet", *TEST_TOOLS]),
        ("quick tests", [ours, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *QUICK]),
    ]
    began, failed, last = time.monotonic(), None, ""
    for step, command in steps:
        done = run(command, check=False)
        last = (done.stdout + done.stderr).strip()[-800:]
        if done.returncode != 0:
            failed = step
            break
    listed = run([*pip, "list", "--format", "json"], check=False).stdout or "[]"
    versions = {row["name"]: row["version"] for row in json.loads(listed)}
    row = {
        "python": run([ours, "--version"]).stdout.split()[1],
        "versions": {package: versions.get(package) for package in TRIED},
        "failed": failed,
        "last_lines": last.splitlines()[-1:] if failed is None else last.splitlines()[-12:],
        "seconds": round(time.monotonic() - began),
    }
    if failed is None:
        shutil.rmtree(folder)
    return row


if __name__ == "__main__":
    sys.exit(main())
