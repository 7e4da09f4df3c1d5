"""Assent: preference alignment of language models, from pretrained to aligned.

Everything the command line does is a function here: `assent.dpo(model=..., data=..., output_dir=..., beta=0.1)`
returns a result with `.model_path`, `.metrics` and `.report()`. Names are resolved when first used, so that
`import assent` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assent.commands.functions import (
        Result,
        a2c,
        best_of_n,
        compare,
        convert_config,
        doctor,
        dpo,
        evaluate,
        explain,
        frontier,
        grpo,
        iterate,
        judge,
        kto,
        label,
        merge,
        monitor,
        new_model,
        online_dpo,
        plan,
        ppo,
        report,
        reward,
        rloo,
        rollback,
        run,
        sample,
        score,
        serve_check,
        sft,
        update,
    )

__version__ = "0.1.0"
__all__ = [
    "Result",
    "a2c",
    "best_of_n",
    "compare",
    "convert_config",
    "doctor",
    "dpo",
    "evaluate",
    "explain",
    "frontier",
    "grpo",
    "iterate",
    "judge",
    "kto",
    "label",
    "merge",
    "monitor",
    "new_model",
    "online_dpo",
    "plan",
    "ppo",
    "report",
    "reward",
    "rloo",
    "rollback",
    "run",
    "sample",
    "score",
    "serve_check",
    "sft",
    "update",
]

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def _wait_without_spinning() -> None:
    """Beside other work, OpenMP's threads would spin at barriers for threads that have no core: ten times as slow.

    OpenMP reads this once, when torch is loaded. What the user has set stays.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


_wait_without_spinning()


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("assent.commands.functions"), name)
    raise AttributeError(f"module 'assent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
