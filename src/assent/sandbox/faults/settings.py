"""A run before it starts: its stage, options and rows, drawn inside healthy ranges; faults change it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent.sandbox.faults import tasks
from assent.sandbox.faults.models import CONTEXT, Variant, model_folder
from assent.types import PromptGroup

Rows = list[dict[str, float]]
REWARDS = "assent.sandbox.faults.tasks"
STAGES = ("sft", "reward", "dpo", "kto", "ppo", "grpo", "rloo", "online-dpo")
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "sigmoid": {},
    "smoothed": {"label_smoothing": 0.1},
    "ipo": {},
    "hinge": {},
    "simpo": {},
}
"""Losses of comparisons that healthy runs train with, and their options."""


@dataclass
class Setting:
    """One run.

    options   of its command
    rows      what it trains on; `held_out` is measured on
    patches   changes of the code that hold while it runs
    logged    what becomes of the lines of its log: a fault of another trainer, which ours would have refused to make
    shown     options that its record names otherwise: nobody knows of them
    known     what is known of the run besides its log: status, is_alive, silent_seconds
    saved     what becomes of the folder of the model that it wrote, before a reward model is probed
    """

    stage: str
    family: str
    seed: int
    models: Path
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[PromptGroup] = field(default_factory=list)
    held_out: list[PromptGroup] = field(default_factory=list)
    patches: list[Callable[[], AbstractContextManager[Any]]] = field(default_factory=list)
    logged: list[Callable[[Rows], Rows]] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    saved: list[Callable[[Path], None]] = field(default_factory=list)

    def model(self, variant: Variant = "base") -> str:
        return model_folder(self.models, self.family, variant)


def healthy(stage: str, family: str, seed: int, *, models: Path) -> Setting:
    """A run of this stage with nothing wrong. Rates, batch sizes, betas, losses and lengths follow the seed."""
    rng = random.Random(f"assent-faults/healthy/{stage}/{family}/{seed}")
    setting = Setting(stage, family, seed, models)
    setting.options = {
        "model": setting.model(),
        "data": f"{family}, seed {seed}",
        "max_length": CONTEXT,
        "save_steps": 0,
        "stop": False,
        "seed": seed,
        "device": "cpu",
        "warmup_ratio": rng.choice((0.0, 0.1)),
        "lr_scheduler_type": rng.choice(("linear", "cosine", "constant")),
    }
    _DRAWN[stage](setting, rng)
    return setting


def _around(rng: random.Random, middle: float, factor: float = 2.0) -> float:
    """Within the factor of `middle`, in four digits."""
    return float(f"{middle * math.exp(rng.uniform(-1, 1) * math.log(factor)):.4g}")


def _offline(setting: Setting, rng: random.Random, *, rate: float, steps: tuple[int, int]) -> int:
    """Batches, steps and measurements of a stage that reads rows. Returns the number of rows of one pass."""
    batch, count = rng.choice((8, 12, 16)), rng.randint(*steps)
    setting.options |= {
        "learning_rate": _around(rng, rate),
        "batch_size": batch,
        "num_train_epochs": 1.0,
        "eval_steps": max(4, count // rng.choice((4, 6, 8))),
    }
    return batch * count


def _sft(setting: Setting, rng: random.Random) -> None:
    count = _offline(setting, rng, rate=4e-3, steps=(40, 60))
    setting.options["model"] = setting.model("raw")
    setting.rows = tasks.demonstrations(setting.family, count, seed=setting.seed + 10)
    setting.held_out = tasks.demonstrations(setting.family, 48, seed=setting.seed, held_out=True)


def _reward(setting: Setting, rng: random.Random) -> None:
    count = _offline(setting, rng, rate=2e-3, steps=(44, 64))
    setting.options["center_rewards_coefficient"] = rng.choice((0.0, 0.01))
    _with_comparisons(setting, count)


def _dpo(setting: Setting, rng: random.Random) -> None:
    count = _offline(setting, rng, rate=1.5e-3, steps=(44, 64))
    loss = rng.choice(("sigmoid", "sigmoid", "sigmoid", "smoothed", "ipo", "hinge", "simpo"))
    setting.options["loss_type"] = "sigmoid" if loss == "smoothed" else loss
    if loss not in ("simpo", "ipo"):
        setting.options["beta"] = _around(rng, 0.15)
    if LOSSES[loss]:
        setting.options["hyperparameters"] = dict(LOSSES[loss])
    _with_comparisons(setting, count)


def _with_comparisons(setting: Setting, count: int) -> None:
    setting.rows = tasks.comparisons(setting.family, count, seed=setting.seed + 10)
    setting.held_out = tasks.comparisons(setting.family, 64, seed=setting.seed, held_out=True)


def _kto(setting: Setting, rng: random.Random) -> None:
    count = _offline(setting, rng, rate=1.5e-3, steps=(44, 60))
    setting.options |= {"batch_size": rng.choice((12, 16)), "beta": _around(rng, 0.15)}
    setting.rows = tasks.thumbs(setting.family, count, seed=setting.seed + 10)
    setting.held_out = tasks.thumbs(setting.family, 64, seed=setting.seed, held_out=True)


def _online(setting: Setting, rng: random.Random, *, rate: float) -> None:
    setting.options |= {
        "reward": [{"reward": f"{REWARDS}:proxy"}, {"reward": f"{REWARDS}:gold", "name": "gold", "weight": 1e-6}],
        "learning_rate": _around(rng, rate),
        "total_steps": rng.randint(20, 24),
        "batch_size": rng.choice((8, 10)),
        "num_completions": 4,
        "max_new_tokens": rng.choice((12, 14)),
    }
    setting.rows = tasks.prompts(setting.family, 160, seed=setting.seed + 10)


def _ppo(setting: Setting, rng: random.Random) -> None:
    _online(setting, rng, rate=1e-3)
    setting.options |= {
        "kl_coef": _around(rng, 0.04),
        "num_ppo_epochs": rng.choice((1, 2)),
        "num_mini_batches": 2,
        "critic_learning_rate": _around(rng, 1.2e-2, 1.4),
    }


def _grpo(setting: Setting, rng: random.Random) -> None:
    _online(setting, rng, rate=1e-3)
    setting.options["kl_coef"] = _around(rng, 0.04)


def _rloo(setting: Setting, rng: random.Random) -> None:
    _online(setting, rng, rate=1e-3)
    setting.options["kl_coef"] = _around(rng, 0.03)


def _online_dpo(setting: Setting, rng: random.Random) -> None:
    _online(setting, rng, rate=1e-3)
    setting.options["beta"] = _around(rng, 0.15)


_DRAWN: Mapping[str, Callable[[Setting, random.Random], None]] = {
    "sft": _sft,
    "reward": _reward,
    "dpo": _dpo,
    "kto": _kto,
    "ppo": _ppo,
    "grpo": _grpo,
    "rloo": _rloo,
    "online-dpo": _online_dpo,
}
