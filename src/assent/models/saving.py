"""A model folder, written whole or not at all (law 10)."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from assent.errors import ModelError, StorageError
from assent.models.adapters import base_weights, is_adapted, save_adapter
from assent.models.folders import MEMBERS
from assent.models.vocabulary import sync_tokens


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is checked and raised here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def save_model(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    beside: Callable[[Path], object] | None = None,
) -> Path:
    """Write a Hugging Face folder: safetensors, configs, tokenizer, chat template. Replaces what stood there.

    Of a model with an adapter, a PEFT folder: the adapter alone, and which base it is for.
    It is written to a sibling, synced and renamed, so a reader sees the old folder or the new one. `state_dict`: the
    weights, where the model's own are sharded. `beside` writes more into the folder. Errors: StorageError.
    """
    sync_tokens(model, tokenizer)
    _make_generation_config_valid(model)
    with _replacing(Path(folder)) as part:
        with quiet():
            if is_adapted(model):
                save_adapter(part, model, target=Path(folder), state_dict=state_dict)
            else:
                model.save_pretrained(part, state_dict=None if state_dict is None else dict(state_dict))
            tokenizer.save_pretrained(part)
        if beside is not None:
            beside(part)
    return Path(folder)


def save_members(folder: str | Path, models: Sequence[PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write an ensemble's folder: each member, which has an adapter, as a PEFT folder of its own. Otherwise as
    `save_model`."""
    names = [f"member-{number}" for number in range(1, len(models) + 1)]
    with _replacing(Path(folder)) as part:
        for name, model in zip(names, models, strict=True):
            save_model(part / name, model, tokenizer)
        (part / MEMBERS).write_text(json.dumps({"members": names}) + "\n", encoding="utf-8")


@torch.no_grad()
def folder_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """What `save_model` would write of the model itself, without writing: tied weights once.

    Tensors are the model's own where it holds them as they are; an adapted layer's weight is a copy with the adapter
    added, and the layer stays as it was (adding and taking off again would change it by rounding).
    """
    base: Any = model
    named = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if is_adapted(model):
        base = model.get_base_model()  # type: ignore[operator]
        named = base_weights(named) | _merged(base)
    tied = getattr(base, "all_tied_weights_keys", None) or {}
    # weights that transformers holds in another shape than the folder does (experts of one layer stacked)
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(base, {n: t for n, t in named.items() if n not in tied}))


def _merged(base: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of what an adapter stands in: layers, and modules that are trained whole."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    named: dict[str, Tensor] = {}
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            inside = module.modules_to_save[module.active_adapter]  # type: ignore[index]
            named |= {f"{name}.{own}": tensor.detach() for own, tensor in inside.state_dict().items()}
        elif isinstance(module, LoraLayer):
            if getattr(module.get_base_layer().weight, "quant_state", None) is not None:
                raise ModelError("4-bit weights cannot be handed to another engine", fix="leave --load-in-4bit out")
            merged: Any = copy.deepcopy(module)
            merged.merge()
            named[f"{name}.weight"] = merged.get_base_layer().weight.detach()
    return named


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `target` after the block. Errors: StorageError."""
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        if target.exists():
            target.rename(old)
        part.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, StorageError):  # of a member
            raise
        raise StorageError(f"the model cannot be written: {error}", got=target) from error


def _make_generation_config_valid(model: PreTrainedModel) -> None:
    """Sampling settings that contradict `do_sample` come with some models, and transformers refuses to write them.

    They have no effect there, so they are taken out.
    """
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    try:
        with quiet():
            generation.validate(strict=True)
    except ValueError:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            setattr(generation, name, None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
