"""Time to the first step, and peak of memory, against the number of rows: tokens in memory, or in a mapped file?

    python benchmarks/large_files.py [--command dpo] [--rows 10000 100000 1000000] [--storage memory mapped]

Writes files of short comparisons, and trains one step of a tiny model on each, in a process of its own: with the tokens
in memory; in a mapped file that is made; and in one that is there already. Memory is the process's own (RssAnon,
sampled every 20 ms), which leaves out the pages of mapped files. Prints one JSON document: seconds from the command's
start to the end of the first step, peak bytes, and bytes a row between the smallest and the largest file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import assent  # first, for the settings that it makes before torch is imported


def write_rows(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for i in range(rows):
            row = {"prompt": f"what is {i} plus {i + 7}?", "chosen": f" it is {2 * i + 7}.", "rejected": f" no, {i}."}
            stream.write(json.dumps(row) + "\n")


def anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["RssAnon"].split()[0]) * 1024


def child(command: str, options: dict[str, Any]) -> None:
    """One run in this process: its seconds and its peak."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes())

    from assent.stages.session import Session

    threading.Thread(target=watch, daemon=True).start()
    started, first = time.monotonic(), [0.0]
    log_step = Session.log_step

    def logged(self: Session, *args: Any, **counts: int) -> None:
        first[0] = first[0] or time.monotonic() - started
        log_step(self, *args, **counts)

    Session.log_step = logged  # type: ignore[method-assign]
    getattr(assent, command)(**options)
    over.set()
    print(json.dumps({"seconds_to_first_step": round(first[0], 2), "peak_bytes": peak[0]}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--command", default="dpo", choices=["sft", "reward", "dpo"])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--storage", nargs="+", default=["memory", "mapped"])
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        child(args.command, json.loads(args.child))
        return
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = folder / "texts.txt"
        texts.write_text("what is 12 plus 34? it is 5678. no, 90.\n" * 50)
        assent.new_model(
            output_dir=str(folder / "model"), data=str(texts), vocab_size=300, hidden_size=32, layers=1, heads=2
        )
        for rows in args.rows:
            data = folder / f"{rows}.jsonl"
            write_rows(data, rows)
            for storage in args.storage:
                for cache in ("new", "there already") if storage == "mapped" else ("none",):
                    out = folder / f"{rows}-{storage}-{cache.replace(' ', '-')}"
                    options = {"model": str(folder / "model"), "data": str(data), "output_dir": str(out)}
                    options |= {"max_length": 64, "max_steps": 1, "data_storage": storage, "device": "cpu"}
                    options |= {"reference_cache": f"{out}-reference"} if args.command == "dpo" else {}
                    argv = [sys.executable, __file__, "--command", args.command, "--child", json.dumps(options)]
                    environment = {**os.environ, "ASSENT_CACHE": str(folder / "cache")}
                    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
                    if ended.returncode:
                        sys.exit(ended.stderr)
                    one = {"rows": rows, "file_bytes": data.stat().st_size, "storage": storage, "cache": cache}
                    found.append({**one, **json.loads(ended.stdout.splitlines()[-1])})
                    print(json.dumps(found[-1]), file=sys.stderr)
            data.unlink()
    slopes = {}
    for kind in {(one["storage"], one["cache"]) for one in found}:
        own = sorted((o["rows"], o["peak_bytes"]) for o in found if (o["storage"], o["cache"]) == kind)
        if len(own) > 1:
            slopes[", ".join(kind)] = round((own[-1][1] - own[0][1]) / (own[-1][0] - own[0][0]), 1)
    print(json.dumps({"command": args.command, "runs": found, "bytes_a_row": slopes}, indent=2))


if __name__ == "__main__":
    main()
