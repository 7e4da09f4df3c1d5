"""The public functions: `assent.sft(...)`, `assent.reward(...)`, `assent.dpo(...)`, `assent.ppo(...)`.

Each takes the options of its command as keyword arguments and does what the command does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.config.loading import parse_options
from assent.pipelines.steps import STEPS
from assent.runs.files import to_json
from assent.runs.progress import Progress, progress_for_stderr
from assent.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its folder, the model's folder, updates done, and the last value of every metric."""

    output_dir: Path
    model_path: Path
    steps: int
    metrics: Mapping[str, float]

    def report(self) -> Path:
        """Writes report.html into the run folder; its path."""
        from assent.reporting.page import write_report

        return write_report(self.output_dir)


def sft(*, progress: Progress | None = None, **options: Any) -> Result:
    """Instruction tuning from demonstrations. Options: those of `assent sft` (`model`, `data`, `learning_rate` …)."""
    return _run("sft", options, progress)


def reward(*, progress: Progress | None = None, **options: Any) -> Result:
    """A reward model from comparisons. Options: those of `assent reward` (`model`, `data`, `learning_rate` …)."""
    return _run("reward", options, progress)


def dpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Direct preference optimisation. Options: those of `assent dpo` (`model`, `data`, `beta` …)."""
    return _run("dpo", options, progress)


def ppo(*, progress: Progress | None = None, **options: Any) -> Result:
    """PPO against a reward. Options: those of `assent ppo` (`model`, `data`, `reward`, `kl_coef` …)."""
    return _run("ppo", options, progress)


def _run(command: str, options: dict[str, Any], progress: Progress | None) -> Result:
    """Without `output_dir` the run folder is runs/<command>-<hash of the options>: the same call finds its run again.

    `data` may be the records themselves instead of a path. Raises what the command would: errors of `assent.errors`.
    """
    step = STEPS[command]
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    keywords: dict[str, Any] = {}
    if isinstance(given.get("data"), Sequence) and not isinstance(given["data"], str):
        groups: Sequence[PromptGroup] = given["data"]
        digest = hashlib.sha256("\n".join(map(repr, groups)).encode()).hexdigest()[:12]
        given["data"], keywords["data"] = f"{len(groups)} records, SHA-256 {digest}", groups
    if "output_dir" not in given:
        digest = hashlib.sha256(to_json(dict(sorted(given.items()))).encode()).hexdigest()[:8]
        given["output_dir"] = str(Path("runs") / f"{command}-{digest}")
    config = parse_options(step.config_class(), given)
    outputs = step.run(config, progress=progress or progress_for_stderr(), **keywords)
    return Result(
        output_dir=Path(outputs["output_dir"]),
        model_path=Path(outputs["model_path"]),
        steps=outputs["steps"],
        metrics=outputs["metrics"],
    )
