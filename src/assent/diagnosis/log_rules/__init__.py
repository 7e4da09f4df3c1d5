"""The doctor's rules of a deployed model's logs, asked by `assent monitor`: each file is one, as in `…rules`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from assent.diagnosis.rule import Rule


@cache
def log_rules() -> tuple[Rule, ...]:
    """Every rule of this folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").RULE for name in names)
