"""`score` on a large file of simulated work: how much of two workers' sum is reached, and does memory stay flat?

    python benchmarks/sharded_work.py [--rows 1000000] [--engine local] [--milliseconds 0.2]

The reward waits for some time a row, as for an accelerator, in a pool of two workers. The throughput is compared with
what two workers would reach that only wait. Memory is that of this process, which hands out the rows and writes what
comes back: sampled at every tenth of the work. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import assent  # first, for the settings that it makes before torch is imported


def waits(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """The simulated reward."""
    time.sleep(len(completions) * float(os.environ["SIMULATED_MILLISECONDS"]) / 1000)
    return [float(len(text)) for text in completions]


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Watch:
    """A progress that notes time and memory at each tenth of the rows."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []
        self.started = self.first = 0.0

    def line(self, text: str) -> None: ...

    def task(self, description: str, total: int | None = None, *, done: int = 0) -> Watch:
        self.total, self.done, self.started = total or 1, 0, time.monotonic()
        return self

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, steps: int, **_: float) -> None:
        self.done += steps
        if not self.first:  # the workers have loaded what they need
            self.first, self.done_first = time.monotonic(), self.done
        if self.done * 10 // self.total > len(self.seen):
            self.seen.append({"rows": self.done, "resident_bytes": resident_bytes()})
        self.last = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--milliseconds", type=float, default=0.2)
    args = parser.parse_args()
    os.environ["SIMULATED_MILLISECONDS"] = str(args.milliseconds)
    os.chdir(Path(__file__).parent)  # the workers import this file
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "rows.jsonl"
        with data.open("w", encoding="utf-8") as stream:
            for i in range(args.rows):
                stream.write(json.dumps({"prompt": f"question {i}", "completion": f" answer {i}"}) + "\n")
        started = time.monotonic()
        result = assent.score(
            data=str(data), reward="sharded_work:waits", output_dir=f"{name}/out", engine=args.engine, workers=2,
            progress=watch,
        )  # fmt: skip
        seconds = time.monotonic() - started
        with open(result["scored"], "rb") as stream:
            written = sum(1 for _ in stream)
    rate = (watch.done - watch.done_first) / (watch.last - watch.first)
    ideal = 2 / (args.milliseconds / 1000)
    document = {"rows": args.rows, "written": written, "engine": args.engine, "workers": 2}
    document |= {"seconds": round(seconds, 1), "rows_per_second": round(rate), "share_of_two_workers": rate / ideal}
    print(json.dumps({**document, "memory": watch.seen}, indent=2))


if __name__ == "__main__":
    main()
