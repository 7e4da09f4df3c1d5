"""How fast are two workers beside one, and does memory stay flat, on a long file of simulated work?

    python benchmarks/sharded_work.py [--rows 1000000] [--engines local ray] [--micros 100]

`assent score` with a reward that does nothing but take its time: `--micros` of a core's time for each row, or with
`--sleep` so much waiting, as for a device. Each engine does it with one worker and with two; with one, on half of the
rows, so that both take as long. The rate is taken while all workers work: rows of the shards that were done between the
first one and the last, by the times of their files; starting workers and joining shards are told apart. Twice a second
the private memory (RssAnon) of the command and of each of its descendants is read; its slope is that of soak.py, over
the time in which the rate is taken. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.5


def busy(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Takes a core's time. Other work on the core does not shorten it."""
    until = time.thread_time() + len(completions) * float(os.environ["ASSENT_SIMULATED_MICROS"]) * 1e-6
    while time.thread_time() < until:
        pass
    return [float(len(completion)) for completion in completions]


def waiting(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Waits, as a process does for its device."""
    time.sleep(len(completions) * float(os.environ["ASSENT_SIMULATED_MICROS"]) * 1e-6)
    return [float(len(completion)) for completion in completions]


def write_rows(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in range(rows):
            stream.write(json.dumps({"prompt": f"question {row}", "completion": " answer" * (row % 7 + 1)}) + "\n")


def private_memory(root: int) -> tuple[float, float]:
    """Bytes of private memory of the process, and of all its descendants."""
    parents: dict[int, int] = {}
    anonymous: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                lines = (folder / "status").read_text(encoding="utf-8").splitlines()
            except OSError:  # it has ended meanwhile
                continue
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            parents[int(folder.name)] = int(fields["PPid"])
            anonymous[int(folder.name)] = 1024.0 * int(fields.get("RssAnon", "0").split()[0])
    below, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below, grown = below | more, bool(more)
    return anonymous.get(root, 0.0), sum(anonymous.get(pid, 0.0) for pid in below - {root})


def while_all_work(done: Sequence[tuple[float, int]], workers: int) -> tuple[float, float, float | None]:
    """From when to when all workers work, and the rows a second between: `done` has when each shard was done, in order,
    and its rows. A shard that was begun before counts whole, as the one that is not done at the end does not."""
    (first, _), (last, _) = done[min(workers, len(done)) - 1], done[-min(workers, len(done))]
    rows = sum(size for at, size in done if first < at <= last)
    return first, last, rows / (last - first) if last > first else None


def run(args: argparse.Namespace, data: Path, rows: int, engine: str, workers: int, folder: Path) -> dict[str, Any]:
    """One command: its rate while all workers work, its times, its memory."""
    from soak import slope_of

    out = folder / f"{engine}-{workers}"
    reward = f"{Path(__file__).stem}:{'waiting' if args.sleep else 'busy'}"
    command = [
        sys.executable,
        "-m",
        "assent",
        "score",
        "--data",
        str(data),
        "--reward",
        reward,
        "--output-dir",
        str(out),
    ]
    command += ["--engine", engine, "--workers", str(workers), "--device", "cpu"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "ASSENT_SIMULATED_MICROS": str(args.micros)}
    began, readings = time.time(), []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        while process.poll() is None:
            readings.append((time.time(), *private_memory(process.pid)))
            time.sleep(PAUSE)
        said.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed with status {process.returncode}:\n{said.read()[-2000:]}")
    ended = time.time()
    scored = sum(1 for _ in (out / "scores.jsonl").open(encoding="utf-8"))
    manifest = json.loads((out / "shards" / "manifest.json").read_text())
    sizes = [shard["last"] - shard["first"] for shard in manifest["shards"]]
    files = sorted((out / "shards").glob("[0-9]*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    done = [(file.stat().st_mtime_ns / 1e9, sizes[int(file.stem)]) for file in files]
    first, last, rate = while_all_work(done, workers)
    within = [(at - first, own, others) for at, own, others in readings if first <= at <= last]
    memory = {
        name: slope_of([row[0] for row in within], [row[place] for row in within])
        for name, place in (("command_bytes", 1), ("descendants_bytes", 2))
    }
    return {
        "rows": rows,
        "rows_written": scored,
        "shards": len(done),
        "rows_a_second": rate,
        "seconds": {
            "until_the_first_shard": first - began,
            "whole": ended - began,
            "after_the_last": ended - done[-1][0],
        },
        "peak_bytes": {"command": max(row[1] for row in readings), "descendants": max(row[2] for row in readings)},
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--micros", type=float, default=100.0, help="of work for each row")
    parser.add_argument("--sleep", action="store_true", help="the work waits, in the place of a core's time")
    parser.add_argument("--engines", nargs="+", choices=["local", "ray"], default=["local", "ray"])
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workers, rows in ((1, args.rows // 2), (2, args.rows)):
            data = folder / f"rows-{workers}.jsonl"
            write_rows(data, rows)
            for engine in args.engines:
                found[f"{engine}, {workers}"] = one = run(args, data, rows, engine, workers, folder)
                print(f"{engine}, {workers} workers: {one['rows_a_second']} rows/s", file=sys.stderr)
    shares = {}
    for engine in args.engines:
        one, two = (found[f"{engine}, {workers}"]["rows_a_second"] for workers in (1, 2))
        shares[engine] = two / (2 * one) if one and two else None
    options = {"micros": args.micros, "work": "waiting" if args.sleep else "a core's time", "cores": os.cpu_count()}
    print(json.dumps({**options, "share_of_two_workers": shares, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
