"""Other trainers' defaults that differ from ours and change the result: written where a file leaves them unset.

Read from their sources: TRL 1.16 (its PPO: 1.9), and on 2026-11-30 LLaMA-Factory (src/llamafactory/hparams, train/ppo,
which stands on TRL 0.9) and axolotl (src/axolotl/utils/schemas, core/builders, which stands on TRL and transformers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.commands.conversion import Conversion
from assent.config.loss_options import comparison_loss_declaration

_HF = {"learning_rate": 5e-5, "num_train_epochs": 3.0, "seed": 42}
_TRL = {**_HF, "max_length": 1024}
_BETA = {"beta": 0.1, "hyperparameters.simpo_gamma": 0.5}
_AXOLOTL = {"num_train_epochs": 1.0, "seed": 42, "max_length": 512, "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.03, "mixed_precision": "bf16"}  # fmt: skip
_GRPO = {"kl_coef": 0.0, "loss_type": "dapo", "max_new_tokens": 512}
DEFAULTS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("TRL", "sft"): {**_TRL, "learning_rate": 2e-5},
    ("TRL", "dpo"): {**_TRL, "learning_rate": 1e-6, **_BETA},
    ("TRL", "kto"): {**_TRL, "learning_rate": 1e-6, "beta": 0.1},
    ("TRL", "reward"): {**_TRL, "learning_rate": 1e-4},
    ("TRL", "grpo"): {"learning_rate": 1e-6, "seed": 42, **_GRPO},
    ("TRL", "rloo"): {"learning_rate": 1e-6, "seed": 42, "max_new_tokens": 512, "kl_coef": 0.05},
    ("TRL", "ppo"): {"learning_rate": 3e-6, "seed": 42, "max_new_tokens": 53, "temperature": 0.7, "kl_coef": 0.05},
    ("LLaMA-Factory", "sft"): {**_HF, "max_length": 2048},
    ("LLaMA-Factory", "reward"): {**_HF, "max_length": 2048},
    ("LLaMA-Factory", "kto"): {**_HF, "max_length": 2048, "beta": 0.1},
    ("LLaMA-Factory", "dpo"): {**_HF, "max_length": 2048, **_BETA},
    ("LLaMA-Factory", "ppo"): {
        **_HF, "max_length": 2048, "max_new_tokens": 1024, "temperature": 0.95, "trunk": "shared",
        "kl_coef": 0.2, "kl_target": 6.0, "kl_horizon": 10000.0,
    },
    ("axolotl", "sft"): _AXOLOTL,
    ("axolotl", "reward"): _AXOLOTL,
    ("axolotl", "kto"): {**_AXOLOTL, "beta": 0.1},
    ("axolotl", "dpo"): {**_AXOLOTL, "beta": 0.1},
    ("axolotl", "grpo"): {**_AXOLOTL, **_GRPO, "max_length": 1024},
}  # fmt: skip
"""By trainer and our command."""

SAID_BY = {
    "warmup_ratio": ("warmup_ratio", "warmup_steps"),
    "lr_scheduler_type": ("lr_scheduler_type", "lr_scheduler"),
    "mixed_precision": ("bf16", "fp16", "fp8", "bfloat16", "float16", "float32"),
    "loss_type": ("loss_type", "advantage_estimator"),
}
"""Options of theirs that decide one of ours without always setting it: where one is given, the default says nothing."""
NOTES = {
    ("axolotl", "warmup_ratio"): ", at most 100 steps",
    ("axolotl", "mixed_precision"): " on a device that computes in it (auto)",
    ("LLaMA-Factory", "trunk"): ": its critic is a value head on the policy",
}
"""What a default of theirs says beyond the value."""


def fill_in(found: Conversion) -> None:
    """Writes their defaults for what the file leaves unset, and says so. Called when the loss is known."""
    for name, value in DEFAULTS.get((found.trainer, found.command), {}).items():
        if any(found.options.get(theirs) is not None for theirs in SAID_BY.get(name, ())):
            continue
        plain = name.removeprefix("hyperparameters.")
        if found.command == "dpo" and plain in ("beta", "simpo_gamma"):
            declared = comparison_loss_declaration(str(found.ours.get("loss_type", "sigmoid"))).hyperparameters
            if plain not in declared:
                continue
        where = found.ours.setdefault("hyperparameters", {}) if plain != name else found.ours
        if plain in where or (plain == name and plain not in found.fields):
            continue
        where[plain] = value
        note = NOTES.get((found.trainer, name), "")
        found.changed.append(f"{plain} {value}: the file leaves it unset, and this is their default{note}")
