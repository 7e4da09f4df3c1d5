"""`iterate`: rounds of sampling, collecting preferences, training and evaluating, until a rule stops it.

OUTPUT_DIR/before/       the stages that run once         OUTPUT_DIR/round-N/   a round: a pipeline's folder
OUTPUT_DIR/iterate.json  the rounds' figures and why it stopped   OUTPUT_DIR/report.html   the page about the rounds
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.commands.tools import report_on
from assent.config.iterate import IterateConfig, LoopFile, StopRules
from assent.config.loading import parse_options, read_yaml
from assent.data.loading import load_groups
from assent.errors import ConfigError, RunFolderError, WaitingError
from assent.pipelines.plan import PipelineFile, Plan, entries_of, parse_overrides, plan_of
from assent.pipelines.references import REFERENCE, check_variables, replaced
from assent.pipelines.runner import run_pipeline
from assent.reporting.rounds import write_rounds
from assent.runs.files import from_json, write_json
from assent.runs.folder import LOCK, lock_folder
from assent.runs.progress import Progress, progress_for_stderr

STATE, SCHEMA = "iterate.json", 1
OWN = ("policy", "start", "round")
Outputs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Loop:
    """A checked loop file."""

    file: LoopFile
    output_dir: Path
    seed: int
    rounds: int
    before: list[dict[str, Any]]
    stages: list[dict[str, Any]]

    def plan_before(self) -> Plan | None:
        if not self.before:
            return None
        return plan_of(
            PipelineFile(name=f"{self.file.name}-before", stages=self.before),
            path="before",
            output_dir=str(self.output_dir / "before"),
            seed=self.seed,
        )

    def plan_round(self, number: int, *, policy: str, start: str, before: Outputs) -> Plan:
        value_of = _values({"policy": policy, "start": start, "round": number}, before)
        return plan_of(
            PipelineFile(name=f"{self.file.name}-round-{number}", stages=replaced(self.stages, value_of)),
            path=f"round {number}",
            output_dir=str(self.output_dir / f"round-{number}"),
            seed=self.seed + number,
        )


def iterate(config: IterateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `output_dir`, `model_path` (the policy that was taken last), `rounds`, `status` (finished or waiting),
    `reason`, `report` (the page), `lines`."""
    progress = progress or progress_for_stderr()
    loop = read_loop(config)
    _check_folder(loop)  # before the lock: a folder of something else gets none
    with lock_folder(loop.output_dir):
        _check_folder(loop)
        record: dict[str, Any] = {"schema": SCHEMA, "name": loop.file.name}
        write_json(loop.output_dir / STATE, {**record, "rounds": [], "status": "running", "reason": None})
        before: Outputs = {}
        plan = loop.plan_before()
        if plan is not None:
            before = run_pipeline(plan, report=report_on, progress=progress).outputs
        start = str(_value(loop.file.policy, before, what="policy"))
        record |= {"start": start, "model": start, "rounds": [], "status": "running", "reason": None}
        try:
            _rounds(loop, record, before, progress)
        except WaitingError as waiting:
            record |= {"status": "waiting", "reason": f"{waiting.what}; {waiting.fix}"}
        return _outputs(loop, record)


def _rounds(loop: Loop, record: dict[str, Any], before: Outputs, progress: Progress) -> None:
    """Runs the rounds. Those that are finished are read again from their folders, so the record is always whole."""
    for number in range(1, loop.rounds + 1):
        policy = record["model"]
        plan = loop.plan_round(number, policy=policy, start=record["start"], before=before)
        progress.line(f"round {number} of at most {loop.rounds}, from {policy}")
        outputs = run_pipeline(plan, report=report_on, progress=progress).outputs
        figures = _figures(loop, outputs, plan.output_dir, spent=_spent(record))
        reason, taken = decide(loop.file.stop, figures)
        record["rounds"].append({"round": number, "from": policy, **figures, "taken": taken, "stopped": reason})
        if taken:
            record["model"] = figures["trained"]
        if reason is None and number == loop.rounds:
            reason = f"all {loop.rounds} rounds are done"
        if reason is not None:
            record |= {"status": "finished", "reason": reason}
        _write(loop, record)
        if reason is not None:
            return


def read_loop(config: IterateConfig) -> Loop:
    """Reads and checks the file: every stage of a round too, with stand-ins for what is known only later."""
    file = parse_options(LoopFile, read_yaml(config.file), where=f" in {config.file}")
    folder = config.output_dir or file.output_dir
    if folder is None:
        raise ConfigError(f"{config.file} names no output folder", fix="give --output-dir")
    entries = entries_of([*file.before, *file.stages], config.file)
    if taken := [name for name in OWN if name in file.variables]:
        raise ConfigError("variables cannot be called policy, start and round", got=", ".join(taken), fix="rename them")
    given, variables = parse_overrides(config.set, entries, file.variables)
    check_variables(variables, [entry.options for entry in entries] + [{"policy": file.policy}], config.file)
    if fast := [entry.name for entry in entries if entry.fast]:
        raise ConfigError(f"`fast` of stage {fast[0]} has no effect in a loop", fix="leave it out")

    def filled(value: Any) -> Any:
        return replaced(value, lambda name: variables.get(name, f"${{{name}}}"))

    ready = [
        {**raw, "options": filled({**entry.options, **given[entry.name]})}
        for raw, entry in zip([*file.before, *file.stages], entries, strict=True)
    ]
    loop = Loop(
        file=file.model_copy(update={"policy": filled(file.policy)}),
        output_dir=Path(folder),
        seed=file.seed if config.seed is None else config.seed,
        rounds=config.rounds or file.rounds,
        before=ready[: len(file.before)],
        stages=ready[len(file.before) :],
    )
    _check(loop)
    return loop


def _check(loop: Loop) -> None:
    plan = loop.plan_before()
    stages = () if plan is None else plan.stages
    before = {stage.name: {name: f"<{stage.name}.{name}>" for name in stage.step.outputs} for stage in stages}
    _value(loop.file.policy, before, what="policy")
    of_round = loop.plan_round(1, policy="<policy>", start="<start>", before=before)
    known = {stage.name: dict.fromkeys(stage.step.outputs, "") for stage in of_round.stages}
    for name in ("trained", "labels", "evaluation"):
        if (text := getattr(loop.file, name)) is not None:
            _value(text, known, what=name)


def _values(own: Mapping[str, Any], before: Outputs) -> Callable[[str], Any]:
    """What a reference in a round's options stands for. Stages of the round are left for the round's plan."""

    def value_of(reference: str) -> Any:
        if reference in own:
            return own[reference]
        if reference.startswith("before."):
            return _value(f"${{{reference.removeprefix('before.')}}}", before, what=f"${{{reference}}}")
        return f"${{{reference}}}"

    return value_of


def _value(text: str, outputs: Outputs, *, what: str) -> Any:
    """The text with ${STAGE.OUTPUT} filled in. Raises ConfigError for an unknown stage or output."""

    def value_of(reference: str) -> Any:
        stage, _, name = reference.partition(".")
        if name not in outputs.get(stage, {}):
            known = ", ".join(f"{one}.{output}" for one, its in outputs.items() for output in its)
            raise ConfigError(
                f"{what} refers to what is not there", got=f"${{{reference}}}", expected=known or "a path"
            )
        return outputs[stage][name]

    return replaced(text, value_of) if REFERENCE.search(text) else text


def _figures(loop: Loop, outputs: Outputs, folder: Path, *, spent: int) -> dict[str, Any]:
    """A round's model, labels and evaluation."""
    evaluation = from_json(Path(_value(loop.file.evaluation, outputs, what="evaluation")).read_bytes())
    row = next((one for one in evaluation["policies"] if one["name"] == "new"), None)
    if row is None or evaluation["baseline"] != "before" or row["sampled"]["win_rate"] is None:
        raise ConfigError(
            "the round's evaluation does not compare the policies new and before",
            got=f"{', '.join(one['name'] for one in evaluation['policies'])}; baseline {evaluation['baseline']}",
            expected="policies: {new: …, before: …, start: …}, baseline: before, reference: start",
        )
    labels = 0
    if loop.file.labels is not None:
        labels = len(load_groups(_value(loop.file.labels, outputs, what="labels")))
    return {
        "output_dir": str(folder),
        "trained": str(_value(loop.file.trained, outputs, what="trained")),
        "labels": labels,
        "labels_so_far": spent + labels,
        "win_rate": row["sampled"]["win_rate"],
        "score": row["sampled"]["gold"],
        "kl_nats": row["kl"],
        "judge_faults": [
            finding["verdict"]
            for its in outputs.values()
            for finding in its.get("findings", ())
            if finding["severity"] == "fault"
        ],
    }


def _spent(record: Mapping[str, Any]) -> int:
    return sum(one["labels"] for one in record["rounds"])


def decide(rules: StopRules, figures: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Why the loop stops after this round (None: it goes on), and whether the round's policy is taken."""
    rate, kl = figures["win_rate"], figures["kl_nats"]
    if rules.judge_fault and figures["judge_faults"]:
        return f"the judge of this round has a fault: {figures['judge_faults'][0]}", False
    if rules.kl_nats is not None:
        if kl is None:
            raise ConfigError("stop.kl_nats needs a KL", fix="give the evaluation `reference: start`, a model")
        if kl["value"] > rules.kl_nats:
            return f"the KL budget is spent: {kl['value']:.2f} of {rules.kl_nats:g} nats", False
    low = rate["low"]
    if rules.no_gain and (low is None or low <= 0.5):
        ends = "unknown" if low is None else f"[{low:.2f}, {rate['high']:.2f}]"
        return f"no gain beyond the interval: win rate {rate['value']:.2f} {ends}", False
    if rules.labels is not None and figures["labels_so_far"] >= rules.labels:
        return f"the labels are spent: {figures['labels_so_far']:,} of {rules.labels:,}", True
    return None, True


def _check_folder(loop: Loop) -> None:
    """Raises RunFolderError if the folder holds something else or another loop."""
    path = loop.output_dir / STATE
    if path.exists():
        try:
            known = from_json(path.read_bytes())
        except ValueError as error:
            raise RunFolderError(f"{path} cannot be read", got=error, fix="give another --output-dir") from None
        if known.get("name") != loop.file.name:
            raise RunFolderError(
                f"{loop.output_dir} belongs to another loop",
                got=known.get("name"),
                expected=loop.file.name,
                fix="give another --output-dir",
            )
    elif loop.output_dir.exists():
        others = sorted(one.name for one in loop.output_dir.iterdir() if one.name != LOCK)
        if others:
            raise RunFolderError(
                f"{loop.output_dir} holds something else", got=", ".join(others[:5]), fix="give another --output-dir"
            )


def _write(loop: Loop, record: Mapping[str, Any]) -> Path:
    write_json(loop.output_dir / STATE, record)
    return write_rounds(loop.output_dir, record)


def _outputs(loop: Loop, record: Mapping[str, Any]) -> dict[str, Any]:
    page = _write(loop, record)
    return {
        "output_dir": str(loop.output_dir),
        "model_path": record["model"],
        "rounds": record["rounds"],
        "status": record["status"],
        "reason": record["reason"],
        "report": str(page),
        "lines": lines_of(record, page),
    }


def lines_of(record: Mapping[str, Any], page: Path) -> list[str]:
    lines = [f"{'round':<7}{'labels':>7}  {'wins vs before':<20}{'score':<8}{'KL, nats':<10}"]
    for one in record["rounds"]:
        rate = one["win_rate"]
        ends = "" if rate["low"] is None else f" [{rate['low']:.2f}, {rate['high']:.2f}]"
        score = "–" if one["score"] is None else f"{one['score']['value']:.2f}"
        kl = "–" if one["kl_nats"] is None else f"{one['kl_nats']['value']:.2f}"
        wins = f"{rate['value']:.2f}{ends}"
        taken = "" if one["taken"] else "not taken"
        lines.append(f"{one['round']:<7}{one['labels']:>7,}  {wins:<20}{score:<8}{kl:<10}{taken}")
    return [*lines, f"{record['status']}: {record['reason']}", f"policy: {record['model']}", f"report: {page}"]
