"""The sandbox's pipeline steps: its files and its labels. Training and evaluation are the ordinary commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assent.config.iterate import SandboxAnnotateConfig
from assent.config.sandbox import SandboxLabelsConfig, SandboxWorldConfig
from assent.data.loading import write_groups
from assent.data.named import load_named
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.judging.collecting import join_prompts
from assent.models.loading import load_policy, load_tokenizer
from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import write_json
from assent.runs.progress import Progress, Silent
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.labellers import Labelled, label, noise_ceiling, sample_and_label
from assent.sandbox.settings import RATERS, LabelSettings, Rater
from assent.sandbox.world import World
from assent.types import PromptGroup


def write_world(config: SandboxWorldConfig, *, progress: Progress | None = None) -> dict[str, str]:
    """Outputs: `model` (the base model), `demonstrations`, `prompts`, `test_prompts`."""
    world = World(config.world_seed)
    base = base_folder(config.world_seed)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, tuple[list[PromptGroup], str]] = {
        "demonstrations": (demonstrations(world, config.num_demonstrations, config.seed), "demonstrations"),
        "prompts": (world.prompts("rl", config.num_prompts, config.seed), "prompts"),
        "test_prompts": (world.prompts("test", config.num_test_prompts, config.seed), "prompts"),
    }
    outputs = {"model": str(base), "world_hash": world.hash}
    for name, (groups, layout) in parts.items():
        write_groups(folder / f"{name}.jsonl", groups, layout)
        outputs[name] = str(folder / f"{name}.jsonl")
        (progress or Silent()).line(f"{name}: {len(groups)} rows")
    return outputs


def write_labels(config: SandboxLabelsConfig, *, progress: Progress | None = None) -> dict[str, object]:
    """Outputs: `train`, `test` (files), `noise_ceiling` (best accuracy on the test labels), `cost/labels`, `price`."""
    world = World(config.world_seed)
    raters = tuple(_rater(rater, config) for rater in RATERS[config.raters])
    settings: dict[str, Any] = {
        "raters": raters,
        "coverage": config.coverage,
        "trap_correlation": config.trap_correlation,
    }
    sample = _text_sampler(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    outputs: dict[str, object] = {}
    price = 0.0
    for name, number, split in (
        ("train", config.num_pairs, "preference"),
        ("test", config.num_test_pairs, "validation"),
    ):
        labelled: Labelled = sample_and_label(
            world, LabelSettings(number=number, **settings), seed=config.seed, sampler=sample, split=split
        )
        write_groups(folder / f"{name}.jsonl", labelled.groups, "comparisons")
        outputs[name] = str(folder / f"{name}.jsonl")
        price += labelled.cost
        if name == "test":
            ceiling = noise_ceiling(labelled.groups, raters)
            outputs |= {"noise_ceiling": ceiling.best, "gold_agreement": ceiling.gold_agreement}
        skipped = "".join(f", {count} skipped: {reason}" for reason, count in labelled.skipped.items())
        (progress or Silent()).line(f"{name}: {len(labelled.groups)} comparisons{skipped}")
    outputs |= {"cost/labels": config.num_pairs + config.num_test_pairs, "price": price}
    outputs["labels"] = str(folder / "labels.json")
    write_json(folder / "labels.json", outputs)
    return outputs


def _rater(rater: Rater, config: SandboxLabelsConfig) -> Rater:
    given = {"temperature": config.temperature, "flip": config.flip}
    return rater.model_copy(update={name: value for name, value in given.items() if value is not None})


def _text_sampler(config: SandboxLabelsConfig) -> Callable[[Sequence[PromptGroup], int, int], list[list[str]]]:
    """(prompts, num_completions, seed) -> the model's completions of each prompt."""
    tokenizer = load_tokenizer(config.model)
    template = resolve_template(tokenizer)
    runtime = Runtime.of(config)
    model = load_policy(config.model, dtype=config.dtype, tokenizer=tokenizer).to(runtime.device)
    sampler = TorchSampler(model, tokenizer, eos_ids=template.eos_ids)
    context = model.config.max_position_embeddings

    def sample(prompts: Sequence[PromptGroup], num_completions: int, seed: int) -> list[list[str]]:
        tokenized = tokenize_groups(
            prompts, tokenizer=tokenizer, template=template, max_length=context, max_new_tokens=config.max_new_tokens
        )
        rollouts = sampler.sample(
            [group.prompt_ids for group in tokenized.groups],
            num_completions=num_completions,
            params=SamplingParams(max_new_tokens=config.max_new_tokens),
            seed=SeedKey(seed, "labels", 0),
        )
        texts: list[list[str]] = [[] for _ in prompts]
        for rollout in rollouts:
            texts[tokenized.kept[rollout.prompt_index]].append(rollout.text)
        return texts

    return sample


def annotate(config: SandboxAnnotateConfig, *, progress: Progress | None = None) -> dict[str, object]:
    """The raters compare the completions of a file. Outputs: `labels` (file), `output_dir`, `number`, `price`."""
    world = World(config.world_seed)
    groups = [group for group in join_prompts(load_named(config)) if len(group.completions) > 1]
    is_pairs = all(len(group.completions) == 2 for group in groups)
    settings = LabelSettings(
        labels="pairs" if is_pairs else "rankings", raters=RATERS[config.raters], votes=config.votes
    )
    labelled = label(groups, settings, world=world, seed=config.seed)
    if not labelled.groups:
        raise DataError(f"{config.data}: nothing can be labelled", got=dict(labelled.skipped))
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.jsonl"
    write_groups(path, labelled.groups, "comparisons" if is_pairs else "rankings")
    skipped = "".join(f", {count} skipped: {reason}" for reason, count in labelled.skipped.items())
    (progress or Silent()).line(f"labels: {len(labelled.groups)} rows{skipped}")
    return {"output_dir": str(folder), "labels": str(path), "number": len(labelled.groups), "price": labelled.cost}
