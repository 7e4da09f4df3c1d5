"""Memory, time and cost as lines of text, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from assent.models.shape import ModelShape
from assent.planning.devices import Device
from assent.planning.fit import LARGEST_BUDGET, Fit
from assent.planning.lengths import LengthsReport
from assent.planning.memory import COMPONENTS, Memory
from assent.planning.plan_text import wrapped
from assent.planning.starting import Starting
from assent.planning.time import Duration

BAR = 30
_SHORT = {"first step": "1st step", "later steps": "later"}


def lines_of_stage(name: str, command: str, shape: ModelShape, source: str) -> list[str]:
    what = f"{command}, {shape.num_parameters:,} parameters ({source})"
    return ["", *wrapped(f"Stage {name}: {what}", "", "  ")]


def lines_of_lengths(lengths: LengthsReport) -> list[str]:
    """The histogram, what each max_length cuts, and the one to take."""
    most = max(one.rows for one in lengths.histogram)
    lines = ["  Lengths of rows, in tokens"]
    for one in lengths.histogram:
        bar = "#" * round(BAR * one.rows / most)
        lines.append(f"    {one.low:>6,} to {one.high:>6,}  {one.rows:>9,}  {bar}")
    for cut in lengths.cuts:
        lines.append(
            f"    max_length {cut.max_length:>6,} cuts {cut.rows:>6.1%} of the rows, {cut.tokens:>6.1%} of the tokens"
        )
    lines += wrapped(f"take max_length {lengths.recommended}: it {lengths.note}", "    ", "      ")
    return lines


def lines_of_fit(fit: Fit, device: Device, *, host: bool) -> list[str]:
    """By component and moment as planned, then the other ways, and what to change."""
    memory = fit.planned.memory
    lines = ["", f"  Memory on {device.name}, {_size(device.memory_bytes)} each", *_table(memory)]
    lines += wrapped(
        f"highest: {memory.peak_moment}, {_size(memory.allocated)} allocated, {_size(memory.reserved)} reserved; "
        f"{'it fits' if fit.planned.fits else 'it does NOT fit'}",
        "    ",
        "      ",
    )
    for way in fit.ways[1:]:
        fits = "fits" if way.fits else "does not fit"
        lines += wrapped(f"{way.name}: {_size(way.memory.peak)}, {fits} ({way.options})", "    ", "      ")
    if fit.advice:
        lines += wrapped(f"to make it fit: {fit.advice}", "    ", "      ")
    others = ", ".join(f"{name} {_size(full)} / {_size(lora)}" for name, (full, lora) in fit.methods.items())
    lines += wrapped(f"other methods with rows of these lengths (all weights / LoRA): {others}", "    ", "      ")
    if fit.largest_budget >= LARGEST_BUDGET:
        lines.append("    every --micro-batch-tokens fits")
    elif fit.largest_budget:
        lines.append(f"    the largest batch that fits: --micro-batch-tokens {fit.largest_budget}")
    if host:
        lines.append(f"    main memory while the weights are loaded: {_size(fit.host_bytes)}")
    lines.append(f"    disk for checkpoints and the result: {_size(fit.checkpoint_bytes)}")
    return lines


def _table(memory: Memory) -> list[str]:
    moments = list(memory.moments)
    lines = [f"    {'':<13}" + "".join(f"{_SHORT.get(name, name):>12}" for name in moments)]
    for component in COMPONENTS:
        row = [memory.moments[name].get(component, 0.0) for name in moments]
        if any(row):
            cells = "".join(f"{_size(value) if value else '':>12}" for value in row)
            lines.append(f"    {component.replace('_', ' '):<13}{cells}")
    total = "".join(f"{_size(memory.at(name)):>12}" for name in moments)
    return [*lines, f"    {'together':<13}{total}"]


def lines_of_time(duration: Duration | None, *, price: float | None, device: Device) -> list[str]:
    if duration is None:
        why = "this machine is not calibrated: assent plan --calibrate (under a minute)"
        if device.kind != "cpu":
            why = f"{device.name} is not in the table of devices; --measure runs two real steps on it"
        return ["", *wrapped(f"Time: not known, {why}", "  ", "    ")]
    low, high = duration.seconds
    text = (
        f"Time: {_span(low)} to {_span(high)} for {duration.steps:,} updates, {duration.tokens:,} tokens, "
        f"{duration.flops:.2g} FLOPs"
    )
    lines = ["", *wrapped(text, "  ", "    "), *wrapped(f"[{duration.source}]", "    ", "    ")]
    if price is not None:
        least, most = duration.money(price, devices=device.count)
        lines.append(f"  Cost: {least:.2f} to {most:.2f}, at {price:g} for each device and hour")
    return lines


class MeasuredSteps(Protocol):
    """Two real steps (commands/plan_measure.py)."""

    @property
    def first(self) -> float: ...
    @property
    def second(self) -> float: ...
    @property
    def error(self) -> float: ...
    def seconds(self, steps: int) -> float: ...


def lines_of_measured(measured: MeasuredSteps, *, steps: int) -> list[str]:
    text = (
        f"Measured here: {_size(measured.first)} in the first step, {_size(measured.second)} in the second "
        f"(the plan is {abs(measured.error):.0%} {'above' if measured.error > 0 else 'below'}); "
        f"at the second step's speed {steps:,} steps take {_span(measured.seconds(steps))}"
    )
    return wrapped(text, "  ", "    ")


def lines_of_start(start: Starting) -> list[str]:
    beta = "" if start.beta is None else f", {start.beta_name} {start.beta:g}"
    lines = wrapped(f"Start with: learning_rate {start.learning_rate:g}{beta} [{start.source}]", "  ", "    ")
    return [*lines, *(wrapped(start.note, "    ", "    ") if start.note else [])]


def lines_of_limits(
    durations: Sequence[Duration], *, deadline: float | None, budget: float | None, price: float | None, devices: int
) -> list[str]:
    """Whether all stages together keep the deadline and the budget."""
    low, high = (sum(one.seconds[i] for one in durations) for i in (0, 1))
    lines = [""]
    if deadline is not None:
        lines.append(
            f"Deadline of {_span(deadline)}: {_kept(low, high, deadline)}, {_span(low)} to {_span(high)} in all"
        )
    if budget is not None and price is not None:
        least, most = (seconds / 3600 * price * devices for seconds in (low, high))
        lines.append(f"Budget of {budget:g}: {_kept(least, most, budget)}, {least:.2f} to {most:.2f} in all")
    return lines if len(lines) > 1 else []


def _kept(low: float, high: float, limit: float) -> str:
    return "kept" if high <= limit else "missed" if low > limit else "in doubt"


def _size(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
