"""How soon does `assent monitor` find what moved, does it name the right cause, how often is it wrong on quiet days?

Logs are composed without a model (`assent.sandbox.traffic`), so what moved is known. Every run has a release of its own
(28 days) and a week of quiet days; then one thing, or two, moves by a strength between none and large. Quiet sequences
have 200 days in which nothing moves. Release and days are drawn from pools of rows, without replacement, so that a run
never sees a row twice; words are split into a vocabulary once for all runs.

Beside it, on the same days, what public tools do by default: an alarm where the KL divergence of whitespace tokens (of
prompts or of answers), or the population stability index of lengths or scores, of one day beside the release is above
0.2.

    python benchmarks/monitor.py                     (one core; the docs' table)
    python benchmarks/monitor.py --seeds 2 --quiet 2 (a minute: to see that it runs)
    python benchmarks/monitor.py --rows 1000000      (only speed and memory, on a log of so many rows)
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

import assent
from assent.diagnosis.case import Case
from assent.diagnosis.drift.encoding import Bags, Encoder, Rows, Vocabulary
from assent.diagnosis.drift.reference import COMPLETION_WORDS, PROMPT_WORDS, SAMPLE_A_DAY, Reference, Sample, fit_rows
from assent.diagnosis.drift.served import read_ours
from assent.diagnosis.drift.tables import count
from assent.diagnosis.drift.testing import Day, look
from assent.diagnosis.examine import examine
from assent.diagnosis.log_rules import log_rules
from assent.sandbox.traffic import MOVES, Traffic, moved, served_rows
from assent.sandbox.world import World
from assent.statistics.homogeneity import psi

CAUSES = dict(zip(MOVES, ("prompts_moved", "taste_moved", "reward_model_aged", "behaviour_moved", "judge_changed",
                          "feedback_selected", "serving_differs"), strict=True))  # fmt: skip
STRENGTHS = (0.1, 0.25, 0.5, 1.0)
BASE_DAYS, QUIET_DAYS, MOVED_DAYS = 28, 7, 14
SEQUENCE_DAYS = 200
ALPHA, THRESHOLD = 0.05, 0.2
MOVED_POOL = 2_200
FIRST_DAY = 20_000


@dataclass(frozen=True)
class Pool:
    """Rows of one kind of traffic, encoded, and the whitespace tokens of their prompts and answers."""

    rows: Rows
    tokens: tuple[Bags, Bags]


class Tokens:
    """Whitespace tokens as numbers; a token is given its number when it is first seen."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def bags(self, texts: Sequence[str]) -> Bags:
        return Bags.of([[self.numbers.setdefault(word, len(self.numbers)) for word in text.split()] for text in texts])


def pool_of(traffic: Traffic, size: int, seed: int, tokens: Tokens, encoder: Encoder | None) -> tuple[Pool, Encoder]:
    served = [read_ours(row) for row in served_rows(traffic, first_day=0, days=1, rows_a_day=size, seed=seed)]
    if encoder is None:
        some = served[: size // 3]
        encoder = Encoder(Vocabulary.of((row.prompt for row in some), most=PROMPT_WORDS, least=20),
                          Vocabulary.of((row.completion for row in some), most=COMPLETION_WORDS, least=20))  # fmt: skip
    texts = tokens.bags([row.prompt for row in served]), tokens.bags([row.completion for row in served])
    return Pool(encoder.encode(served), texts), encoder


class PublicTools:
    """The two rules of thumb on one day's rows beside the release."""

    def __init__(self, pool: Pool, places: NDArray[np.int64], size: int) -> None:
        self.size = size
        self.base = [self._shares(bag.take(places)) for bag in pool.tokens]
        rows = pool.rows.take(places)
        self.edges = {name: np.unique(np.quantile(getattr(rows, name), np.arange(1, 10) / 10)) for name in NUMBERS}
        self.counts = {name: self._binned(rows, name) / len(rows) for name in NUMBERS}

    def _shares(self, bags: Bags) -> NDArray[np.float64]:
        counts = np.bincount(bags.places, minlength=self.size) + 1e-3
        return counts / counts.sum()

    def _binned(self, rows: Rows, name: str) -> NDArray[np.float64]:
        edges = self.edges[name]
        return np.bincount(np.searchsorted(edges, getattr(rows, name)), minlength=len(edges) + 1).astype(float)

    def alarms(self, pool: Pool, places: NDArray[np.int64]) -> set[str]:
        found = set()
        for bag, base in zip(pool.tokens, self.base, strict=True):
            shares = self._shares(bag.take(places))
            if float((shares * np.log(shares / base)).sum()) > THRESHOLD:
                found.add("KL")
        rows = pool.rows.take(places)
        for name in NUMBERS:
            if psi(self._binned(rows, name), self.counts[name] * len(rows)) > THRESHOLD:
                found.add("PSI")
        return found


NUMBERS = ("prompt_length", "length", "score")


class Run:
    """One release and the days after it."""

    def __init__(self, pool: Pool, encoder: Encoder, tokens: Tokens, *, rows_a_day: int, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 17])
        order = self.rng.permutation(len(pool.rows))
        size = BASE_DAYS * rows_a_day
        self.release, self.rest, self.pool, self.rows_a_day = order[:size], order[size:], pool, rows_a_day
        days = FIRST_DAY - BASE_DAYS + np.arange(size) // rows_a_day
        base = replace(pool.rows.take(self.release), day=days)
        self.reference: Reference = fit_rows(base, prompts=encoder.prompts, completions=encoder.completions, slices={})
        self.tools = PublicTools(pool, self.release, len(tokens.numbers))
        self.days: dict[int, Day] = {}
        self.number = 0
        self.left: tuple[Pool, NDArray[np.int64]] = (pool, self.rest)

    def step(self, pool: Pool | None, *, is_looked_at: bool = True) -> tuple[set[str], set[str]]:
        """One more day, from another pool or from the release's. What the monitor finds, and what the tools do."""
        pool = pool or self.pool
        if self.left[0] is not pool:
            self.left = (pool, self.rng.permutation(len(pool.rows)))
        places, rest = np.split(self.left[1], [self.rows_a_day])
        assert len(places) == self.rows_a_day, "the pool is too small"
        self.left = (pool, rest)
        day, self.number = FIRST_DAY + self.number, self.number + 1
        rows = replace(pool.rows.take(places), day=np.full(len(places), day))
        self.days[day] = Day(count(rows, self.reference.chosen), Sample.of(rows, SAMPLE_A_DAY))
        self.days.pop(day - 28, None)
        if not is_looked_at:
            return set(), set()
        drift = look(self.reference, self.days, day, number=self.number, alpha=ALPHA)
        report = examine(Case(logs=drift, source="logs"), log_rules())
        return {finding.rule for finding in report.findings}, self.tools.alarms(pool, places)


def with_move(run: Run, pool: Pool, causes: set[str]) -> dict[str, Any]:
    """A quiet week, then the move. Detection: the first day on which any cause is found; named: those ever found."""
    for _ in range(QUIET_DAYS):  # quiet days have sequences of their own
        run.step(None, is_looked_at=False)
    named: set[str] = set()
    first: int | None = None
    tools: dict[str, int] = {}
    at_first: set[str] = set()
    for day in range(1, MOVED_DAYS + 1):
        found, alarms = run.step(pool)
        if found and first is None:
            first, at_first = day, found
        named |= found
        for tool in alarms:
            tools.setdefault(tool, day)
    return {
        "days": first, "named": sorted(named), "first_is_right": bool(at_first) and at_first <= causes,
        "right": sorted(named & causes), "wrong": sorted(named - causes), "tools": tools,
    }  # fmt: skip


def of_runs(runs: Sequence[Mapping[str, Any]], causes: int) -> dict[str, Any]:
    """Recall and precision over causes, and days to the first finding."""
    found = [run["days"] for run in runs if run["days"] is not None]
    right, wrong = sum(len(run["right"]) for run in runs), sum(len(run["wrong"]) for run in runs)
    low, high = proportion_confint(right, causes * len(runs), method="wilson")
    return {
        "runs": len(runs),
        "found": len(found) / len(runs),
        "recall": right / (causes * len(runs)),
        "recall_interval": [low, high],
        "precision": right / (right + wrong) if right + wrong else None,
        "first_cause_right": sum(run["first_is_right"] for run in runs) / len(found) if found else None,
        "median_days": float(np.median(found)) if found else None,
        "wrong": dict(Counter(name for run in runs for name in run["wrong"])),
        "KL": sum("KL" in run["tools"] for run in runs) / len(runs),
        "PSI": sum("PSI" in run["tools"] for run in runs) / len(runs),
    }


def quiet_sequence(run: Run) -> dict[str, Any]:
    """What was ever found in days on which nothing moved, and what the tools alarmed at."""
    found: set[str] = set()
    tools: set[str] = set()
    for _ in range(SEQUENCE_DAYS):
        named, alarmed = run.step(None)
        found |= named
        tools |= alarmed
    return {"named": sorted(found), "tools": sorted(tools)}


def of_quiet(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of quiet sequences with any alarm, ever, of the monitor and of the tools."""
    alarms = sum(bool(run["named"]) for run in runs)
    low, high = proportion_confint(alarms, len(runs), method="beta")
    return {
        "sequences": len(runs),
        "days": SEQUENCE_DAYS,
        "monitor": alarms / len(runs),
        "interval": [low, high],
        "causes": dict(Counter(name for run in runs for name in run["named"])),
        **{tool: sum(tool in run["tools"] for run in runs) / len(runs) for tool in ("KL", "PSI")},
    }


class Kept:
    """Runs that are done, one a line of a file, so that a benchmark goes on where it stopped."""

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else Path(path)
        lines = self.path.read_text().splitlines() if self.path is not None and self.path.exists() else []
        self.done = {tuple(one["key"]): one["run"] for one in map(json.loads, lines)}

    def run(self, key: tuple[Any, ...], perform: Callable[[], dict[str, Any]]) -> None:
        if key in self.done:
            return
        self.done[key] = perform()
        if self.path is not None:
            with self.path.open("a") as stream:
                stream.write(json.dumps({"key": key, "run": self.done[key]}) + "\n")


def main(options: argparse.Namespace) -> dict[str, Any]:
    started, rows_a_day, kept = time.perf_counter(), options.rows_a_day, Kept(options.keep)
    deadline = math.inf if options.minutes is None else started + 60 * options.minutes
    tokens, release = Tokens(), Traffic(world=World())
    size = (BASE_DAYS + max(QUIET_DAYS, SEQUENCE_DAYS if options.quiet else 0)) * rows_a_day
    base, encoder = pool_of(release, size, 1, tokens, None)
    moves: list[tuple[tuple[str, ...], float]] = [((what,), strength) for strength in STRENGTHS[::-1] for what in MOVES]
    moves += [(pair, 1.0) for pair in itertools.combinations(MOVES, 2)]
    pools: dict[Any, Pool] = {}
    for what, strength in moves if options.seeds else ():
        traffic = release
        for one in what:
            traffic = moved(traffic, one, strength)
        pools[what, strength] = pool_of(traffic, MOVED_POOL, len(what) + 1, tokens, encoder)[0]
    composed = time.perf_counter() - started

    def run_of(seed: int) -> Run:
        return Run(base, encoder, tokens, rows_a_day=rows_a_day, seed=seed)

    def moved_run(what: tuple[str, ...], strength: float, seed: int) -> dict[str, Any]:
        return with_move(run_of(seed), pools[what, strength], {CAUSES[one] for one in what})

    work: list[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]] = []
    for seed in range(max(options.seeds, options.quiet)):
        if seed < options.quiet:
            work.append((("quiet", 0, seed), partial(lambda seed: quiet_sequence(run_of(10_000 + seed)), seed)))
        for what, strength in moves if seed < options.seeds else ():
            work.append(((" + ".join(what), strength, seed), partial(moved_run, what, strength, seed)))
    for key, perform in work:
        if time.perf_counter() < deadline:
            kept.run(key, perform)
    results = summary(kept.done)
    results["seconds"] = {"composing": round(composed), "all": round(time.perf_counter() - started)}
    return {"rows_a_day": rows_a_day, "base_rows": BASE_DAYS * rows_a_day, **results}


def summary(done: Mapping[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    """Figures of each move and strength, over all moves of at least half strength, and of quiet sequences."""
    cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for (what, strength, _), run in done.items():
        cells.setdefault((what, strength), []).append(run)
    results: dict[str, Any] = {"alone": {}, "pairs": {}}
    every: list[tuple[int, dict[str, Any]]] = []
    for (what, strength), runs in cells.items():
        if what == "quiet":
            results["quiet"] = of_quiet(runs)
            continue
        causes = what.count(" + ") + 1
        results["alone" if causes == 1 else "pairs"][f"{what} {strength:g}"] = of_runs(runs, causes)
        every += [(causes, run) for run in runs if strength >= 0.5]
    if every:
        right, wrong = (sum(len(run[name]) for _, run in every) for name in ("right", "wrong"))
        detected = [run for _, run in every if run["days"] is not None]
        results["overall"] = {
            "runs": len(every),
            "recall": right / sum(causes for causes, _ in every),
            "precision": right / (right + wrong) if right + wrong else None,
            "first_cause_right": sum(run["first_is_right"] for run in detected) / len(detected) if detected else None,
        }
    return results


def speed(number: int) -> dict[str, Any]:
    """Rows a second and peak memory of `assent monitor` on one log of `number` rows of four weeks."""
    release = Traffic(world=World())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some = list(served_rows(release, first_day=FIRST_DAY - BASE_DAYS, days=BASE_DAYS, rows_a_day=200, seed=1))
        (folder / "release.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        with (folder / "log.jsonl").open("w") as stream:
            for place in range(number):
                row = {
                    **some[place % len(some)],
                    "id": str(place),
                    "time": FIRST_DAY * 86_400 + place * 28 * 86_400 / number,
                }
                stream.write(json.dumps(row) + "\n")
        size = (folder / "log.jsonl").stat().st_size
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        document = assent.monitor(
            baseline=str(folder / "release.jsonl"), logs=str(folder / "log.jsonl"), state=str(folder / "state.npz")
        )
        seconds = time.perf_counter() - started
        return {
            "rows": document["rows"]["used"], "log_bytes": size, "seconds": round(seconds, 1),
            "rows_a_second": round(number / seconds), "peak_bytes_before": before * 1024,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "state_bytes": (folder / "state.npz").stat().st_size,
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--quiet", type=int, default=100)
    parser.add_argument("--rows-a-day", type=int, default=150)
    parser.add_argument("--keep", help="file of runs that are done; the next call goes on after them")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--rows", type=int, help="measure only speed and memory, on a log of so many rows")
    options = parser.parse_args()
    print(json.dumps(speed(options.rows) if options.rows else main(options), indent=1))
