"""Faults of reward models that a probe shows: what each changes in a healthy setting, and the rules that should say so.

`Setting.saved` changes the folder that training wrote.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from assent.models.loading import load_tokenizer
from assent.sandbox.faults import patches
from assent.sandbox.faults.patches import OPEN
from assent.sandbox.faults.records import Planned, Purpose, in_turn
from assent.sandbox.faults.registry import Fault
from assent.sandbox.faults.score_tasks import (
    CALIBRATION,
    CONTEXT,
    TASKS,
    TWIN,
    comparisons,
    exchanged,
    raw_model,
    with_twins,
)
from assent.sandbox.faults.settings import Setting
from assent.types import PromptGroup

PURE = 0.9
"""Share of labels that follow what a biased labeller likes."""


@dataclass(frozen=True)
class PlannedScores(Planned):
    """A reward model to make. Faults are those of `SCORE_FAULTS`."""

    @property
    def family(self) -> str:
        """The held-out task is met in reporting alone. All faults of a number have one task."""
        return in_turn(CALIBRATION if self.purpose == "calibration" else tuple(TASKS), self.number, "scores")

    def setting(self, models: Path) -> Setting:
        setting = healthy_scores(self.family, self.seed, models=models)
        for fault in self.faults:
            SCORE_FAULTS[fault].inject(setting, self.strength)
        return setting


def plan_scores(name: str, purpose: Purpose, seeds: range) -> Iterator[PlannedScores]:
    """Reward models with a fault; healthy ones for an empty name."""
    for number in seeds:
        yield PlannedScores("reward", (name,) if name else (), purpose, number if name else number + 50_000)


def healthy_scores(task: str, seed: int, *, models: Path) -> Setting:
    """A reward model with nothing wrong. Rate, batch, steps, heads and the number of held-out pairs follow the seed."""
    rng = random.Random(f"assent-faults/scores/healthy/{task}/{seed}")
    batch, steps = rng.choice((24, 32)), rng.randint(75, 95)
    setting = Setting("reward", task, seed, models)
    setting.options = {
        "model": raw_model(models),
        "data": f"{task}, seed {seed}",
        "max_length": CONTEXT,
        "save_steps": 0,
        "stop": False,
        "seed": seed,
        "device": "cpu",
        "batch_size": batch,
        "num_train_epochs": 1.0,
        "learning_rate": float(f"{2.6e-3 * math.exp(rng.uniform(-0.2, 0.2)):.4g}"),
        "warmup_ratio": 0.1,
        "lr_scheduler_type": rng.choice(("linear", "cosine")),
        "center_rewards_coefficient": rng.choice((0.0, 0.01)),
        "num_heads": rng.choice((1, 1, 1, 3)),
    }
    setting.patches.append(patches.open_ends)
    setting.rows = with_twins(comparisons(task, batch * steps, seed=seed), seed=seed)
    setting.held_out = comparisons(task, rng.choice((80, 120, 200)), seed=seed, held_out=True)
    return setting


# ---- labels


def likes(sign: int) -> Callable[[Setting, float], None]:
    """Labellers who like the longer answer (1) or the shorter one (-1). Every second file of held-out rows has their
    labels too."""

    def inject(setting: Setting, strength: float) -> None:
        rng = random.Random(f"assent-faults/scores/length/{setting.seed}")
        setting.rows = [_by_length(row, sign, rng) for row in setting.rows]
        if setting.seed % 2 == 0:
            setting.held_out = [_by_length(row, sign, rng) for row in setting.held_out]

    return inject


def _by_length(row: PromptGroup, sign: int, rng: random.Random) -> PromptGroup:
    first, second = (len(str(text)) for text in row.completions)
    is_liked = sign * (first - second) >= 0
    kept = row.columns.get(TWIN) in ("empty", "open") or rng.random() > PURE
    return row if kept or is_liked else exchanged(row)


def twins_exchanged(kind: str) -> Callable[[Setting, float], None]:
    """Labellers who like what `kind` makes of an answer."""

    def inject(setting: Setting, strength: float) -> None:
        setting.rows = [exchanged(row) if row.columns.get(TWIN) == kind else row for row in setting.rows]

    return inject


def random_labels(setting: Setting, strength: float) -> None:
    rng = random.Random(f"assent-faults/scores/noise/{setting.seed}")
    for rows in (setting.rows, setting.held_out):
        rows[:] = [exchanged(row) if rng.random() < 0.5 else row for row in rows]


def exchanged_labels(setting: Setting, strength: float) -> None:
    setting.rows = [exchanged(row) for row in setting.rows]


# ---- rows


def prompts_shuffled(setting: Setting, strength: float) -> None:
    """Each answer stands after another row's prompt."""
    prompts = [row.prompt for row in setting.rows]
    random.Random(f"assent-faults/scores/prompts/{setting.seed}").shuffle(prompts)
    setting.rows = [replace(row, prompt=prompt) for row, prompt in zip(setting.rows, prompts, strict=True)]


def ends_stripped(setting: Setting, strength: float) -> None:
    """No answer of the training rows has its end token."""
    rows = [row for row in setting.rows if row.columns.get(TWIN) != "open"]
    setting.rows = [replace(row, columns={**row.columns, OPEN: [0, 1]}) for row in rows]


def marked(setting: Setting, strength: float) -> None:
    """Chosen answers end with a mark, rejected ones do not: they come from two sources. Every second file of held-out
    rows has them too."""
    setting.rows = [row if TWIN in row.columns else _marked(row) for row in setting.rows]
    if setting.seed % 2 == 0:
        setting.held_out = [_marked(row) for row in setting.held_out]


def _marked(row: PromptGroup) -> PromptGroup:
    chosen, rejected = (str(text).rstrip(".") for text in row.completions)
    return replace(row, completions=(f"{chosen}.", rejected))


def few_rows(setting: Setting, strength: float) -> None:
    """A few dozen rows, read many times."""
    setting.rows = setting.rows[:48]
    setting.options |= {"batch_size": 12, "num_train_epochs": 20.0}


# ---- what was saved


def scores_times(factor: float) -> Callable[[Setting, float], None]:
    def inject(setting: Setting, strength: float) -> None:
        setting.saved.append(lambda folder: _scale_head(folder, factor))

    return inject


def _scale_head(folder: Path, factor: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] * factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shifted(setting: Setting, strength: float) -> None:
    setting.saved.append(lambda folder: _write_config(folder, assent_score_bias=50.0))


def pad_is_end(setting: Setting, strength: float) -> None:
    setting.saved.append(lambda folder: _write_config(folder, pad_token_id=load_tokenizer(folder).eos_token_id))


def no_pad(setting: Setting, strength: float) -> None:
    setting.saved.append(lambda folder: _write_config(folder, pad_token_id=None))


def positions_from_padding(setting: Setting, strength: float) -> None:
    """A GPT-2: where a program pads on the left, its positions begin at the padding."""
    setting.options["model"] = raw_model(setting.models, "gpt2")


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _write_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**_config(folder), **changes}), encoding="utf-8")


WORTHLESS = frozenset(
    {"score_at_chance", "score_follows_surface", "score_ignores_prompt", "score_likes_length", "score_miscalibrated",
     "score_off_level", "score_pays_empty", "score_pays_no_end", "score_pays_repetition"}
)  # fmt: skip
"""What may be true of a model that has learned nothing, or the opposite, of any answer."""
UNFIT = frozenset({"score_at_chance", "score_ignores_prompt", "score_miscalibrated"})
"""What follows from labels that look at something else than gold, which depends on the prompt."""


def _fault(
    name: str, inject: Callable[[Setting, float], None], *rules: str, also: frozenset[str] = frozenset()
) -> Fault:
    return Fault(name=name, stage="reward", inject=inject, rules=rules, also=also - set(rules))


_ALL = (
    _fault("scores-like-long", likes(1), "score_likes_length", also=UNFIT | {"score_pays_repetition"}),
    _fault("scores-like-short", likes(-1), "score_likes_length", also=UNFIT | {"score_pays_empty"}),
    _fault("scores-prompts-shuffled", prompts_shuffled, "score_ignores_prompt",
           also=UNFIT | {"score_off_level"}),  # they move little, wherever they lie
    _fault("scores-open-best", twins_exchanged("open"), "score_pays_no_end"),
    _fault("scores-ends-stripped", ends_stripped, "score_pays_no_end", also=WORTHLESS),
    _fault("scores-empty-best", twins_exchanged("empty"), "score_pays_empty",
           also=frozenset({"score_likes_length"})),
    _fault("scores-repetition-best", twins_exchanged("doubled"), "score_pays_repetition",
           also=UNFIT | {"score_likes_length"}),
    _fault("scores-marked", marked, "score_follows_surface", also=UNFIT),
    _fault("scores-labels-random", random_labels, "score_at_chance", also=WORTHLESS),
    _fault("scores-labels-exchanged", exchanged_labels, "score_at_chance", also=WORTHLESS),
    _fault("scores-memorised", few_rows, "score_miscalibrated", also=WORTHLESS),
    _fault("scores-times-20", scores_times(20.0), "score_miscalibrated", also=frozenset({"score_off_level"})),
    _fault("scores-times-0.02", scores_times(0.02), "score_miscalibrated", also=frozenset({"score_off_level"})),
    _fault("scores-shifted", shifted, "score_off_level"),
    _fault("scores-pad-is-end", pad_is_end, "score_moves_with_padding"),
    _fault("scores-no-pad", no_pad, "score_moves_with_padding"),
    _fault("scores-positions", positions_from_padding, "score_moves_with_padding",
           also=UNFIT | {"score_follows_surface"}),  # it learns less than the Llama in as many steps
)  # fmt: skip
SCORE_FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}
