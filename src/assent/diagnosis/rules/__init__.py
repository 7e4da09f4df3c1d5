"""The doctor's rules: each file here is one, and has `RULE`, `FIRES` and `QUIET`. Nothing else has to name it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from assent.config.functions import import_named
from assent.diagnosis.rule import Rule
from assent.errors import ConfigError


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule of this folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").RULE for name in names)


def third_party(names: Iterable[str]) -> tuple[Rule, ...]:
    """Rules named `module:NAME`. ConfigError where there is none, or where it is not a Rule."""
    return tuple(_imported(name) for name in names)


def _imported(name: str) -> Rule:
    found = import_named(name, what="rule", kind="rule")
    if not isinstance(found, Rule):
        raise ConfigError(
            f"{name} is not a rule",
            got=type(found).__name__,
            expected="an assent.diagnosis.rule.Rule",
            fix="see docs/add-a-rule.md",
        )
    return found
