"""What each method of `compare` may do with its share of a budget: rows, updates, completions. Numbers only.

labels        annotation: rows times their cost. A method with demonstrations and comparisons spends half on each
completions   two for each comparison, and those that are sampled, including the answers that best-of-n samples. A
              method that needs both spends half on each
flops         an equal share for each command of the method
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from assent.config.compare import ONLINE, CompareConfig, parts_of
from assent.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One command of a method. None: the command has no such number, or its options set it."""

    command: str
    demonstrations: int | None = None
    """Rows it reads from the file of demonstrations."""
    comparisons: int | None = None
    """Rows it reads from the comparisons."""
    steps: int | None = None
    """Updates, or rounds of an online command."""
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the data holds, and what each command spends per unit."""

    demonstrations: int
    comparisons: int
    served: int
    completions_per_round: Mapping[str, int]
    """For each online command."""
    rows_per_step: Mapping[str, int]
    """For each other command that trains."""
    flops: Mapping[str, tuple[float, float]]
    """Measured FLOPs before the first update or round, and for each one (for best-of-n: each completion). Empty
    unless FLOPs are the budget."""


def allot(config: CompareConfig, method: str, amount: float, rates: Rates) -> list[Part]:
    """The method's commands, in order. ConfigError if the amount or the data is too small for one of them."""
    commands = parts_of(method)
    parts = [_ALLOT[config.budget](config, commands, command, amount, rates) for command in commands]
    for part in parts:
        _check(config, method, amount, part, rates)
    return parts


def _labels(config: CompareConfig, commands: tuple[str, ...], command: str, amount: float, rates: Rates) -> Part:
    has_file = config.demonstrations is not None and "sft" in commands
    share = amount / 2 if has_file and len(commands) > 1 else amount
    if command == "sft" and has_file:
        return Part(command=command, demonstrations=int(share / config.demonstration_cost))
    if command in ("sft", "reward", "dpo"):
        return Part(command=command, comparisons=int(share / config.comparison_cost))
    return Part(command=command, n=config.n if command == "best-of-n" else None)


def _completions(config: CompareConfig, commands: tuple[str, ...], command: str, amount: float, rates: Rates) -> Part:
    if command == "sft" and config.demonstrations is not None:
        return Part(command=command, demonstrations=rates.demonstrations)
    share = amount / 2 if commands[-1] in (*ONLINE, "best-of-n") else amount
    if command in ("sft", "reward", "dpo"):
        return Part(command=command, comparisons=int(share / 2))
    if command == "best-of-n":
        return Part(command=command, n=int(share / rates.served))
    return Part(command=command, steps=int(share / rates.completions_per_round[command]))


def _flops(config: CompareConfig, commands: tuple[str, ...], command: str, amount: float, rates: Rates) -> Part:
    before, each = rates.flops[command]
    affordable = max(0, int((amount / len(commands) - before) / each))
    if command == "best-of-n":
        return Part(command=command, n=affordable // rates.served)
    if command in ONLINE:
        return Part(command=command, steps=affordable)
    rows = affordable * rates.rows_per_step[command]  # no more than are trained on, since a reference reads all of them
    if command == "sft" and config.demonstrations is not None:
        return Part(command=command, demonstrations=min(rates.demonstrations, rows), steps=affordable)
    return Part(command=command, comparisons=min(rates.comparisons, rows), steps=affordable)


_ALLOT = {"labels": _labels, "completions": _completions, "flops": _flops}


def _check(config: CompareConfig, method: str, amount: float, part: Part, rates: Rates) -> None:
    given = {"steps": part.steps, "demonstrations": part.demonstrations, "comparisons": part.comparisons}
    lacking = [name for name, number in given.items() if number is not None and number < 1]
    if part.n is not None and part.n < 2:
        lacking.append("completions to choose from")
    if lacking:
        raise ConfigError(
            f"{amount:g} {config.budget} are too few for {method}",
            got=f"no {lacking[0]} left for its {part.command}",
            fix="give a larger amount, or leave the method out",
        )
    for name, number, there in (
        ("demonstrations", part.demonstrations, rates.demonstrations),
        ("comparisons", part.comparisons, rates.comparisons),
    ):
        if number is not None and number > there:
            raise ConfigError(
                f"{amount:g} {config.budget} need more {name} than the data has for {method}",
                got=f"{there}",
                expected=f"at least {number}",
                fix="give a smaller amount, or more data",
            )
