"""How long until the first step of `dpo`, and how much memory does it take, against the number of rows?

    python benchmarks/large_files.py [--rows 10000 100000 1000000] [--open 10000000]

`assent dpo --data-storage mapped` on generated comparisons and a tiny model, three updates of eight rows. Each number
of rows is run twice: the first time the rows are read and tokenized, the second time the file of tokens is found. Every
50 ms the private memory (RssAnon) is read; pages of mapped files are not in it: the system takes them back when it
needs them. Told are the seconds until the first update's line in metrics.jsonl, the peak of private memory, and what is
kept while it trains. `bytes_a_row` is the growth of each from the least rows to the most.

`--open N` writes a file of N rows of tokens without a command. A process of its own then opens it, compares it with its
hash, draws the first epoch's order and packs the first batch: its time and private memory. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import assent

# isort: split
from plan_memory import words

BATCH, STEPS, MAX_LENGTH = 8, 3, 64


def private_memory(pid: int | str = "self") -> float:
    """Bytes, now; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0.0)


def write_pairs(path: Path, rows: int) -> None:
    rng = random.Random(0)
    phrases = [words(rng, rng.randrange(3, 7)) for _ in range(2000)]
    with path.open("w", encoding="utf-8") as stream:
        for row in range(rows):
            prompt, good, bad = (rng.choice(phrases) for _ in range(3))
            pair = {"prompt": f"{row}: {prompt}", "chosen": f" {good}", "rejected": f" {bad} {row % 10}"}
            stream.write(json.dumps(pair) + "\n")


def train(model: Path, data: Path, run: Path, cache: Path) -> dict[str, float]:
    """One command: seconds until its first update, peak of private memory, and what it holds at its last update."""
    command = [sys.executable, "-m", "assent", "dpo", "--model", str(model), "--data", str(data), "--device", "cpu"]
    command += ["--data-storage", "mapped", "--output-dir", str(run), "--max-length", str(MAX_LENGTH)]
    command += ["--batch-size", str(BATCH), "--max-steps", str(STEPS), "--save-steps", "0"]
    log, began, first, peak, held = run / "metrics.jsonl", time.time(), 0.0, 0.0, 0.0
    with tempfile.TemporaryFile("w+") as said:
        environment = {**os.environ, "ASSENT_CACHE": str(cache)}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        while process.poll() is None:
            now = private_memory(process.pid)
            peak = max(peak, now)
            if log.exists() and '"loss"' in log.read_text(encoding="utf-8"):
                first, held = first or time.time() - began, now or held
            time.sleep(0.05)
        said.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed with status {process.returncode}:\n{said.read()[-2000:]}")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    updates = sum(row["perf/step_seconds"] for row in rows if "perf/step_seconds" in row)
    found = {"seconds_to_the_first_step": first, "peak_bytes": peak, "held_bytes": held, "seconds_of_updates": updates}
    return found | {"whole_seconds": time.time() - began}


def write_store(folder: Path, rows: int) -> float:
    """A file of tokens; every block holds the same rows. Returns the seconds that it took."""
    from assent.models.batch import TokenCompletion, TokenGroup
    from assent.models.token_store import BLOCK, StoreWriter

    rng, began = random.Random(0), time.time()

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 500) for _ in range(length))

    block = [
        TokenGroup(ids(16), (TokenCompletion(ids(12)), TokenCompletion(ids(12))), source=f"pairs.jsonl:{row}")
        for row in range(BLOCK)
    ]
    whole, rest = divmod(rows, BLOCK)

    def blocks() -> Iterator[Sequence[TokenGroup]]:
        yield from repeat(block, whole)
        yield block[:rest]

    StoreWriter(folder).write(blocks(), lambda: {"lines": []})
    return time.time() - began


def opened(folder: Path) -> dict[str, Any]:
    """In a process of its own: the file is opened, the order drawn, the first batch packed."""
    from assent.engine.random import Batches
    from assent.models.packing import pack
    from assent.models.token_store import StoredGroups, stored_facts
    from assent.models.tokenizing import UNSAID

    before, told, began = private_memory(), {}, time.time()

    def note(what: str) -> None:
        told[what] = {"seconds": time.time() - began, "bytes": private_memory() - before}

    facts = stored_facts(folder)
    assert facts is not None
    note("compared with its SHA-256")
    groups = StoredGroups(folder, facts, unsaid=UNSAID)
    note("opened")
    indices = Batches(len(groups), BATCH).indices(0)
    note("order drawn")
    batch = pack([groups[index] for index in indices], device="cpu")
    note("first batch packed")
    return {"rows": len(groups), "file_bytes": facts["bytes"], "tokens": len(batch.input_ids), "since_the_start": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--open", type=int, nargs="*", default=[], help="numbers of rows that are only opened")
    parser.add_argument("--opened", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.opened:
        print(json.dumps(opened(Path(args.opened))))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.rows:
            from assent.models.new_model import new_model

            texts = [words(random.Random(seed), 60) for seed in range(200)]
            sizes = {"vocab_size": 512, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}
            new_model(folder / "model", texts=texts, seed=0, **sizes)
        for rows in sorted(args.rows):
            data = folder / f"{rows}.jsonl"
            write_pairs(data, rows)
            cell = {"file_bytes": data.stat().st_size}
            for way in ("tokenizing", "found"):
                cell[way] = train(folder / "model", data, folder / f"{rows}-{way}", folder / "cache")
                print(f"{rows} rows, {way}: {json.dumps(cell[way])}", file=sys.stderr)
            found[str(rows)] = cell
            data.unlink()
        alone = {}
        for rows in args.open:
            store = folder / f"store-{rows}"
            written = write_store(store, rows)
            command = [sys.executable, __file__, "--opened", str(store)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            alone[str(rows)] = {"seconds_to_write": written, **json.loads(done.stdout)}
            (store / "rows.arrow").unlink()
    document: dict[str, Any] = {"version": assent.__version__, "cores": os.cpu_count(), "dpo": found, "opened": alone}
    if len(found) > 1:
        (least, first), *_, (most, last) = found.items()
        document["bytes_a_row"] = {
            f"{what}, {way}": (last[way][what] - first[way][what]) / (int(most) - int(least))
            for way in ("tokenizing", "found")
            for what in ("peak_bytes", "held_bytes")
        }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
