"""`frontier`: measures proxy and gold reward of policies, opened one at a time, against their KL to a reference.

frontier.json   all figures (reporting/SCHEMA.md)      frontier.svg   the plot      table.txt   the table
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assent.commands.opening import Prompts, open_prompts, open_reader, template_of
from assent.commands.tools import run_shipped
from assent.config.frontier import FrontierConfig
from assent.data.named import load_named
from assent.engine.runtime import Runtime
from assent.engine.weights import load_weights
from assent.errors import ConfigError, ModelError
from assent.evaluation.answers import key
from assent.evaluation.frontier import (
    CurveData,
    Measured,
    Proxy,
    analyse,
    best_of_n_curve,
    compare_at_equal_kl,
    measure,
    sizes_up_to,
)
from assent.models.folders import check_revision, content_hash
from assent.models.loading import load_policy, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.templates import Template
from assent.reporting.frontier import frontier_lines, frontier_picture
from assent.rewards.loading import check_reward, is_function, load_reward, reward_hash, shown_by
from assent.rewards.reward_model import same_ids
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import from_json, to_json, write_json
from assent.runs.folder import RunFolder
from assent.runs.manifest import step_of
from assent.runs.progress import Progress, Silent
from assent.runs.reading import RunView, read_run
from assent.statistics.intervals import cluster_codes
from assent.types import PromptGroup

CHUNK_PROMPTS = 16
"""Prompts in one call of the sampler. What is sampled does not depend on it."""


@dataclass(frozen=True, slots=True)
class _Point:
    """One policy of a curve: a model's folder, and a checkpoint's weights if it is not the run's result."""

    label: dict[str, Any]
    model: str
    weights: Path | None


@dataclass(frozen=True, slots=True)
class _CurvePlan:
    name: str
    points: list[_Point]
    runs: list[RunView]

    @property
    def method(self) -> str:
        """The command of its runs; `policies` if commands differ or the folders are not runs."""
        commands = {run.command for run in self.runs}
        return commands.pop() if len(commands) == 1 else "policies"


def frontier(config: FrontierConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `frontier`, `picture`, `table` (files), `output_dir`, `lines`; on the sandbox also `report`.

    Raises RunFolderError if the folder holds something else, or a frontier of other options or other content.
    Raises ConfigError, ModelError and DataError, before anything is sampled, for folders that cannot be measured.
    """
    progress = progress or Silent()
    if config.sandbox:
        return _on_the_sandbox(config, progress)
    assert config.reference is not None
    assert config.gold is not None
    plans = [_plan(name, folders) for name, folders in config.curves.items()]
    models = [config.reference, *dict.fromkeys(point.model for plan in plans for point in plan.points)]
    check_revision(config.revision, *models)
    for spec in (config.gold, *config.proxies.values()):
        check_reward(spec, revision=config.revision)
    tokenizer = load_tokenizer(config.reference, revision=config.revision)
    for model in models[1:]:
        if not same_ids(load_tokenizer(model, revision=config.revision), tokenizer):
            raise ModelError(
                f"{model} has another tokenizer than the reference", expected="models that share a tokenizer"
            )
    template = template_of(config, tokenizer)
    assert config.data is not None
    dataset = load_named(config)
    prompts = open_prompts(
        dataset[: config.num_prompts or None],
        template,
        source=config.data,
        notes=dataset.lines(),
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
        models={model: model for model in models},
        revision=config.revision,
    )
    hashes = {"data": dataset.sha256, "gold": reward_hash(config.gold)}
    hashes |= {f"model {model}": content_hash(model, revision=config.revision) for model in models}
    hashes |= {f"proxy {name}": reward_hash(spec) for name, spec in config.proxies.items()}
    with RunFolder.open(
        config.output_dir, config.model_dump(), command="frontier", resume=True, hashes=hashes
    ) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: this frontier is finished; nothing to do")
            return folder.result
        document = from_json(to_json(_document(config, plans, prompts, tokenizer, template, progress)))
        result = _write(folder.path, document)
        folder.finish(result)
        return result


def _on_the_sandbox(config: FrontierConfig, progress: Progress) -> dict[str, Any]:
    """Runs the shipped pipeline, which trains the policies that its last stage measures. `report` shows all stages."""
    options = config.model_dump(include={"output_dir", "seed", "fast"})
    done = run_shipped("over_optimisation.yaml", progress=progress, **options)
    return {**done.outputs["frontier"], "output_dir": config.output_dir, "report": str(done.report)}


def _plan(name: str, folders: Sequence[str]) -> _CurvePlan:
    """Every policy of a curve; a run's checkpoints come before its result. Nothing is loaded."""
    points: list[_Point] = []
    runs: list[RunView] = []
    for folder in folders:
        path = Path(folder)
        if not (path / "run.json").is_file():
            points.append(_Point({"label": _called(path), "model": folder}, folder, None))
            continue
        run = read_run(path)
        if not run.is_finished or not (path / "model").is_dir():
            raise ConfigError(f"curve {name}: {folder} is not a finished training run", got=run.manifest["status"])
        checkpoints = _checkpoints(path)
        last = run.manifest["facts"].get("best", run.result or {}).get("step", (run.result or {}).get("steps"))
        of = f"{path.name} " if len(folders) > 1 else ""
        reached: list[tuple[Any, Path | None]] = [*(one for one in checkpoints if one[0] != last), (last, None)]
        points += [
            _Point({"label": f"{of}step {step}", "run": folder, "step": step}, str(path / "model"), weights)
            for step, weights in reached
        ]
        runs.append(run)
    return _CurvePlan(name, points, runs)


def _called(path: Path) -> str:
    """The name of a model's folder; if that is `model`, the name of its run's folder."""
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Step and weights of each checkpoint, oldest first."""
    found = ((step_of(path.name), path / "model") for path in (run / "checkpoints").glob("step-*"))
    return sorted((step, path) for step, path in found if step is not None)


def _document(
    config: FrontierConfig,
    plans: Sequence[_CurvePlan],
    prompts: Prompts,
    tokenizer: Any,
    template: Template,
    progress: Progress,
) -> dict[str, Any]:
    """The content of frontier.json."""
    assert config.reference is not None
    assert config.gold is not None
    runtime = Runtime.of(config)
    options = {"device": runtime.device, "dtype": config.dtype, "policy_tokenizer": tokenizer}
    gold = load_reward(config.gold, **options)
    proxies = [
        Proxy(name=name, reward=load_reward(spec, **options), pairs=_pairs_of(spec))
        for name, spec in config.proxies.items()
    ]
    for reward in (gold, *(proxy.reward for proxy in proxies)):
        shown_by(reward, progress)
    clusters = cluster_codes([key(group.prompt) for group in prompts.groups])
    total = 1 + sum(len(plan.points) for plan in plans)
    with progress.task("frontier", total=total) as task:
        start = open_reader(config, config.reference, runtime.device)

        def measured(module: AlignmentModel, count: int, *, is_reference: bool, purpose: str) -> Measured:
            sampler = TorchSampler(module.base, tokenizer, eos_ids=template.eos_ids)
            sampler.progress = progress
            reference = None if is_reference else start
            parts = [
                measure(rollouts, groups, gold=gold, proxies=proxies, reference=reference)
                for rollouts, groups in _samples(sampler, prompts, config, count=count, purpose=purpose)
            ]
            task.advance(1, policy=purpose)
            return _joined(parts)

        count = config.best_of_n if proxies else config.samples_per_prompt
        base = measured(start, count, is_reference=True, purpose="reference")
        curves = [best_of_n_curve(proxy, base, sizes=sizes_up_to(config.best_of_n)) for proxy in proxies]
        for plan in plans:
            found = []
            for number, point in enumerate(plan.points):
                module = _opened(config, point, runtime.device)
                purpose = f"{plan.name} {number}"
                found.append(measured(module, config.samples_per_prompt, is_reference=False, purpose=purpose))
            curves.append(_trained_curve(config, plan, found, proxies))
    return {
        "schema": 1,
        "reference": config.reference,
        "gold": config.gold,
        "proxy": next(iter(config.proxies)) if len(config.proxies) == 1 else None,
        "num_prompts": int(clusters.max()) + 1,
        "confidence": 0.95,
        "decoding": {
            "max_new_tokens": config.max_new_tokens,
            "temperature": 1.0,
            "samples_per_prompt": config.samples_per_prompt,
            "best_of_n": config.best_of_n if proxies else None,
            "seed": config.seed,
        },
        "gold_at_reference": float(base.gold.mean()),
        "proxies": [
            {
                "name": proxy.name,
                "path": config.proxies[proxy.name],
                "pairs": proxy.pairs,
                "at_reference": float(base.proxies[proxy.name].mean()),
            }
            for proxy in proxies
        ],
        "methods": [analyse(curve, base, seed=config.seed, clusters=clusters) for curve in curves],
        "at_equal_kl": compare_at_equal_kl(curves, seed=config.seed, clusters=clusters),
    }


def _opened(config: FrontierConfig, point: _Point, device: torch.device) -> AlignmentModel:
    """The policy of a point. A checkpoint of a run with an adapter holds the adapter's weights alone."""
    if point.weights is None:
        return open_reader(config, point.model, device)
    model: Any = load_policy(point.model, dtype=config.dtype, revision=config.revision, merged=False)
    module = AlignmentModel(model.to(device), kind="policy").eval()
    load_weights(point.weights, module)
    return module


def _samples(
    sampler: TorchSampler, prompts: Prompts, config: FrontierConfig, *, count: int, purpose: str
) -> Iterator[tuple[list[Any], list[PromptGroup]]]:
    """Rollouts of a few prompts at a time, with the prompts' groups; `prompt_index` counts within these."""
    for first in range(0, len(prompts.ids), CHUNK_PROMPTS):
        numbers = range(first, min(first + CHUNK_PROMPTS, len(prompts.ids)))
        rollouts = sampler.sample(
            [prompts.ids[i] for i in numbers],
            num_completions=count,
            params=SamplingParams(max_new_tokens=config.max_new_tokens),
            seed=SeedKey(config.seed, f"frontier {purpose}", 0),
            prompt_numbers=numbers,
        )
        yield rollouts, [prompts.groups[i] for i in numbers]


def _joined(parts: Sequence[Measured]) -> Measured:
    first = parts[0]
    return replace(
        first,
        gold=np.concatenate([part.gold for part in parts]),
        proxies={name: np.concatenate([part.proxies[name] for part in parts]) for name in first.proxies},
        drawn=[row for part in parts for row in part.drawn],
        kl=None if first.kl is None else np.concatenate([part.kl for part in parts if part.kl is not None]),
    )


def _trained_curve(
    config: FrontierConfig, plan: _CurvePlan, found: Sequence[Measured], proxies: Sequence[Proxy]
) -> CurveData:
    """The means of each prompt's completions. The curve's proxy is the reward that its runs were trained against."""
    hashes = {reward_hash(config.proxies[proxy.name]): proxy for proxy in proxies}
    rewards = {run.manifest["hashes"].get("reward") for run in plan.runs}
    own = hashes.get(rewards.pop() or "") if len(rewards) == 1 else None
    labels = {_pairs_in(run) for run in plan.runs}
    trained_on = labels.pop() if len(labels) == 1 else None
    return CurveData(
        name=plan.name,
        method=plan.method,
        proxy_name=None if own is None else own.name,
        pairs=trained_on if own is None else own.pairs,
        labels=[point.label for point in plan.points],
        kl=np.stack([one.kl.mean(1) for one in found if one.kl is not None], axis=1),
        gold=np.stack([one.gold.mean(1) for one in found], axis=1),
        proxy=None if own is None else np.stack([one.proxies[own.name].mean(1) for one in found], axis=1),
    )


def _pairs_of(spec: str) -> int | None:
    """Labels that a reward model was trained on; None for a function, or a folder that is not part of a run."""
    parent = Path(spec).parent
    if is_function(spec) or not (parent / "run.json").is_file():
        return None
    return _pairs_in(read_run(parent))


def _pairs_in(run: RunView) -> int | None:
    labels = ((run.result or {}).get("metrics") or {}).get("cost/labels")
    return int(labels) if labels else None


def _write(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    lines = frontier_lines(document)
    paths = {"frontier": folder / "frontier.json", "picture": folder / "frontier.svg", "table": folder / "table.txt"}
    write_json(paths["frontier"], document)
    paths["picture"].write_text(frontier_picture(document), encoding="utf-8")
    paths["table"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"output_dir": str(folder), **{name: str(path) for name, path in paths.items()}, "lines": lines}
