"""Findings that somebody knows and accepts, with the reason: a YAML or JSON file of `rule: reason`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from assent.config.loading import unknown_name
from assent.errors import ConfigError
from assent.runs.foreign_logs import read_settings


def read_accepted(path: str | Path, known: Iterable[str]) -> dict[str, str]:
    """Reasons by rule. ConfigError for a rule that is not known, and for one without a reason."""
    known = list(known)
    accepted: dict[str, str] = {}
    for rule, reason in read_settings(path).items():
        if rule not in known:
            error = unknown_name("rule", str(rule), known)
            raise ConfigError(f"{error.what} in {path}", expected=error.expected, fix=error.fix)
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"{path} gives no reason for {rule}", expected=f"{rule}: why it is accepted")
        accepted[rule] = reason.strip()
    return accepted
