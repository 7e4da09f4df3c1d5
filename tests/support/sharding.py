"""Work and rewards for tests of shards; some of them fail or die where a file in the working directory says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assent.integrations.executor import Work

ONCE = Path("killed-once")


def squares(worker: int) -> Work:
    """Squares numbers. It raises on 13, dies on 17 every time, and dies once on 5."""

    def work(numbers: Sequence[int]) -> list[int]:
        if 13 in numbers:
            raise ValueError("13 is not liked")
        if 17 in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 5 in numbers:
            die_once()
        return [number**2 for number in numbers]

    return work


def broken(worker: int) -> Work:
    raise OSError("no model here")


def die_once() -> None:
    try:
        ONCE.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def length(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def place(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Each completion's place among those that are scored together."""
    return [float(i) for i in range(len(completions))]


def length_or_die_once(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """`length`; the first process that sees the completion of row 70 dies."""
    if any("row 70" in text for text in completions):
        die_once()
    return length(prompts, completions)


def length_but_poison(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """`length`, but rows with "poison" raise, until a file named "mended" is there."""
    if any("poison" in text for text in completions) and not Path("mended").exists():
        raise ValueError("poison")
    return length(prompts, completions)


def refusing(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    raise ValueError("never")


Reward = Callable[[Sequence[Any], Sequence[str]], list[float]]
