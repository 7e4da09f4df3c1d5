"""Does an update from logs beat the release on what is asked now, without losing what was asked before?

The sandbox's world moves to `--time`: its mix of prompts, its taste, its products and its facts. A release (SFT, then
DPO on labels of time 0) serves it: each prompt is answered twice, and users of today's taste rate both, 1 to 5. From
these logs `assent plan --update` writes the file and `assent update` runs it, as it stands but for rates that suit the
small model. Both models then answer test prompts of today and of time 0 (by today's taste), which no training has seen.

    python benchmarks/update.py --output-dir out/update                         (five seeds)
    python benchmarks/update.py --output-dir out/update-small --small           (two seeds of a few rows: that it runs)

Prints one JSON document: the share of comparisons that the updated model wins by gold (a tie counts half), today,
before, and of both by kind of prompt, with 95% intervals over seeds and prompts (two-way); whether the gates opened;
what the plan did. A seed draws logs, training and answers anew; the release is the same for all. Finished stages are
not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import assent
from assent.data.loading import load_groups, write_groups
from assent.data.splitting import prompt_key
from assent.data.texts import last_content
from assent.errors import FaultError
from assent.runs.files import write_json
from assent.runs.progress import Silent
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.labellers import label
from assent.sandbox.settings import LabelSettings
from assent.sandbox.world import World
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup

GOLD = "assent.sandbox.gold:reward"
FIRST_DAY, BASE_DAYS, DAYS, DAY_SECONDS = 20_000, 14, 7, 86_400
LENGTH = 256
ANSWERS = {"max_length": LENGTH, "max_new_tokens": 40}
SCHEDULE = {"batch_size": 32, "max_length": LENGTH, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05}
RATE, BETA = 2e-4, 0.3
"""Learning rate of DPO and KTO, and their beta, as in benchmarks/plan_choice.py."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--time", type=float, default=4.0, help="how far the world has moved")
    parser.add_argument("--prompts", type=int, default=2000, help="logged prompts, each answered twice")
    parser.add_argument("--tests", type=int, default=200, help="test prompts of each era")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    if given.small:
        given.seeds, given.prompts, given.tests = 2, 350, 24
    folder, began = Path(given.output_dir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    run = _release(folder, given)
    baseline = _logged(folder / "release", World(0), run, days=BASE_DAYS, first=FIRST_DAY, seed=1000, given=given)
    tests = _tests(folder / "tests.jsonl", given)
    seeds = [_updated(folder / f"seed-{seed}", run, baseline, tests, seed=seed, given=given)
             for seed in range(given.seeds)]  # fmt: skip
    document = {
        "wins": _table(seeds, tests),
        "seeds": [{name: value for name, value in one.items() if name != "wins"} for one in seeds],
        **{name: getattr(given, name) for name in ("time", "prompts", "tests")},
        "seconds": time.monotonic() - began,
    }
    write_json(folder / "update.json", document)
    print(json.dumps(document, indent=1))


def _release(folder: Path, given: argparse.Namespace) -> Path:
    """The run of the released model: SFT on demonstrations of time 0, then DPO on labels of time 0."""
    number = 200 if given.small else 1500
    data = _written(folder / "demonstrations.jsonl", demonstrations(World(0), number, 0), "demonstrations")
    start = assent.sft(model=str(base_folder(0)), data=data, output_dir=folder / "sft", learning_rate=1e-3,
                       num_train_epochs=1 if given.small else 2, progress=Silent(), **SCHEDULE).model_path  # fmt: skip
    answers = _answered(folder / "before", World(0).prompts("preference", given.prompts // 2, 0), str(start), seed=0)
    pairs = label(
        [one for one, _ in answers], LabelSettings(source="sft", labels="pairs"), world=World(0), seed=0
    ).groups
    path = _written(folder / "before" / "pairs.jsonl", pairs, "comparisons")
    assent.dpo(model=str(start), data=path, output_dir=folder / "run", learning_rate=RATE, beta=BETA,
               progress=Silent(), **SCHEDULE)  # fmt: skip
    return folder / "run"


def _answered(
    folder: Path, prompts: Sequence[PromptGroup], model: str, *, seed: int
) -> list[tuple[PromptGroup, list[dict[str, float]]]]:
    """Each prompt with two answers of the model, and of each answer the log-probability and the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = _written(folder / "asked.jsonl", prompts, "prompts")
    path = assent.sample(model=model, data=asked, output_dir=folder / "answers", num_completions=2, seed=seed,
                         progress=Silent(), **ANSWERS)["completions"]  # fmt: skip
    by_prompt: dict[str, list[PromptGroup]] = defaultdict(list)
    for answer in load_groups(path, lenient=True):
        by_prompt[prompt_key(answer.prompt)].append(answer)
    found = []
    for group in prompts:
        answers = by_prompt[prompt_key(group.prompt)]
        if len(answers) == 2:  # an empty answer is no row
            texts = tuple(answer.completions[0] for answer in answers)
            logged = [{"logprobs": one.columns["logprob"], "num_tokens": one.columns["tokens"]} for one in answers]
            found.append((replace(group, completions=texts), logged))
    return found


def _logged(
    folder: Path, world: World, run: Path, *, days: int, first: int, seed: int, given: argparse.Namespace
) -> str:
    """A log in which each prompt of the world was answered twice by the release, and both answers were rated."""
    path = folder / "logs.jsonl"
    if path.exists():
        return str(path)
    answered = _answered(folder, world.prompts("rl", given.prompts, seed), str(run / "model"), seed=seed)
    settings = LabelSettings(source="sft", labels="ratings", num_completions=2)
    rows = []
    for place, (group, logged) in enumerate(answered):
        for rated in label([group], settings, world=world, seed=seed * 1_000_003 + place).groups:
            assert rated.preference is not None
            assert rated.preference.scores is not None
            moment = (first + days * place / len(answered)) * DAY_SECONDS
            rows += [
                {"id": f"{seed}-{place}-{number}", "time": moment + number, "prompt": last_content(group.prompt),
                 "completion": last_content(text), "rating": rating, **known, "model": "release",
                 "slice": group.columns["kind"]}
                for number, (text, rating, known) in enumerate(
                    zip(rated.completions, rated.preference.scores, logged, strict=True)
                )
            ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _tests(path: Path, given: argparse.Namespace) -> str:
    """Test prompts of today, then of time 0 by today's taste."""
    eras = {"now": World(0, given.time), "release": World(0, taste_time=given.time)}
    groups = [replace(group, columns={**group.columns, "era": era}) for era, world in eras.items()
              for group in world.prompts("test", given.tests, 7)]  # fmt: skip
    return _written(path, groups, "prompts")


def _updated(
    folder: Path, run: Path, baseline: str, tests: str, *, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Plans and runs one update. What was done, and how often it wins on each prompt."""
    logs = _logged(folder, World(0, given.time), run, days=DAYS, first=FIRST_DAY + BASE_DAYS, seed=seed, given=given)
    file, kept = folder / "next.yaml", folder / "plan.json"
    if not kept.exists():
        file.unlink(missing_ok=True)
        found = assent.plan(update=True, run=str(run), logs=logs, baseline=baseline, judge=GOLD, up_above=3.0,
                            output=file)  # fmt: skip
        write_json(kept, {name: found[name] for name in ("way", "facts", "causes")})
    plan = json.loads(kept.read_text())
    if plan["way"]["kind"] == "prompts":
        return {**plan, "released": False, "stopped_by": "the logs do not do: nothing was trained", "wins": []}
    changes = {**{f"train.{name}": value for name, value in SCHEDULE.items()}, "train.learning_rate": RATE,
               "train.beta": BETA, "evaluation.data": tests, "evaluation.max_length": LENGTH,
               "evaluation.max_new_tokens": 40}  # fmt: skip
    stopped = None
    try:
        assent.update(file, releases=str(folder / "releases"), output_dir=str(folder / "out"), seed=seed,
                      overrides=[f"{name}={value}" for name, value in changes.items()], progress=Silent())  # fmt: skip
    except FaultError as fault:
        stopped = fault.what
    evaluation = json.loads((folder / "out" / "evaluation" / "evaluation.json").read_text())
    scores = {one["name"]: one["sampled"]["scores"] for one in evaluation["policies"]}
    wins = [_wins(new, old) for new, old in zip(scores["new"], scores["release"], strict=True)]
    return {**plan, "released": stopped is None, "stopped_by": stopped, "wins": wins}


def _wins(new: Sequence[float], old: Sequence[float]) -> float | None:
    """Share of the pairs of answers to one prompt that the new model wins; a tie counts half."""
    pairs = [(a > b) + 0.5 * (a == b) for a in new for b in old]
    return sum(pairs) / len(pairs) if pairs else None


def _table(seeds: Sequence[dict[str, Any]], tests: str) -> dict[str, Any]:
    """Of each era, and before of each kind of prompt: the mean share of wins over seeds and prompts."""
    rows: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    groups = list(load_groups(tests))
    for seed, found in enumerate(seeds):
        for place, win in enumerate(found["wins"]):
            era, kind = groups[place].columns["era"], groups[place].columns["kind"]
            for name in (era, f"{era}: {kind}"):
                if win is not None:
                    rows[name].append((win, place, seed))
    return {
        name: mean_interval(
            [win for win, _, _ in its], clusters=[place for _, place, _ in its], second_clusters=[s for _, _, s in its]
        ).as_dict()
        for name, its in sorted(rows.items())
    }


def _written(path: Path, groups: Sequence[PromptGroup], layout: str) -> str:
    write_groups(path, groups, layout)
    return str(path)


if __name__ == "__main__":
    main()
