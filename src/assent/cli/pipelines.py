"""run, iterate, update, rollback, demo and report: pipelines and the page about them."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.commands.tools import run_file, run_shipped, write_report
from assent.config.commands import DemoConfig, ReportConfig, RunConfig
from assent.config.iterate import IterateConfig
from assent.config.update import RollbackConfig, UpdateConfig
from assent.pipelines.runner import PipelineResult


@command(RunConfig, positional="file")
def run(config: RunConfig) -> Outcome:
    options = config.model_dump(include={"output_dir", "seed", "fast", "jobs"})
    return _outcome("run", run_file(config.file, overrides=config.set, **options))


@command(IterateConfig, positional="file")
def iterate(config: IterateConfig) -> Outcome:
    from assent.commands.iterate import iterate as loop

    result = loop(config)
    return Outcome({"command": "iterate", **result}, "\n".join(result["lines"]))


@command(UpdateConfig, positional="file")
def update(config: UpdateConfig) -> Outcome:
    from assent.commands.update import update as released

    result = released(config)
    return Outcome({"command": "update", **result}, "\n".join(result["lines"]))


@command(RollbackConfig, positional="folder")
def rollback(config: RollbackConfig) -> Outcome:
    from assent.commands.update import rollback as rolled_back

    result = rolled_back(config)
    return Outcome({"command": "rollback", **result}, "\n".join(result["lines"]))


@command(DemoConfig)
def demo(config: DemoConfig) -> Outcome:
    folder = config.output_dir or ("out/demo-fast" if config.fast else "out/demo")
    return _outcome(
        "demo", run_shipped("demo.yaml", output_dir=folder, seed=config.seed, fast=config.fast, jobs="auto")
    )


@command(ReportConfig, positional="runs")
def report(config: ReportConfig) -> Outcome:
    written = write_report(config)
    lines = [*(f"model card: {path}" for path in written["model_cards"]), f"report: {written['report']}"]
    return Outcome({"command": "report", **written}, "\n".join(lines))


def _outcome(name: str, result: PipelineResult) -> Outcome:
    """The stages' `lines`, in order, and the path of the report."""
    tables = ["\n".join(outputs["lines"]) for outputs in result.outputs.values() if outputs.get("lines")]
    return Outcome({"command": name, **result.as_dict()}, "\n\n".join([*tables, f"report: {result.report}"]))
