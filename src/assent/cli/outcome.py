"""What a command gives back: one JSON document, the same for people, and its exit status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """`document` is printed with --json, `text` without; `exit_status` 1: it ran and found a fault."""

    document: Mapping[str, Any]
    text: str
    exit_status: int = 0
