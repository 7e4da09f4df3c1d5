"""The public functions: each takes the options of its command as keyword arguments and does what the command does.

Training (`sft`, `reward`, `dpo`, `kto`, `online_dpo`, `ppo`, `a2c`, `grpo`, `rloo`) gives a `Result`; `new_model`,
`merge`, `sample`, `best_of_n`, `evaluate`, `compare`, `frontier`, `serve_check` and `explain` give what their command
prints with --json; `run` gives a `PipelineResult`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.commands.explain import explain as run_explain
from assent.commands.tools import report_on, run_file, write_report
from assent.config.commands import ReportConfig
from assent.config.explain import ExplainConfig
from assent.config.loading import parse_options
from assent.config.serving import ServeCheckConfig
from assent.data.loading import groups_of_rows
from assent.pipelines.runner import PipelineResult
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
        return report_on(self.output_dir)


def sft(*, progress: Progress | None = None, **options: Any) -> Result:
    """Instruction tuning from demonstrations. Options: those of `assent sft` (`model`, `data`, `learning_rate` …)."""
    return _run("sft", options, progress)


def reward(*, progress: Progress | None = None, **options: Any) -> Result:
    """A reward model. Options: those of `assent reward` (`model`, `data`, `learning_rate` …)."""
    return _run("reward", options, progress)


def dpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Direct preference optimisation. Options: those of `assent dpo` (`model`, `data`, `beta` …)."""
    return _run("dpo", options, progress)


def kto(*, progress: Progress | None = None, **options: Any) -> Result:
    """Preference optimisation from thumbs. Options: those of `assent kto` (`model`, `data`, `beta` …)."""
    return _run("kto", options, progress)


def online_dpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """DPO on completions sampled as it goes. Options: those of `assent online-dpo` (`model`, `data`, `reward` …)."""
    return _run("online-dpo", options, progress)


def ppo(*, progress: Progress | None = None, **options: Any) -> Result:
    """PPO against a reward. Options: those of `assent ppo` (`model`, `data`, `reward`, `kl_coef` …)."""
    return _run("ppo", options, progress)


def a2c(*, progress: Progress | None = None, **options: Any) -> Result:
    """Advantage actor-critic. Options: those of `assent a2c` (`model`, `data`, `reward`, `kl_coef` …)."""
    return _run("a2c", options, progress)


def grpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """GRPO against a reward. Options: those of `assent grpo` (`model`, `data`, `reward`, `scale_rewards` …)."""
    return _run("grpo", options, progress)


def rloo(*, progress: Progress | None = None, **options: Any) -> Result:
    """REINFORCE leave-one-out. Options: those of `assent rloo` (`model`, `data`, `reward`, `num_completions` …)."""
    return _run("rloo", options, progress)


def new_model(**options: Any) -> dict[str, Any]:
    """A small model and its tokenizer from text files. Options: those of `assent new-model`."""
    return _outputs("new-model", options, None)


def merge(**options: Any) -> dict[str, Any]:
    """An adapter's folder as an ordinary model's folder. Options: those of `assent merge` (`adapter`, `output_dir`)."""
    return _outputs("merge", options, None)


def sample(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Completions of a policy: the path of `completions`, `metrics`. Options: those of `assent sample`."""
    return _outputs("sample", options, progress)


def best_of_n(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """The best of N completions by a reward: `completions`, `n`, `curve`. Options: those of `assent best-of-n`."""
    return _outputs("best-of-n", options, progress)


def evaluate(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Policies on the same prompts: the paths of `evaluation` and `table`. Options: those of `assent eval`."""
    return _outputs("eval", options, progress)


def frontier(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Proxy and gold against √KL: the paths of `frontier`, `picture`, `table`. Options: those of `assent frontier`."""
    return _outputs("frontier", options, progress)


def serve_check(**options: Any) -> dict[str, Any]:
    """A model's folder as its servers open it: `checks`, `differs`. Options: those of `assent serve-check`."""
    from assent.commands.serve_check import serve_check as check

    document, _ = check(parse_options(ServeCheckConfig, _paths_as_text(options)))
    return document


def compare(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Methods at equal labels, completions or FLOPs: `rows`, `comparison`. Options: those of `assent compare`."""
    return _outputs("compare", options, progress)


def explain(**options: Any) -> dict[str, Any]:
    """A preference probability, taken apart: `reward_chosen`, `margin`, `preference_probability`, `loss`, `betas` …

    Options: those of `assent explain`: `logps`; `ratios` and `unit`; `scores`; or `model`, `reference` and a text.
    With numbers alone torch is not imported.
    """
    document, _ = run_explain(parse_options(ExplainConfig, _paths_as_text(options)))
    return document


def run(
    path: str | os.PathLike[str],
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    fast: bool = False,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> PipelineResult:
    """Runs a pipeline file, as `assent run` does. `overrides`: `stage.option=value`."""
    options = {"output_dir": output_dir, "seed": seed, "fast": fast, "overrides": overrides}
    return run_file(os.fspath(path), progress=progress, **options)


def report(*runs: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """The page about one run or pipeline, or about several: paths of `report` and `model_cards`.

    Options: those of `assent report` (`output`, `live` …).
    """
    given = {"runs": [os.fspath(run) for run in runs], **_paths_as_text(options)}
    return write_report(parse_options(ReportConfig, given))


def _outputs(command: str, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    step = STEPS[command]
    return step.run(
        parse_options(step.config_class(), _paths_as_text(options)), progress=progress or progress_for_stderr()
    )


def _paths_as_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with paths as text and tuples as lists, as a YAML file would give them."""

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Mapping):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    return {name: plain(value) for name, value in options.items()}


def _run(command: str, options: dict[str, Any], progress: Progress | None) -> Result:
    """Without `output_dir` the run folder is runs/<command>-<hash of the options>: the same call finds its run again.

    `data` may be the records themselves instead of a path: dictionaries with a file's columns, or PromptGroups.
    Raises what the command would: errors of `assent.errors`.
    """
    step = STEPS[command]
    data = options.pop("data", None)
    given = _paths_as_text(options)
    keywords: dict[str, Any] = {}
    if data is not None and not isinstance(data, Sequence):
        given["data"] = os.fspath(data)
    elif isinstance(data, str):
        given["data"] = data
    elif data is not None:
        groups: Sequence[PromptGroup] = groups_of_rows(data) if data and isinstance(data[0], Mapping) else data
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
