"""`eval`: opens the policies that the options name, one at a time, and writes the table of their evaluation."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from assent.commands.opening import Prompts, open_prompts, open_reader
from assent.commands.policies import Cast, Judging, cast_of, judging_of, ledger_of, policies_of
from assent.config.evaluation import EvalConfig
from assent.config.options import PromptOptions
from assent.data.loading import Dataset
from assent.data.named import load_named
from assent.engine.runtime import Runtime
from assent.errors import ConfigError, DataError
from assent.evaluation.generators import writer_lines
from assent.evaluation.lines import table_lines
from assent.evaluation.lm_eval_tasks import as_figures, ask, check_tasks, task_lines, tasks_hash
from assent.evaluation.pairs import Pairs, judge_reward, pairs_of, slices_of
from assent.evaluation.policies import EvaluationPlan, Judges, evaluate_policies
from assent.evaluation.reward_model import quality_lines
from assent.evaluation.table import PolicyTable
from assent.models.folders import check_revision, content_hash
from assent.models.loading import check_context, load_config
from assent.rewards.base import Reward
from assent.rewards.endpoint import endpoints_of
from assent.rewards.loading import check_reward, is_function, load_reward, reward_hash, shown_by
from assent.rollouts.kept import KeptDraws
from assent.runs.files import to_json, write_json
from assent.runs.folder import KEPT, RunFolder
from assent.runs.kept import Kept
from assent.runs.progress import Progress, Silent
from assent.stages.selecting import Select
from assent.stages.stage_data import Part, read_stage_data

JUDGEMENTS, DRAWN = KEPT


def evaluate(config: EvalConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `lines` of the table. With `output_dir` also `evaluation` and `table`, the paths of evaluation.json and
    table.txt; without it `figures`, the content of evaluation.json without the samples.

    Without policies, a reward model is measured on comparisons: see `judge_reward_model`.
    Raises RunFolderError if the folder holds something else, or an evaluation of other options or other content.
    """
    progress = progress or Silent()
    if not config.policies:
        return judge_reward_model(config, progress=progress)
    data = load_named(config)
    cast = cast_of(config, list(data)[: config.num_prompts or None])
    judging = judging_of(config, cast)
    _check_quality(config)
    _check_tasks(config, cast)
    for line in (*(f"{data.path}: {note}" for note in data.lines()), *cast.lines, *judging.lines):
        progress.line(line)
    prompts = _prompts(config, cast, progress)
    if config.output_dir is None:
        table, extra = _evaluate(config, cast, judging, prompts, progress)
        figures = {name: value for name, value in table.as_dict().items() if name != "samples"}
        return {
            "evaluation": None,
            "table": None,
            "lines": table_lines(table, _further_lines(extra, table.baseline)),
            "figures": {**figures, **extra},
        }
    hashes = _hashes(config, data, cast, judging)
    with RunFolder.open(config.output_dir, config.model_dump(), command="eval", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: this evaluation is finished; nothing to do")
            return folder.result
        table, extra = _evaluate(config, cast, judging, prompts, progress, folder=folder.path, hashes=hashes)
        result = _write(config.output_dir, table, extra)
        folder.finish(result)
        shutil.rmtree(folder.path / DRAWN, ignore_errors=True)  # a finished evaluation does not need them
        return result


def _hashes(config: EvalConfig, data: Dataset, cast: Cast, judging: Judging) -> dict[str, str]:
    """SHA-256 of everything that is read: with other content under the same names it is another evaluation."""
    hashes = {"data": data.sha256, **judging.hashes}
    hashes |= {f"policy {name}": content_hash(path, revision=config.revision) for name, path in cast.models.items()}
    hashes |= {f"policy {name}": file.sha256 for name, file in cast.files.items()}
    hashes |= {f"ledger {name}": _digest(to_json(ledger_of(folder))) for name, folder in config.ledgers.items()}
    if config.reward_model is not None:
        hashes["reward_model"] = reward_hash(config.reward_model)
    if config.reward_pairs is not None:
        hashes["reward_pairs"] = load_named(config, "reward_pairs").sha256
    if config.lm_eval:
        hashes["lm_eval"] = tasks_hash(config.lm_eval, config.lm_eval_limit)
    if config.labels is not None:
        hashes["labels"] = _digest(Path(config.labels).read_text(encoding="utf-8"))
    return hashes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _evaluate(
    config: EvalConfig,
    cast: Cast,
    judging: Judging,
    prompts: Prompts,
    progress: Progress,
    *,
    folder: Path | None = None,
    hashes: Mapping[str, str] | None = None,
) -> tuple[PolicyTable, dict[str, Any]]:
    """The table, and what evaluation.json holds beside it.

    folder   keeps the servers' answers and the models' samples, for a run that is interrupted and repeated
    hashes   of the policies' content, among others; needed with `folder`
    """
    assert config.baseline is not None
    runtime = Runtime.of(config)
    runtime.progress = progress
    options = {"device": runtime.device, "dtype": config.dtype, "policy_tokenizer": cast.tokenizer}
    reward = None
    if config.reward_model is not None:
        reward = load_reward(config.reward_model, ensemble=config.reward_ensemble, **options)
    scorer = None if judging.scorer is None else load_reward(judging.scorer, **options)
    for one in (reward, scorer):
        shown_by(one, progress)
    kept = {}
    if folder is not None and hashes is not None:
        answered = Kept(folder / JUDGEMENTS)
        for line in answered.said:
            progress.line(f"{line}; these servers are asked again")
        if len(answered):
            progress.line(f"{len(answered):,} answers of servers are kept from before and are not requested again")
        servers: list[Any] = [*judging.chats, *endpoints_of(reward), *endpoints_of(scorer)]
        for asked in servers:
            asked.kept = answered
        same: list[Any] = [config.dtype, config.sampler, config.max_length, str(runtime.device)]
        same += [] if cast.template is None else [sorted(cast.template.eos_ids)]
        kept = {name: KeptDraws(folder / DRAWN, [hashes[f"policy {name}"], *same]) for name in cast.models}
    policies = policies_of(config, cast, runtime, reward, kept=kept)
    reference = None
    if cast.reference is not None:
        reference = open_reader(config, cast.models[cast.reference], runtime.device)
    plan = EvaluationPlan(
        groups=prompts.groups,
        prompt_ids=prompts.ids,
        judges=Judges(scorer=scorer, comparer=judging.comparer, safety=judging.safety),
        reference=reference,
        reference_name=cast.reference,
        baseline=config.baseline,
        max_new_tokens=config.max_new_tokens,
        samples_per_prompt=config.samples_per_prompt,
        seed=config.seed,
        slices=slices_of(prompts.groups, config.slices),
        precision=config.precision,
    )
    comparisons = progress.task("comparisons", total=None) if judging.comparer is not None else nullcontext()
    with progress.task("evaluation", total=len(policies)) as task, comparisons as compared:
        table = evaluate_policies(
            policies,
            plan,
            on_policy=lambda name: task.advance(1, policy=name),
            on_comparisons=None if compared is None else compared.advance,
        )
    extra = {} if reward is None or config.reward_pairs is None else {"reward_model": _quality(config, reward)}
    if config.lm_eval:
        extra["lm_eval"] = _asked(config, cast, runtime, progress)
    return table, extra


def _check_tasks(config: EvalConfig, cast: Cast) -> None:
    if config.lm_eval:
        if config.baseline not in cast.models:
            raise ConfigError("lm_eval asks models, but the baseline is a file of completions", got=config.baseline)
        check_tasks(config.lm_eval)


def _asked(config: EvalConfig, cast: Cast, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """The models' figures on the tasks of lm-evaluation-harness. One model is in memory at a time."""
    assert config.baseline is not None
    if idle := sorted(set(cast.files)):
        progress.line(f"lm-eval: files of completions are not asked: {', '.join(idle)}")
    asked = {}
    options: dict[str, Any] = {"device": runtime.device, "dtype": config.dtype, "revision": config.revision}
    with progress.task("lm-eval", total=len(cast.models)) as task:
        for name, path in cast.models.items():
            asked[name] = ask(path, config.lm_eval, limit=config.lm_eval_limit, seed=config.seed, **options)
            task.advance(1, policy=name)
    return as_figures(asked, config.baseline)


def _prompts(config: EvalConfig, cast: Cast, progress: Progress) -> Prompts:
    """The prompts to answer, with their ids if models answer. Raises ConfigError if they do not fit a model's context
    or if a row lacks a column of `slices`. No weights are loaded."""
    slices_of(cast.groups, config.slices)
    if cast.template is None:
        return Prompts(cast.groups, [], [])
    prompts = open_prompts(
        cast.groups,
        cast.template,
        source=config.data,
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
        models={f"policy {name}": path for name, path in cast.models.items()},
        revision=config.revision,
    )
    for line in prompts.lines:
        progress.line(f"prompts: {line}")
    return prompts


def _quality(config: EvalConfig, reward: Reward) -> dict[str, Any]:
    """Accuracy and calibration of the reward model on held-out comparisons, with the noise ceiling of the labels."""
    assert config.reward_pairs is not None
    groups = load_named(config, "reward_pairs")
    quality = judge_reward(reward, groups, pairs_of(groups, slices=config.slices), seed=config.seed)
    if config.labels is not None:
        quality["noise_ceiling"] = _noise_ceiling(config.labels)
    return quality


def _check_quality(config: EvalConfig) -> None:
    """Raises before any policy answers what `_quality` would raise after."""
    if config.reward_pairs is not None:
        pairs_of(load_named(config, "reward_pairs"), slices=config.slices)
    if config.labels is not None:
        _noise_ceiling(config.labels)


def _noise_ceiling(path: str) -> float:
    """Raises DataError for a file that is not a labels.json."""
    try:
        return float(json.loads(Path(path).read_text(encoding="utf-8"))["noise_ceiling"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"labels: the noise ceiling cannot be read: {type(error).__name__}: {error}",
            got=path,
            expected="the labels.json that the sandbox's labelling step writes",
        ) from error


def _write(output_dir: str, table: PolicyTable, extra: dict[str, Any]) -> dict[str, Any]:
    table = replace(table, extra={**table.extra, **extra})
    path = table.write(output_dir)
    lines: Sequence[str] = table_lines(table, _further_lines(extra, table.baseline))
    text = Path(output_dir) / "table.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"evaluation": str(path), "table": str(text), "lines": list(lines)}


def _further_lines(extra: dict[str, Any], baseline: str) -> list[str]:
    lines = []
    if "reward_model" in extra:
        lines += ["", "reward model on held-out comparisons", *quality_lines(extra["reward_model"])]
    if "lm_eval" in extra:
        lines += task_lines(extra["lm_eval"], baseline)
    return lines


def judge_reward_model(config: EvalConfig, *, progress: Progress) -> dict[str, Any]:
    """Outputs: `reward_model`, the figures of `config.reward_model` on `config.data`, and `lines`, the same as text.
    With `output_dir` it writes reward_model.json and table.txt.

    Raises RunFolderError if the folder holds something else, or an evaluation of other options or other content.
    """
    assert config.reward_model is not None
    check_reward(config.reward_model, ensemble=config.reward_ensemble, revision=config.revision)
    reading = sorted(config.model_fields_set & {*PromptOptions.model_fields, "dtype"})
    if not is_function(config.reward_model):
        check_revision(config.revision, config.reward_model)
        check_context(load_config(config.reward_model, revision=config.revision), config.max_length)
        data = _comparisons(config, config.reward_model)
    elif reading:
        raise ConfigError(f"{', '.join(reading)} has no effect on a function", got=config.reward_model)
    else:
        dataset = load_named(config)
        lines = [f"{dataset.path}: {note}" for note in dataset.lines()]
        data = Part("comparisons", list(dataset), [], dataset.sha256, labelled=True, lines=lines)
    pairs = pairs_of(data.groups, slices=config.slices)
    for line in data.lines:
        progress.line(line)
    if config.output_dir is None:
        return _judged(config, data, pairs, progress)
    hashes = {"data": data.sha256, "reward_model": reward_hash(config.reward_model)}
    with RunFolder.open(config.output_dir, config.model_dump(), command="eval", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: this evaluation is finished; nothing to do")
            return folder.result
        result = _judged(config, data, pairs, progress)
        paths = {"evaluation": folder.path / "reward_model.json", "table": folder.path / "table.txt"}
        write_json(paths["evaluation"], {"schema": 1, "data": config.data, "reward_model": result["reward_model"]})
        paths["table"].write_text("\n".join(result["lines"]) + "\n", encoding="utf-8")
        result |= {name: str(path) for name, path in paths.items()}
        folder.finish(result)
        return result


def _comparisons(config: EvalConfig, model: str) -> Part:
    """The rows that training would use: read, cut and refused by the same functions."""
    keep_all: Select = lambda groups: (list(groups), {})
    found = read_stage_data(config, model=model, sources={"comparisons": config.data}, select=keep_all)
    return found.parts["comparisons"]


def _judged(config: EvalConfig, data: Part, pairs: Pairs, progress: Progress) -> dict[str, Any]:
    assert config.reward_model is not None
    progress.line(f"{config.data}: {pairs.describe()}")
    options: dict[str, Any] = {}
    if not is_function(config.reward_model):
        device = Runtime.of(config).device
        options = {"device": device, "dtype": config.dtype, "revision": config.revision}
        names = ("chat_template", "system", "chat_template_kwargs")
        options |= {
            "max_length": config.max_length,
            "template_options": {name: getattr(config, name) for name in names},
        }
    reward = load_reward(config.reward_model, ensemble=config.reward_ensemble, **options)
    quality = judge_reward(reward, data.groups, pairs, seed=config.seed, rank_by=config.rank_by)
    limit = None if is_function(config.reward_model) else config.max_length
    head = f"{config.reward_model} on {pairs.describe()}; 95% intervals over prompts"
    lines = [head, "", *quality_lines(quality, max_length=limit)]
    if "ranking" in quality:
        lines += writer_lines(quality["ranking"])
    return {"reward_model": quality, "lines": lines, "evaluation": None, "table": None}
