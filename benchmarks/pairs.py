"""The benchmark's comparisons from three sources, as `prompt`, `chosen`, `rejected` lists that every trainer reads.

    python benchmarks/pairs.py --data ../shared/data --model MODEL --output-dir PAIRS

hh: the file's own. alpaca-eval: the best and the worst of each ranking. sharegpt: its columns renamed. Rows with an
answer that --max-length tokens would cut are left out, so that every trainer trains on the same text. The script prints
how many.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assent.models.loading import load_tokenizer

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def message(turn: dict[str, str]) -> dict[str, str]:
    return {"role": ROLES[turn["from"]], "content": turn["value"]}


def hh(folder: Path) -> Iterator[dict[str, Any]]:
    yield from rows_of(folder / "hh-harmless.train.jsonl.gz")


def alpaca_eval(folder: Path) -> Iterator[dict[str, Any]]:
    for row in rows_of(folder / "alpaca-eval.rankings.train.jsonl.gz"):
        order = sorted(range(len(row["scores"])), key=lambda i: -row["scores"][i])
        chosen, rejected = row["completions"][order[0]], row["completions"][order[-1]]
        yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def sharegpt(folder: Path) -> Iterator[dict[str, Any]]:
    for row in rows_of(folder / "dpo.sharegpt.jsonl.gz"):
        answers = {name: [message(row[name])] for name in ("chosen", "rejected")}
        yield {"prompt": [message(turn) for turn in row["conversations"]], **answers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--max-length", type=int, default=1024)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    for name, source in {"hh": hh, "alpaca-eval": alpaca_eval, "sharegpt": sharegpt}.items():
        kept = left_out = 0
        with open(Path(args.output_dir) / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for row in source(Path(args.data)):
                whole = [tokenizer.apply_chat_template(row["prompt"] + row[end]) for end in ("chosen", "rejected")]
                lengths = [len(ids["input_ids"] if hasattr(ids, "keys") else ids) for ids in whole]
                if max(lengths) > args.max_length:
                    left_out += 1
                    continue
                kept += 1
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{name}: {kept} comparisons, {left_out} left out (longer than {args.max_length} tokens)")


if __name__ == "__main__":
    main()
