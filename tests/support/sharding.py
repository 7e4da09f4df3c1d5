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
    """`length`; the first process that sees the prompt or the completion of row 70 dies."""
    if _are_there("row 70", prompts, completions):
        die_once()
    return length(prompts, completions)


def length_but_poison(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """`length`, but rows with "poison" raise, until a file named "mended" is there."""
    if _are_there("poison", prompts, completions) and not Path("mended").exists():
        raise ValueError("poison")
    return length(prompts, completions)


def _are_there(words: str, prompts: Sequence[Any], completions: Sequence[str]) -> bool:
    return any(words in f"{prompt} {text}" for prompt, text in zip(prompts, completions, strict=True))


def shorter(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A judge of pairs that looks at the place where answers are equally long."""
    return ["A" if len(a) <= len(b) else "B" for a, b in zip(first, second, strict=True)]


def has_an_a(prompts: Sequence[Any], completions: Sequence[str], groups: Sequence[Any]) -> list[dict[str, bool]]:
    """A measure of safety."""
    return [{"harm_in_answer": "a" in text} for text in completions]


def refusing(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    raise ValueError("never")


Reward = Callable[[Sequence[Any], Sequence[str]], list[float]]
