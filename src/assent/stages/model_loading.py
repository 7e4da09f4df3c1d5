"""Loads and saves the models of a run, with an adapter on top if only an adapter is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from assent.config.options import StageOptions
from assent.engine.random import derived_seed
from assent.engine.references import Reference
from assent.engine.runtime import Runtime
from assent.errors import ConfigError
from assent.models.adapters import (
    Base,
    add_adapter,
    base_weights,
    check_quantisation,
    describe,
    is_adapted,
    is_adapter,
    quantisation,
)
from assent.models.folders import members_of, resolve_folder
from assent.models.heads import is_classifier
from assent.models.loading import (
    DTYPES,
    draw_head,
    fresh_tokens,
    load_config,
    load_policy,
    load_scorer,
)
from assent.models.mapped import type_in_file
from assent.models.module import AlignmentModel
from assent.models.one_trunk import (
    check_stands_on_base,
    reward_adapter,
    save_value_head,
    sibling_scorer,
    siblings,
    value_head_of,
)
from assent.models.saving import save_members, save_model
from assent.models.tiers import Kind
from assent.models.weight_hashes import content_of
from assent.rewards.base import Reward
from assent.rewards.loading import Spec, load_reward, readers_of
from assent.rewards.reading import ModelReader
from assent.stages.placed_rewards import placed

START = "start"
"""Folder of a run's merged start, if the run continues from an adapter."""


def load_module(
    config: StageOptions,
    path: str,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    *,
    runtime: Runtime,
    trunk: AlignmentModel | None = None,
) -> AlignmentModel:
    """A policy or scorer with the weights of its folder. With `trunk`, a scorer is an adapter on the trunk's base."""
    if trunk is not None and kind == "scorer":
        scorer = load_beside(trunk, config, path, name="potential", trained=False)
        return _module(scorer, config, kind)
    return _module(_load(config, path, kind, tokenizer, runtime), config, kind)


def load_trained_modules(
    config: StageOptions,
    path: str,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    run: Path,
    *,
    name: str,
    runtime: Runtime,
    trunk: AlignmentModel | None = None,
) -> dict[str, tuple[AlignmentModel, list[str]]]:
    """Loads the modules of a learner, with an adapter if the configuration has one. Adds log lines on what is trained.

    With --num-adapters there are more modules: the ensemble's members `member-2` and so on. A critic's fresh head is
    zero, so the first round's advantages are the returns themselves. `run` is the run's folder.
    """
    if trunk is not None:
        scorer = load_beside(trunk, config, path, name=name, trained=True)
        return {name: (_module(scorer, config, kind), [f"{name}: adapter and head on the policy's base"])}
    names = [name, *(f"member-{number}" for number in range(2, config.num_adapters + 1))]
    quantised = _quantised(config, runtime, path)
    models = siblings(_load(config, path, kind, tokenizer, runtime, quantised=quantised), len(names))
    head_is_fresh = not is_classifier(load_config(path, revision=config.revision))
    found = {}
    for own, model in zip(names, models, strict=True):
        if head_is_fresh and name == "critic":
            model.score.weight.data.zero_()  # type: ignore[union-attr,operator]
        elif head_is_fresh and own != name:
            draw_head(model, seed=derived_seed(config.seed, f"head of {own}"))
        lines: list[str] = []
        if config.lora_r:
            model, lines = _with_adapter(model, config, name=own, path=path, tokenizer=tokenizer, run=run)
        head = None
        if kind == "policy" and config.trunk == "shared":
            head = value_head_of(path, model, revision=config.revision)
        found[own] = (_module(model, config, kind, value_head=head), lines)
    return found


def load_beside(
    policy: AlignmentModel, config: StageOptions, path: str, *, name: str, trained: bool
) -> PreTrainedModel:
    """A scorer on the base of an adapted policy (`--trunk one`).

    `path` is a reward model's adapter, or the policy's own start; in that case adapter and head are fresh. ConfigError
    if it is neither.
    """
    model: Any = policy.hf
    if path != config.model:
        check_stands_on_base(path, config.model, what=f"the {name}", revision=config.revision)
        return reward_adapter(model, path, trained=trained)
    scorer: Any = sibling_scorer(model, num_labels=1)
    if name == "critic":
        scorer.score.weight.data.zero_()
    else:
        draw_head(scorer, seed=config.seed)
    return add_adapter(scorer, config, base=model.assent_base, seed=derived_seed(config.seed, f"adapter of {name}"))


def _members_beside(trunk: AlignmentModel, config: StageOptions, path: str) -> list[PreTrainedModel]:
    """The members of a reward model (one, or an ensemble's), on the base of an adapted policy."""
    paths = list(map(str, members_of(resolve_folder(path)))) or [path]
    return [load_beside(trunk, config, at, name="reward model", trained=False) for at in paths]


def frozen(config: StageOptions, module: AlignmentModel, runtime: Runtime) -> Reference:
    """Wraps a model that is read but not trained."""
    offloaded = config.offload_frozen
    return Reference(module, runtime, config.micro_batch_tokens, offloaded=offloaded)


def load_rewards(
    config: StageOptions,
    spec: Spec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    runtime: Runtime,
    trunk: AlignmentModel | None,
) -> tuple[Reward, list[ModelReader]]:
    """The reward, and the models that it keeps in memory. With `trunk`, they are adapters on the trunk's base."""
    options: dict[str, Any] = {"device": runtime.device, "dtype": config.dtype, "policy_tokenizer": tokenizer}
    if config.micro_batch_tokens:
        options["micro_batch_tokens"] = config.micro_batch_tokens
    if trunk is not None:
        options["load"] = partial(_members_beside, trunk, config)
    if (place := placed(runtime, config.reward_processes)) is not None:
        options["place"] = place
    reward = load_reward(spec, ensemble=config.reward_ensemble, **options)
    readers = readers_of(reward)
    for reader in readers if config.offload_frozen else ():
        reader.offload()
    return reward, readers


def _load(
    config: StageOptions,
    path: str,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
    **more: Any,
) -> PreTrainedModel:
    dtype = _type_to_load(config, path, kind, tokenizer) if runtime.is_sharded else config.dtype
    options = {"dtype": dtype, "revision": config.revision, "tokenizer": tokenizer, **more}
    if kind == "policy":
        return load_policy(path, **options)
    return load_scorer(path, num_labels=config.num_heads, seed=config.seed, **options)


def _type_to_load(config: StageOptions, path: str, kind: Kind, tokenizer: PreTrainedTokenizerBase) -> str:
    """The file's own type where that leaves the weights in the file until they are sharded and become float32. New rows
    and heads are drawn in the type of --dtype, in every process."""
    folder = resolve_folder(path, revision=config.revision)
    is_whole = not fresh_tokens(folder, tokenizer) and (kind == "policy" or is_classifier(load_config(folder)))
    in_file = type_in_file(folder) if is_whole and config.dtype == "float32" else None
    return "bfloat16" if in_file == "bfloat16" else config.dtype


def _module(
    model: PreTrainedModel, config: StageOptions, kind: Kind, *, value_head: nn.Linear | None = None
) -> AlignmentModel:
    module = AlignmentModel(model, kind=kind, temperature=config.temperature, value_head=value_head)
    if model.dtype != DTYPES[config.dtype]:
        module.sharded_dtype = DTYPES[config.dtype]
    return module


def _quantised(config: StageOptions, runtime: Runtime, path: str) -> dict[str, Any] | None:
    """How to load the frozen weights; None: as they are. ConfigError if 4 bits are not possible."""
    if not config.load_in_4bit:
        return None
    check_quantisation(runtime.device)
    if is_adapter(resolve_folder(path, revision=config.revision)):
        raise ConfigError(
            "4-bit weights are read from a folder, but an adapter's merged weights are only in memory",
            got=f"--load-in-4bit with the adapter {path}",
            expected="a folder with all of the model's weights",
            fix=f"merge it first: assent merge {path} --output-dir FOLDER",
        )
    return quantisation(runtime.device, DTYPES[config.dtype])


def _with_adapter(
    model: PreTrainedModel, config: StageOptions, *, name: str, path: str, tokenizer: PreTrainedTokenizerBase, run: Path
) -> tuple[PreTrainedModel, list[str]]:
    """Adds a fresh adapter to `model`, which was loaded from `path`. Returns also log lines on what is trained."""
    folder = resolve_folder(path, revision=config.revision)
    lines = []
    if is_adapter(folder):
        base = Base(str((run / START).resolve()))
        lines.append(f"{name}: {path} is an adapter itself: it was merged into its base, and a new one is on top")
    elif Path(path).expanduser().is_dir():
        base = Base(str(folder.resolve()), content=content_of(folder))
    else:
        base = Base(path, config.revision, content_of(folder))
    fresh = fresh_tokens(folder, tokenizer)
    adapted = add_adapter(
        model,
        config,
        base=replace(base, in_4bit=config.load_in_4bit),
        seed=derived_seed(config.seed, f"adapter of {name}"),
        new_rows=bool(fresh),
    )
    facts = describe(adapted, config)
    whole = f"; in full: {', '.join(facts['modules_to_save'])}" if facts["modules_to_save"] else ""
    lines.append(
        f"{name}: {facts['kind']} of rank {facts['lora_r']}, alpha {facts['lora_alpha']:g} on {facts['layers']} layers "
        f"({', '.join(facts['target_modules'])}){whole}; {facts['trained_parameters']:,} parameters are trained"
    )
    if fresh:
        lines.append(
            f"{name}: the embeddings are trained and saved in full, because they have new tokens: {', '.join(fresh)}"
        )
    return adapted, lines


def save_trained(
    folder: str | Path,
    modules: Sequence[AlignmentModel],
    tokenizer: PreTrainedTokenizerBase,
    *,
    state_dict: Mapping[str, Tensor] | None,
) -> None:
    """Saves a run's model, or an ensemble's members. Saves also the value head, and the adapter's base if no folder has
    it yet. `state_dict`: see `save_model`."""
    module, *others = modules
    if is_adapted(module.hf):
        save_start(module.hf, tokenizer, state_dict)
    if others:
        for other in others:
            other.hf.assent_base = module.hf.assent_base
        return save_members(folder, [one.hf for one in modules], tokenizer)
    beside = partial(save_value_head, head=module.value_head)
    save_model(folder, module.hf, tokenizer, state_dict=state_dict, beside=beside)


def save_start(model: Any, tokenizer: PreTrainedTokenizerBase, state_dict: Mapping[str, Tensor] | None) -> None:
    """Saves the merged start of a run that continues from an adapter: the base of the adapter that it trains."""
    base: Base = model.assent_base
    if base.content:  # the base has a folder already
        return
    weights = base_weights(model.state_dict() if state_dict is None else state_dict)
    save_model(base.path, model.get_base_model(), tokenizer, state_dict=weights)
    model.assent_base = replace(base, content=content_of(Path(base.path)))
