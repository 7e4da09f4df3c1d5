"""Does an order of `assent label` save labels over the random one? On the sandbox, with its noisy annotator.

Each prompt of a pool has two answers: by an SFT model, or by the sandbox's writers, good, medium and bad ones
(`--answers writers`). The first labels are of random items; a reward ensemble (`--num-heads`, `--bootstrap`) and a DPO
model learn from them. `assent label --order` then puts the rest of the pool in order: at random, by the ensemble's
disagreement, by the margin of the DPO model's implicit reward. Each order's first n labels train a new reward model,
whose accuracy is how often it orders two answers to a fresh prompt as gold does.

    python benchmarks/label_order.py --output-dir out/label-order              (five seeds)
    python benchmarks/label_order.py --output-dir out/label-order --restarts   (also with the order computed again)
    python benchmarks/label_order.py --output-dir out/small --small            (two seeds of a few rows: that it runs)

Prints one JSON document. An item has the same label in every order, and a seed's orders share the first labels and the
test pairs; a seed draws all of these, and the training, anew. `labels_for` is what an order needs for the accuracy that
the random order has with all and with half of its labels, as a share of these: below 1, labels are saved. It is read
off error = a n^-b, fitted to the mean curve over seeds; the interval is a jackknife over seeds. `reached_at` is the
mean curve itself, interpolated in log n; null: not reached. Finished parts are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

import assent
from assent.data.loading import load_groups, write_groups
from assent.data.splitting import prompt_key
from assent.data.texts import last_content
from assent.feedback.store.database import open_database
from assent.feedback.store.reading import read_items
from assent.feedback.store.schema import queue
from assent.rewards.reward_model import RewardModel
from assent.runs.files import write_json
from assent.runs.progress import Silent
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.gold import gold
from assent.sandbox.labellers import foreign_completions, label, with_completions
from assent.sandbox.settings import LabelSettings
from assent.sandbox.world import World
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup

LENGTH = 256
ANSWERS = {"max_length": LENGTH, "max_new_tokens": 40}
SCHEDULE = {"max_length": LENGTH, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05}
REWARD = {"learning_rate": 1e-3, "batch_size": 8, "num_train_epochs": 2, **SCHEDULE}
DPO = {"learning_rate": 5e-4, "beta": 0.3, "batch_size": 8, "num_train_epochs": 2, **SCHEDULE}
"""Smaller batches than the demo's, and DPO at a higher rate, for a hundred labels are few steps."""
HEADS = 5
ORDERS = ("random", "disagreement", "margin")
RESTARTED = {f"{order}, restarted": order for order in ORDERS[1:]}
FULL: dict[str, Any] = {"demonstrations": 1500, "pool": 900, "tests": 450, "sizes": [60, 100, 170, 300]}
SMALL: dict[str, Any] = {"demonstrations": 300, "pool": 64, "tests": 60, "sizes": [12, 16, 24]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of labels; the first of them are random")
    parser.add_argument("--answers", choices=["writers", "model"], default="model",
                        help="whose answers are labelled: the SFT model's, or good, medium and bad ones")  # fmt: skip
    parser.add_argument("--restarts", action="store_true", help="also compute the order again at each size")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: an interval over seeds needs at least two")
    size = dict(SMALL if given.small else FULL)
    size["sizes"] = given.sizes or size["sizes"]
    if len(size["sizes"]) < 2 or any(small >= large for small, large in pairwise(size["sizes"])):
        parser.error(f"--sizes: two or more rising numbers; got {size['sizes']}")
    seeds = 2 if given.small else given.seeds
    folder, began = Path(given.output_dir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    start = _start(folder, size)
    arms = {order: order for order in ORDERS} | (RESTARTED if given.restarts else {})
    curves: dict[str, list[list[float]]] = {arm: [] for arm in arms}
    for seed in range(seeds):
        drawn = Seed(folder / f"{given.answers}-{seed}", start, size, seed, by_model=given.answers == "model")
        for arm, curve in drawn.curves(arms).items():
            curves[arm].append(curve)
    document = {
        **{name: value for name, value in size.items() if name != "sizes"}, "seeds": seeds, "answers": given.answers,
        "cores": os.cpu_count(), **summary(size["sizes"], curves), "seconds": time.monotonic() - began,
    }  # fmt: skip
    write_json(folder / "label_order.json", document)
    print(json.dumps(document, indent=1))


def _start(folder: Path, size: Mapping[str, Any]) -> str:
    """The SFT model, from which all training starts."""
    data = _written(folder / "demonstrations.jsonl", demonstrations(World(0), size["demonstrations"], 0),
                    "demonstrations")  # fmt: skip
    return str(assent.sft(model=str(base_folder(0)), data=data, output_dir=folder / "sft", learning_rate=1e-3,
                          batch_size=32, num_train_epochs=2, progress=Silent(), **SCHEDULE).model_path)  # fmt: skip


class Seed:
    """A seed's pool of labelled pairs, its test pairs, and what is trained on them."""

    def __init__(self, folder: Path, start: str, size: Mapping[str, Any], seed: int, *, by_model: bool) -> None:
        self.folder, self.start, self.sizes, self.seed, self.by_model = folder, start, size["sizes"], seed, by_model
        folder.mkdir(parents=True, exist_ok=True)
        pairs = self._answered("pool", "preference", size["pool"])
        source = "sft" if by_model else "foreign"
        self.pool = label(pairs, LabelSettings(source=source), world=World(0), seed=seed).groups
        self.tests = self._answered("tests", "validation", size["tests"])

    def _answered(self, name: str, split: str, number: int) -> list[PromptGroup]:
        """Prompts with two different answers."""
        prompts = World(0).prompts(split, number, self.seed)
        if not self.by_model:
            pairs = zip(prompts, foreign_completions(prompts, 2, self.seed), strict=True)
            return [with_completions(group, pair) for group, pair in pairs if len(set(pair)) == 2]
        asked = _written(self.folder / f"{name}.jsonl", prompts, "prompts")
        path = assent.sample(model=self.start, data=asked, output_dir=self.folder / name, num_completions=2,
                             seed=self.seed, progress=Silent(), **ANSWERS)["completions"]  # fmt: skip
        texts: dict[str, set[str]] = {}
        for answer in load_groups(path, lenient=True):
            texts.setdefault(prompt_key(answer.prompt), set()).add(last_content(answer.completions[0]))
        own = [(group, sorted(texts.get(prompt_key(group.prompt), ()))) for group in prompts]
        return [with_completions(group, pair) for group, pair in own if len(pair) == 2]

    def curves(self, arms: Mapping[str, str]) -> dict[str, list[float]]:
        """Of each arm the accuracy at each size."""
        first = self.sizes[0]
        if len(self.pool) < 2 * self.sizes[-1]:
            raise SystemExit(f"the pool leaves no choice: {len(self.pool)} items for {self.sizes[-1]} labels")
        shared = self._accuracy(self.folder / f"first-{first}", self.pool[:first])
        return {arm: [shared, *self._curve(arm, order)] for arm, order in arms.items()}

    def _curve(self, arm: str, order: str) -> list[float]:
        labelled, rest, found = self.pool[: self.sizes[0]], self.pool[self.sizes[0] :], []
        path = str(self.sizes[0])  # all sizes up to here, on which an order computed again depends
        for now, then in pairwise(self.sizes):
            path = f"{path}-{then}"
            here = self.folder / arm.replace(", ", "-") / path
            if now == self.sizes[0] or arm in RESTARTED:
                here.mkdir(parents=True, exist_ok=True)
                trained = self.folder if now == self.sizes[0] else here
                rest = self._ordered(here, rest, order, self._scorer(trained, order, labelled))
            labelled, rest = [*labelled, *rest[: then - now]], rest[then - now :]
            found.append(self._accuracy(here, labelled))
        return found

    def _scorer(self, folder: Path, order: str, labelled: Sequence[PromptGroup]) -> str | None:
        """What `assent label --reward` is given: a model that has learnt from the labels so far."""
        if order == "random":
            return None
        data = _written(folder / f"for-{order}.jsonl", labelled, "comparisons")
        given: dict[str, Any] = {"model": self.start, "data": data, "output_dir": folder / f"for-{order}",
                                 "seed": self.seed, "progress": Silent()}  # fmt: skip
        if order == "disagreement":
            return str(assent.reward(num_heads=HEADS, bootstrap=True, **given, **REWARD).model_path)
        return f"implicit:{assent.dpo(**given, **DPO).model_path},{self.start}"

    def _ordered(self, here: Path, items: Sequence[PromptGroup], order: str, reward: str | None) -> list[PromptGroup]:
        """The items as `assent label --order` gives them out. It sees their answers, not their labels."""
        kept = here / "order.json"
        if not kept.exists():
            for old in here.glob("labels.db*"):
                old.unlink()
            data, store = _written(here / "items.jsonl", items, "comparisons"), str(here / "labels.db")
            given: dict[str, Any] = {"seed": self.seed} if reward is None else {"order": order, "reward": reward}
            assent.label(completions=data, store=store, serve=False, **given)
            with open_database(store) as database, database.reading() as connection:
                numbers = connection.scalars(sa.select(queue.c.item_id).order_by(queue.c.position)).all()
                shown = read_items(connection, numbers)
            places = {prompt_key(item.prompt): place for place, item in enumerate(items)}
            write_json(kept, [places[prompt_key(shown[number].prompt)] for number in numbers])
        places_in_order = json.loads(kept.read_text())
        if sorted(places_in_order) != list(range(len(items))):
            raise SystemExit(f"{kept} is no order of {len(items)} items: remove {here}")
        return [items[place] for place in places_in_order]

    def _accuracy(self, here: Path, labelled: Sequence[PromptGroup]) -> float:
        """Trains a reward model on the labels; how often it agrees with gold on the test pairs. A tie of scores counts
        half; pairs that gold does not tell apart are left out."""
        kept = here / "accuracy.json"
        if not kept.exists():
            here.mkdir(parents=True, exist_ok=True)
            data = _written(here / "labelled.jsonl", labelled, "comparisons")
            run = assent.reward(model=self.start, data=data, output_dir=here / "run", seed=self.seed,
                                progress=Silent(), **REWARD)  # fmt: skip
            groups = [group for group in self.tests for _ in group.completions]
            texts = [last_content(text) for group in self.tests for text in group.completions]
            scores = RewardModel(str(run.model_path)).score([group.prompt for group in groups], texts, groups=groups)
            worth = [gold(group.columns, text).total for group, text in zip(groups, texts, strict=True)]
            write_json(kept, agreement(np.asarray(scores, dtype=np.float64), np.asarray(worth)))
            shutil.rmtree(here / "run")  # hundreds of models are gigabytes
        return float(json.loads(kept.read_text()))


def agreement(scores: np.ndarray, worth: np.ndarray) -> float:
    """Of scores and gold (2N,) of N pairs, one after the other: the share that both order alike."""
    ours, theirs = (np.sign(np.subtract(*values.reshape(-1, 2).T)) for values in (scores, worth))
    told_apart = theirs != 0
    if not told_apart.any():
        raise SystemExit(f"gold tells no two answers apart, of {len(theirs)} pairs: give more demonstrations or tests")
    return float(((1 + ours * theirs) / 2)[told_apart].mean())


def summary(sizes: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Of each arm the mean curve with intervals over seeds, the difference from random, and the labels it needs."""
    seeds = {arm: np.asarray(curve) for arm, curve in curves.items()}  # (seeds, sizes)
    random = seeds["random"]
    found: dict[str, Any] = {}
    for arm, curve in seeds.items():
        found[arm] = {"accuracy": {n: mean_interval(curve[:, at]).as_dict() for at, n in enumerate(sizes)}}
        if arm == "random":
            continue
        gains = {n: mean_interval((curve - random)[:, at]).as_dict() for at, n in enumerate(sizes) if at > 0}
        found[arm] |= {"gain": gains, "labels_for": {}, "reached_at": {}}
        for name, number in (("all", sizes[-1]), ("half", sizes[-1] / 2)):
            target = float(np.interp(math.log(number), np.log(sizes), random.mean(0)))
            found[arm]["labels_for"][name] = labels_for(sizes, curve, random, number)
            found[arm]["reached_at"][name] = {"accuracy": target, "labels": reached_at(sizes, curve.mean(0), target)}
    return {"sizes": list(sizes), "orders": found, "curves": {arm: curve.tolist() for arm, curve in seeds.items()}}


def labels_for(sizes: Sequence[int], curve: np.ndarray, random: np.ndarray, number: float) -> dict[str, Any] | None:
    """What an order needs for the accuracy that random has with `number` labels, as a share of `number`.

    The curves are (seeds, sizes). With K seeds, θ the log of the share from all and θ_k from all but seed k, the
    jackknife's values are K θ − (K − 1) θ_k; their mean and Student's interval are the log of what is returned
    (Tukey 1958). None: a fitted curve does not rise, so that no number of labels is enough.
    """
    count = len(curve)
    rows = [list(range(count)), *([k for k in range(count) if k != left] for left in range(count))]
    logs = [_log_share(sizes, curve[own].mean(0), random[own].mean(0), number) for own in rows if own]
    known = [value for value in logs if value is not None]
    if len(known) < len(rows):
        return None
    estimate = mean_interval([count * known[0] - (count - 1) * value for value in known[1:]])
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    share = {name: math.exp(min(log, 50.0)) for name, log in ends.items()}  # so many labels nobody has
    saved = {name: number * (1 - share[end]) for name, end in zip(share, ("value", "high", "low"), strict=True)}
    return {"share": share, "saved": saved}


def _log_share(sizes: Sequence[int], curve: np.ndarray, random: np.ndarray, number: float) -> float | None:
    (level, slope), (level_of_random, slope_of_random) = (power_law(sizes, one) for one in (curve, random))
    if slope >= 0 or slope_of_random >= 0:
        return None
    log_error = level_of_random + slope_of_random * math.log(number)
    return (log_error - level) / slope - math.log(number)


def power_law(sizes: Sequence[int], accuracies: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Least squares of the log error on log n: its value at n = 1, and its slope, below 0 where labels help."""
    errors = np.maximum(1 - np.asarray(accuracies, dtype=np.float64), 1e-3)
    slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
    return float(level), float(slope)


def reached_at(sizes: Sequence[int], accuracies: Sequence[float] | np.ndarray, target: float) -> float | None:
    """The first number of labels with this accuracy, by straight lines in log n. None: it is not reached."""
    if accuracies[0] >= target:
        return float(sizes[0])
    for (small, below), (large, above) in pairwise(zip(sizes, accuracies, strict=True)):
        if above >= target:
            return float(small * (large / small) ** ((target - below) / (above - below)))
    return None


def _written(path: Path, groups: Sequence[PromptGroup], layout: str) -> str:
    write_groups(path, groups, layout)
    return str(path)


if __name__ == "__main__":
    main()
