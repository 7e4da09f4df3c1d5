"""The public functions: each takes the options of its command as keyword arguments and does what the command does.

The functions that train (`sft`, `reward`, `dpo`, `kto`, `online_dpo`, `ppo`, `a2c`, `grpo`, `rloo`) return a `Result`.
`new_model`, `merge`, `sample`, `score`, `best_of_n`, `evaluate`, `judge`, `compare`, `frontier`, `serve_check`,
`doctor`, `monitor`, `explain`, `label`, `plan`, `iterate`, `update` and `rollback` return what their command prints
with --json. `run` returns a `PipelineResult`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.commands.explain import explain as run_explain
from assent.commands.iterate import iterate as run_loop
from assent.commands.signatures import signed
from assent.commands.tools import report_on, run_file, write_report
from assent.commands.update import rollback as run_rollback
from assent.commands.update import update as run_update
from assent.config.commands import ConvertConfig, ReportConfig
from assent.config.doctor import DoctorConfig
from assent.config.explain import ExplainConfig
from assent.config.functions import name_of
from assent.config.iterate import IterateConfig
from assent.config.label import LabelConfig
from assent.config.loading import parse_options
from assent.config.monitor import MonitorConfig
from assent.config.plan import PlanConfig
from assent.config.serving import ServeCheckConfig
from assent.config.update import RollbackConfig, UpdateConfig
from assent.data.given import holding, is_data
from assent.pipelines.runner import PipelineResult
from assent.pipelines.shares import Jobs
from assent.pipelines.steps import STEPS
from assent.runs.files import to_json
from assent.runs.progress import Progress, progress_for_stderr


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its folder, the model's folder, the number of updates, and the last value of every metric."""

    output_dir: Path
    model_path: Path
    steps: int
    metrics: Mapping[str, float]

    def report(self) -> Path:
        """Writes report.html into the run folder and returns its path."""
        return report_on(self.output_dir)


@signed
def sft(*, progress: Progress | None = None, **options: Any) -> Result:
    """Fine-tunes on demonstrations. Options: those of `assent sft` (`model`, `data`, `learning_rate` …)."""
    return _run("sft", options, progress)


@signed
def reward(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains a reward model. Options: those of `assent reward` (`model`, `data`, `learning_rate` …)."""
    return _run("reward", options, progress)


@signed
def dpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with DPO or a related loss. Options: those of `assent dpo` (`model`, `data`, `beta` …)."""
    return _run("dpo", options, progress)


@signed
def kto(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with KTO on thumbs up and down. Options: those of `assent kto` (`model`, `data`, `beta` …)."""
    return _run("kto", options, progress)


@signed
def online_dpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with DPO on its own samples. Options: those of `assent online-dpo` (`model`, `data`, `reward` …)."""
    return _run("online-dpo", options, progress)


@signed
def ppo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with PPO. Options: those of `assent ppo` (`model`, `data`, `reward`, `kl_coef` …)."""
    return _run("ppo", options, progress)


@signed
def a2c(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with advantage actor-critic. Options: those of `assent a2c` (`model`, `data`, `reward`, `kl_coef` …)."""
    return _run("a2c", options, progress)


@signed
def grpo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with GRPO. Options: those of `assent grpo` (`model`, `data`, `reward`, `scale_rewards` …)."""
    return _run("grpo", options, progress)


@signed
def rloo(*, progress: Progress | None = None, **options: Any) -> Result:
    """Trains with REINFORCE leave-one-out. Options: those of `assent rloo` (`model`, `data`, `reward` …)."""
    return _run("rloo", options, progress)


@signed
def new_model(**options: Any) -> dict[str, Any]:
    """Makes a small model and its tokenizer from text files. Options: those of `assent new-model`."""
    return _outputs("new-model", options, None)


@signed
def merge(**options: Any) -> dict[str, Any]:
    """Merges an adapter into its base model. Options: those of `assent merge` (`adapter`, `output_dir`)."""
    return _outputs("merge", options, None)


@signed
def sample(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Samples completions from a policy: `completions` (path), `metrics`. Options: those of `assent sample`."""
    return _outputs("sample", options, progress)


@signed
def best_of_n(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Keeps the best of N completions: `completions` (path), `n`, `curve`. Options: those of `assent best-of-n`."""
    return _outputs("best-of-n", options, progress)


@signed
def score(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Scores given completions: `scored` (path), `metrics`. Options: those of `assent score`."""
    return _outputs("score", options, progress)


@signed
def evaluate(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Compares policies on the same prompts: `evaluation`, `table` (paths). Options: those of `assent eval`."""
    return _outputs("eval", options, progress)


@signed
def judge(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Has a judge compare completions: `judged`, `report` (paths). Options: those of `assent judge`."""
    return _outputs("judge", options, progress)


@signed
def frontier(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Measures reward against √KL: `frontier`, `picture`, `table` (paths). Options: those of `assent frontier`."""
    return _outputs("frontier", options, progress)


@signed
def serve_check(**options: Any) -> dict[str, Any]:
    """Checks what engines compute with a model: `checks`, `differs`. Options: those of `assent serve-check`."""
    from assent.commands.serve_check import serve_check as check

    with _as_written(options) as given:
        return check(parse_options(ServeCheckConfig, given))[0]


def convert_config(file: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Another trainer's configuration in our names: `for` (command), `options`, `changed`, `left`, `to_do`.

    Options: those of `assent convert-config` (`output`, `command`, `num_devices`).
    """
    from assent.commands.convert_config import convert_config as convert

    document, _ = convert(parse_options(ConvertConfig, {"file": os.fspath(file), **_paths_as_text(options)}))
    return document


@signed
def compare(*, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Compares methods at equal cost: `rows`, `comparison` (path). Options: those of `assent compare`."""
    return _outputs("compare", options, progress)


def doctor(*targets: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Says what is wrong with runs, and what to change: `reports`, each with `verdict`, `findings`, `not_checked`.

    Options: those of `assent doctor`. Torch is not imported.
    """
    from assent.commands.doctor import doctor as examined

    given = {"targets": tuple(os.fspath(target) for target in targets)} if targets else {}
    document, _, status = examined(parse_options(DoctorConfig, {**given, **_paths_as_text(options)}))
    return {**document, "exit_status": status}


@signed
def monitor(**options: Any) -> dict[str, Any]:
    """Says what moved in a deployed model's logs: `moved`, `causes`, `new`, `findings`. Options: `assent monitor`'s."""
    from assent.commands.monitor import monitor as look

    with _as_written(options) as given:
        document, _, status = look(parse_options(MonitorConfig, given))
    return {**document, "exit_status": status}


@signed
def explain(**options: Any) -> dict[str, Any]:
    """Explains a preference probability: `reward_chosen`, `margin`, `preference_probability`, `loss`, `betas` …

    Options: those of `assent explain`: `logps`; `ratios` and `unit`; `scores`; or `model`, `reference` and a text.
    Torch is imported only if a model is named.
    """
    with _as_written(options) as given:
        return run_explain(parse_options(ExplainConfig, given))[0]


@signed
def plan(**options: Any) -> dict[str, Any]:
    """Says which method the data supports, and why: `facts`, `choice`, `risks`, `evaluation`, `stages`, `pipeline`.

    Options: those of `assent plan` (`model`, `data`, `constraint` …). Torch is not imported.
    """
    from assent.commands.plan import plan as planned

    return planned(parse_options(PlanConfig, _paths_as_text(options)))[0]


@signed
def label(**options: Any) -> dict[str, Any]:
    """Collects, exports or imports people's preferences. Options: those of `assent label` (`store`, `export` …).

    Without `serve=False` or an action such as `export` it serves the app until it is interrupted.
    """
    from assent.commands.label import label as run_label

    with _as_written(options) as given:
        return run_label(parse_options(LabelConfig, given))[0]


def run(
    path: str | os.PathLike[str],
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    fast: bool = False,
    overrides: Sequence[str] = (),
    jobs: Jobs = 1,
    progress: Progress | None = None,
) -> PipelineResult:
    """Runs a pipeline file, as `assent run` does. `overrides`: `stage.option=value`. `jobs`: a number, or "auto"."""
    options = {"output_dir": output_dir, "seed": seed, "fast": fast, "overrides": overrides}
    return run_file(os.fspath(path), progress=progress, jobs=jobs, **options)


def iterate(
    path: str | os.PathLike[str],
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs a loop file, as `assent iterate` does: `model_path`, `rounds`, `status`, `reason`, `report`.

    `overrides`: `stage.option=value`.
    """
    options = {"output_dir": output_dir, "seed": seed, "rounds": rounds, "set": list(overrides)}
    return run_loop(parse_options(IterateConfig, {"file": os.fspath(path), **options}), progress=progress)


def update(
    path: str | os.PathLike[str],
    *,
    releases: str = "releases",
    output_dir: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    jobs: Jobs = 1,
    again: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a successor of the released model, and marks it if all gates pass: `model`, `release`, `gates`, `mark`.

    Options: those of `assent update`; `overrides`: `stage.option=value`. Raises FaultError if a gate stops it.
    """
    options = {"releases": releases, "output_dir": output_dir, "seed": seed, "jobs": jobs, "again": again}
    given = {"file": os.fspath(path), **options, "set": list(overrides)}
    return run_update(parse_options(UpdateConfig, given), progress=progress)


def rollback(folder: str | os.PathLike[str] = "releases") -> dict[str, Any]:
    """Marks the model that was released before, as `assent rollback` does: `model`, `release`, `from`, `mark`."""
    return run_rollback(parse_options(RollbackConfig, {"folder": os.fspath(folder)}))


def report(*runs: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Writes the page about one run or pipeline, or about several: `report`, `model_cards` (paths).

    Options: those of `assent report` (`output`, `live` …).
    """
    given = {"runs": [os.fspath(run) for run in runs], **_paths_as_text(options)}
    return write_report(parse_options(ReportConfig, given))


def _outputs(command: str, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    step = STEPS[command]
    with _as_written(options) as given:
        return step.run(parse_options(step.config_class(), given), progress=progress or progress_for_stderr())


DATA = frozenset(
    {
        *("data", "eval_data", "normalize_data", "test_data", "demonstrations", "prompts", "reward_pairs", "samples"),
        *("completions", "import_labels"),
    }
)
"""Options that name data, and take data in memory too."""


@contextmanager
def _as_written(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options as a YAML file would give them. Data in memory has a name for as long as the block runs."""
    with holding() as hold:
        named = {name: hold(value) if name in DATA and is_data(value) else value for name, value in options.items()}
        yield _paths_as_text(named)


FUNCTIONS = frozenset(
    {
        "reward",
        "judge",
        "pair_judge",
        "function",
        "safety",
        "gold",
        "proxies",
        "algorithm",
        "loss_type",
        "losses",
        "report_to",
    }
)
"""Options that name Python functions or classes, and take the functions themselves too."""


def _paths_as_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with paths and functions as text and tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Mapping):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    def lent(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: lent(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [lent(part) for part in value]
        return name_of(value) if callable(value) else value

    return {name: plain(lent(value) if name in FUNCTIONS else value) for name, value in options.items()}


def _run(command: str, options: Mapping[str, Any], progress: Progress | None) -> Result:
    """Without `output_dir` the run folder is runs/<command>-<hash of the options>, so the same call finds its run.

    Raises the errors of `assent.errors` that the command would raise.
    """
    step = STEPS[command]
    with _as_written(options) as given:
        if "output_dir" not in given:
            digest = hashlib.sha256(to_json(dict(sorted(given.items()))).encode()).hexdigest()[:8]
            given["output_dir"] = str(Path("runs") / f"{command}-{digest}")
        outputs = step.run(parse_options(step.config_class(), given), progress=progress or progress_for_stderr())
    return Result(
        output_dir=Path(outputs["output_dir"]),
        model_path=Path(outputs["model_path"]),
        steps=outputs["steps"],
        metrics=outputs["metrics"],
    )
