"""The doctor's rules of models, asked with --probe: each file is one, in the form of `assent.diagnosis.rules`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from assent.diagnosis.rule import Rule


@cache
def model_rules() -> tuple[Rule, ...]:
    """Every rule of this folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").RULE for name in names)
