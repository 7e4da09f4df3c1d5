"""What the training of a plan needs: lengths, memory, time, money. It reads the data with the model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from assent.commands.plan_measure import Measured, measured
from assent.config.loading import parse_options
from assent.config.options import StageOptions
from assent.config.plan import PlanConfig
from assent.models.folders import read_json, resolve_folder
from assent.models.meta_shape import shape_of
from assent.models.shape import GivenLengths, Lengths, ModelShape
from assent.pipelines.steps import STEPS
from assent.planning import devices
from assent.planning import needs_text as text
from assent.planning.devices import Device, device
from assent.planning.fit import Fit, fit
from assent.planning.lengths import LengthsReport, measure
from assent.planning.memory import rows_of_a_step
from assent.planning.setup import ONLINE, Setup
from assent.planning.stages import PlannedStage
from assent.planning.starting import STARTS, Starting, starting_point
from assent.planning.time import Duration, HeldOut, duration, rates_of
from assent.stages import kto, preference, reward
from assent.stages.selecting import Select, demonstrations_of, to_prompts
from assent.stages.stage_data import read_stage_data

UNCUT = 2**20
"""A max_length that cuts nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """What one training stage of the plan needs.

    parameters   of the model, and where the number is from
    duration     None: this machine is not calibrated, or the device not in the table
    measured     two real steps, if they were asked for and the stage can run before the others have
    """

    name: str
    command: str
    setup: Setup
    shape: ModelShape
    parameters_from: str
    groups: Sequence[Lengths]
    lengths: LengthsReport
    steps: int
    fit: Fit
    duration: Duration | None
    starting: Starting
    measured: Measured | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "command": self.command,
            "parameters": self.shape.num_parameters,
            "parameters_from": self.parameters_from,
            "lengths": self.lengths.as_dict(),
            "memory": self.fit.as_dict(),
            "time": None if self.duration is None else self.duration.as_dict(),
            "starting_point": self.starting.as_dict(),
            "measured": None if self.measured is None else self.measured.as_dict(),
        }


def needed(config: PlanConfig, stages: Sequence[PlannedStage]) -> tuple[dict[str, Any], list[str], str | None]:
    """What the plan's training needs on `config.hardware`, as a document and as lines of text; and why it cannot be, or
    None where it can."""
    assert config.hardware is not None
    on = device_of(config.hardware)
    found = needs_of(config, stages, on)
    document = {"hardware": on.as_dict(), "needs": [one.as_dict() for one in found]}
    return document, lines_of_stages(config, found, on), misfit_of(config, found, on)


def misfit_of(config: PlanConfig, found: Sequence[StageNeeds], on: Device) -> str | None:
    """Why these stages cannot run: no way fits the device's memory, or even the low end of the range is too much."""
    for one in found:
        if not one.fit.largest_budget and not any(way.fits for way in one.fit.ways):
            least = min(way.memory.peak for way in one.fit.ways)
            return f"its {one.command} needs {least / 1e9:.3g} GB at least, of {on.memory_bytes / 1e9:.3g} on {on.name}"
    durations = [one.duration for one in found if one.duration is not None]
    hours = sum(duration.hours[0] for duration in durations)
    if config.deadline_seconds is not None and hours * 3600 > config.deadline_seconds:
        return f"it takes {hours:.2g} h at least, and the deadline is {config.deadline}"
    if config.budget is not None and config.price is not None:
        money = hours * config.price * on.count
        if money > config.budget:
            return f"it costs {money:.2f} at least, of a budget of {config.budget:g}"
    return None


def device_of(name: str) -> Device:
    """`auto` is this machine: its first CUDA device, known by name or by its own memory, or its CPU."""
    if name != "auto":
        return device(name)
    if not torch.cuda.is_available():
        return device("cpu")
    own, memory = torch.cuda.get_device_name(0).lower(), torch.cuda.get_device_properties(0).total_memory
    for known in devices.names():
        one = device(known)
        if known.split("-")[-2] in own and abs(one.memory_bytes / memory - 1) < 0.1:
            return one
    return Device(own, "cuda", float(memory), source="this machine")


def needs_of(config: PlanConfig, stages: Sequence[PlannedStage], on: Device) -> list[StageNeeds]:
    """Of every training stage, in order."""
    found = []
    train: Mapping[str, Any] = {}
    for stage in stages:
        if stage.command == "data-split":
            train = stage.options
        elif stage.command in STARTS:
            found.append(_needs(config, stage, train, on))
    return found


def _needs(config: PlanConfig, stage: PlannedStage, split: Mapping[str, Any], on: Device) -> StageNeeds:
    options = resolved(stage, config, split)
    read = {name: value for name, value in options.items() if name not in ("eval_data", "eval_fraction")}
    parsed = options_of(stage.command, {**read, "max_length": UNCUT})
    away = split.get("fraction", 0.0) if stage.options["data"] == "${split.train}" else 0.0
    away = options.get("eval_fraction", away)
    select, sources = _select(stage.command, parsed), {"train": parsed.data}
    tokens = read_stage_data(parsed, model=parsed.model, sources=sources, select=select, **_more(parsed)).train.tokens
    planned = options_of(stage.command, options_without_held_out(options))
    folder = resolve_folder(config.model, weights=False)
    shape, source = shape_of(folder)
    setup = Setup.of(stage.command, planned, threads=torch.get_num_threads())
    whole = [_as_sampled(setup, group) for group in tokens]
    groups = [_as_trained(setup, group) for group in whole]
    rows = len(groups) * (1 - away)
    epochs = rows * planned.num_train_epochs / setup.batch_size
    steps = planned.total_steps or planned.max_steps or max(1, round(epochs))
    scorer = shape if stage.command in ONLINE else None
    largest = rows_of_a_step(groups, setup.batch_size)
    times = HeldOut.number(steps=steps, eval_steps=options.get("eval_steps", 0)) if _measures(options) else 0
    held_out = HeldOut(times=times, rows=groups, share=away)
    is_half = setup.dtype == "bfloat16" or setup.mixed_precision == "bf16"
    rates = rates_of(on, dtype="bfloat16" if is_half else "float32")
    return StageNeeds(
        name=stage.name,
        command=stage.command,
        setup=setup,
        shape=shape,
        parameters_from=source,
        groups=groups,
        lengths=measure(whole, context=_context(folder)),
        steps=steps,
        fit=fit(setup, shape, largest, on, reward=scorer),
        duration=None
        if rates is None
        else duration(setup, shape, groups, rates=rates, steps=steps, device=on.kind, reward=scorer, held_out=held_out),
        starting=starting_point(stage.command, num_parameters=shape.num_parameters, lora=bool(setup.lora_r)),
        measured=measured(stage.command, _as_they_run(options)) if config.measure and _can_run(stage) else None,
    )


def _context(folder: Path) -> int | None:
    """The most positions that the model has, if its configuration says."""
    given = read_json(folder, "config.json")
    return given.get("max_position_embeddings") or given.get("n_positions")


def _can_run(stage: PlannedStage) -> bool:
    """Whether it needs no reward that an earlier stage trains."""
    return not str(stage.options.get("reward", "")).startswith("${")


def _measures(options: Mapping[str, Any]) -> bool:
    """Whether the stage measures on held-out data."""
    return "eval_data" in options or "eval_fraction" in options


def _as_they_run(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options_without_held_out(options).items() if name != "output_dir"}


def resolved(stage: PlannedStage, config: PlanConfig, split: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's options with what earlier stages would give: the start is the plan's model, the data the whole file,
    and a reward that is still to be trained has the model's size."""
    options = dict(stage.options)
    for name, value in stage.options.items():
        if not str(value).startswith("${"):
            continue
        if name in ("model", "reward"):
            options[name] = config.model
        elif name == "data":
            options[name] = split["file"]
            options |= {one: split[one] for one in ("split", "columns") if one in split}
    return {**options, "output_dir": "-"}


def options_without_held_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what needs a second file."""
    gone = {"eval_data", "eval_fraction", "eval_steps", "metric_for_best_model"}
    return {name: value for name, value in options.items() if name not in gone}


def options_of(command: str, options: Mapping[str, Any]) -> Any:
    gone = options_without_held_out(options)
    return parse_options(STEPS[command].config_class(), gone, where=f" of the planned {command}")


def _select(command: str, config: Any) -> Select:
    if command in ONLINE:
        return to_prompts
    if command == "sft":
        return demonstrations_of(config.train_on)
    if command == "reward":
        return reward.select_for(config)
    if command == "kto":
        return kto.select_for(config)
    return preference.select_for(config)


def _more(config: StageOptions) -> dict[str, Any]:
    """What the stage's own tokenizing takes besides."""
    if hasattr(config, "train_on"):
        return {"train_on": config.train_on}
    length = getattr(config, "max_new_tokens", 0)
    return {"max_new_tokens": length} if length else {}


def _as_sampled(setup: Setup, group: Lengths) -> Lengths:
    """An online stage's prompt with completions of the largest length; another's as it is."""
    if not setup.is_online:
        return group
    number, length = setup.num_completions, setup.max_new_tokens
    return GivenLengths(group.prompt_length, (length,) * number, number * length)


def _as_trained(setup: Setup, group: Lengths) -> Lengths:
    """Cut to `max_length`, the prompt first."""
    longest = max(group.completion_lengths, default=0)
    prompt = min(group.prompt_length, max(1, setup.max_length - longest))
    lengths = tuple(min(length, setup.max_length - prompt) for length in group.completion_lengths)
    return GivenLengths(prompt, lengths, min(group.num_counted, sum(lengths)))


def lines_of_stages(config: PlanConfig, found: Sequence[StageNeeds], on: Device) -> list[str]:
    lines: list[str] = []
    for one in found:
        lines += text.lines_of_stage(one.name, one.command, one.shape, one.parameters_from)
        lines += text.lines_of_lengths(one.lengths)
        lines += text.lines_of_fit(one.fit, on, host=on.kind == "cuda")
        lines += text.lines_of_time(one.duration, price=config.price, device=on)
        if one.measured is not None:
            lines += text.lines_of_measured(one.measured, steps=one.steps)
        elif config.measure:
            lines.append("  Not measured: its reward is trained first")
        lines += text.lines_of_start(one.starting)
    durations = [one.duration for one in found if one.duration is not None]
    if len(durations) < len(found):
        return lines
    limits = {"deadline": config.deadline_seconds, "budget": config.budget, "price": config.price}
    return [*lines, *text.lines_of_limits(durations, **limits, devices=on.count)]
