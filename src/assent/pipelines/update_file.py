"""Reads a pipeline file for `assent update`: a pipeline, the model that it replaces, and gates that compare the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.config.evaluation import EvalConfig
from assent.config.gate import GateConfig
from assent.config.loading import parse_options, read_yaml
from assent.config.loss_options import LOGGED
from assent.errors import ConfigError
from assent.pipelines.plan import PipelineFile, Plan, Stage, entries_of, parse_overrides, plan_of
from assent.pipelines.references import REFERENCE, with_variables
from assent.pipelines.steps import GATE


class UpdateFile(PipelineFile):
    """An update as written in its file."""

    new: str
    """The new model: ${STAGE.model_path}."""
    replaces: str
    """The released model: the gates compare the new one with it."""


@dataclass(frozen=True, slots=True)
class Update:
    """A checked update file. `new` names the stage that makes the new model; `gates` are those against the release."""

    plan: Plan
    new: Stage
    replaces: str
    gates: tuple[Stage, ...]

    def reference_in(self, outputs: dict[str, dict[str, Any]]) -> str:
        """What training held the new model to, in words."""
        options = self.new.config(outputs)
        given, start = getattr(options, "reference", None), getattr(options, "model", None)
        if "reference" not in type(options).model_fields:
            return f"none: {self.new.command} has no reference"
        if given == LOGGED:
            return "the log-probabilities that the logs hold"
        path = str(given if given is not None else start)
        return f"the release, {path}" if is_same(path, self.replaces) else f"{path}, which is not the release"


def is_same(path: str, other: str) -> bool:
    return path == other or Path(path).resolve() == Path(other).resolve()


def read_update(
    path: str | Path, *, output_dir: str | None = None, seed: int | None = None, overrides: Sequence[str] = ()
) -> Update:
    """The update of a file. Raises ConfigError if the pipeline is wrong, or if its gates do not guard the release."""
    file = parse_options(UpdateFile, read_yaml(path), where=f" in {path}")
    _, variables = parse_overrides(overrides, entries_of(file.stages, path), file.variables)
    plan = plan_of(file, path=path, output_dir=output_dir, seed=seed, overrides=overrides)
    named = with_variables({"new": file.new, "replaces": file.replaces}, variables, f" of {path}")
    stages = {stage.name: stage for stage in plan.stages}
    match = REFERENCE.fullmatch(named["new"])
    name, _, output = match[1].partition(".") if match else ("", "", "")
    if name not in stages or output != "model_path" or output not in stages[name].step.outputs:
        raise ConfigError(
            f"`new` of {path} names no stage that makes a model",
            got=named["new"],
            expected="${STAGE.model_path} of one of " + ", ".join(stages),
        )
    update = Update(plan, stages[name], named["replaces"], tuple(_against_release(plan, **named)))
    _check_gates(update, path)
    return update


def _against_release(plan: Plan, new: str, replaces: str) -> Iterator[Stage]:
    """The gates on an evaluation of the new model whose baseline and reference are the released one."""
    stages = {stage.name: stage for stage in plan.stages}
    for stage in plan.stages:
        match = REFERENCE.fullmatch(str(stage.options.get("evaluation"))) if stage.command == GATE else None
        source = stages.get(match[1].partition(".")[0]) if match else None
        if source is None or source.command != "eval":
            continue
        evaluation = parse_options(EvalConfig, dict(source.options))
        against = {evaluation.baseline, evaluation.reference or evaluation.baseline}
        compares = all(is_same(evaluation.policies.get(str(name), ""), replaces) for name in against)
        if compares and evaluation.policies.get(str(stage.options["policy"])) == new:
            yield stage


def _check_gates(update: Update, path: str | Path) -> None:
    """Raises ConfigError unless win rate, KL, and safety or slices all have a limit."""
    configs = [parse_options(GateConfig, dict(stage.options)) for stage in update.gates]
    wanted = {
        "min_win_rate": any(one.min_win_rate is not None for one in configs),
        "max_kl_nats": any(one.max_kl_nats is not None for one in configs),
        "max_safety or min_slice_win_rate": any(one.max_safety or one.min_slice_win_rate for one in configs),
    }
    if missing := [name for name, is_there in wanted.items() if not is_there]:
        raise ConfigError(
            f"{path} has no gate against the release with {', '.join(missing)}",
            got=f"gates against it: {', '.join(stage.name for stage in update.gates) or 'none'}",
            expected=f"gates on an evaluation of {update.new.name}'s model, with baseline and reference "
            f"{update.replaces}",
            fix="add the limits, or let assent plan --update write the file; assent run runs a pipeline without them",
        )
