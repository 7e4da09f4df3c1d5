"""Over-optimisation over several seeds: do the findings of Gao et al. (arXiv:2210.10760) appear at this size?

    python benchmarks/frontier.py --output-dir out/frontier
    python benchmarks/frontier.py --output-dir out/frontier-tuning --seeds 7 --jobs 1

Runs `assent frontier --sandbox` with seeds 0 to 4, `--jobs` at a time. The seeds were fixed beforehand; sizes were
chosen on seed 7. Prints one JSON document: every seed's figures, and over all seeds

    peak          curves whose gold has fallen by more than chance at their last point
    later         the peak lies farther from the reference with many comparisons than with few (best-of-N, PPO, DPO)
    efficient     best-of-N has more gold than PPO at equal KL, by the same proxy; mean over seeds with its interval
    foretells     each law, fitted up to the peak, predicts what comes after it better than the other's law does

A curve that does not fall has no peak that could lie later or be predicted beyond. It is counted as such, not left out.
A finished seed is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2, 3, 4)
FEW_AND_MANY = {
    "best-of-n": ("best-of-n few", "best-of-n many"),
    "ppo": ("ppo few", "ppo many"),
    "dpo": ("dpo few", "dpo many"),
}


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    folder = Path(args.output_dir) / f"seed-{seed}"
    command = [sys.executable, "-m", "assent", "frontier", "--sandbox", "--output-dir", str(folder), "--json"]
    command += ["--seed", str(seed), *(["--fast"] if args.fast else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"seed {seed} failed:\n{done.stderr[-3000:]}")
    seconds = time.monotonic() - started
    told = json.loads(done.stdout)
    print("\n".join([f"seed {seed}: {seconds:.0f} s", *told["lines"], ""]), file=sys.stderr, flush=True)
    return {"seed": seed, "seconds": seconds, **json.loads(Path(told["frontier"]).read_text())}


def row_of(document: dict[str, Any]) -> dict[str, Any]:
    """One seed's answers."""
    curves = {curve["name"]: curve for curve in document["methods"]}
    later = {}
    for method, names in FEW_AND_MANY.items():
        few, many = (curves[name] for name in names)
        places = [curve["peak"] and curve["peak"]["sqrt_kl"] for curve in (few, many)]
        # many without a fall has its peak, if any, beyond the last point
        reached = max(point["d"] for point in many["points"])
        known = places[0] is not None and (places[1] is not None or reached >= places[0])
        later[method] = {
            "few": places[0],
            "many": places[1],
            "many_reaches": reached,
            "later": (places[1] is None or places[1] > places[0]) if known else None,
        }
    return {
        "seed": document["seed"],
        "seconds": document["seconds"],
        "peak": {name: curve["peak"] is not None for name, curve in curves.items()},
        "drop": {name: curve["highest"]["drop"] for name, curve in curves.items()},
        "r2": {name: {fit["law"]: fit["r2"] for fit in curve["fits"]} for name, curve in curves.items()},
        "later": later,
        "at_equal_kl": {row["curve"]: row["more_gold_at_equal_kl"] for row in document["at_equal_kl"]},
        "foretells": {
            name: None if curve["beyond_peak"] is None else own_law_is_nearer(curve) for name, curve in curves.items()
        },
        "beyond_peak": {name: curve["beyond_peak"] for name, curve in curves.items()},
    }


def own_law_is_nearer(curve: dict[str, Any]) -> bool:
    errors = curve["beyond_peak"]["rmse"]
    own, other = ("best_of_n", "rl") if curve["method"] == "best-of-n" else ("rl", "best_of_n")
    return bool(errors[own] < errors[other])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from assent.statistics.intervals import mean_interval

    def share(values: list[bool | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{sum(known)} of {len(known)}" + (f", {len(values) - len(known)} unknown" if None in values else "")

    names = list(rows[0]["peak"])
    efficient = {}
    for name in names:
        found = [row["at_equal_kl"].get(name) for row in rows]
        values = [one["value"] for one in found if one is not None]
        efficient[name] = mean_interval(values).as_dict() if values else None
    return {
        "peak": {name: share([row["peak"][name] for row in rows]) for name in names},
        "later": {method: share([row["later"][method]["later"] for row in rows]) for method in FEW_AND_MANY},
        "efficient": {name: one for name, one in efficient.items() if one is not None},
        "foretells": {name: share([row["foretells"][name] for row in rows]) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="seeds run at the same time")
    parser.add_argument("--fast", action="store_true", help="a smoke test, whose numbers mean nothing")
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        documents = list(pool.map(lambda seed: run_seed(seed, args), args.seeds))
    rows = [row_of(document) for document in documents]
    result = {"date": time.strftime("%Y-%m-%d"), "options": vars(args), "summary": summary(rows), "seeds": rows}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
