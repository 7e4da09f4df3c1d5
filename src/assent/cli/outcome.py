"""What a command returns: a JSON document, the same as text, and an exit status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """`document` is printed with --json, `text` without. `exit_status` 1: the command ran and found a fault."""

    document: Mapping[str, Any]
    text: str
    exit_status: int = 0


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """One line for each metric."""
    return [
        f"  {name:<28} {value:.6g}" if isinstance(value, float | int) else f"  {name:<28} {value}"
        for name, value in sorted(metrics.items())
    ]
