"""Writes model folders, completely or not at all (law 10), and gives a policy's weights as a folder would have them."""

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
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from assent.errors import ModelError, StorageError
from assent.models.adapters import base_weights, is_adapted, save_adapter
from assent.models.folder_contents import SCORE_HEAD
from assent.models.folders import MEMBERS
from assent.models.heads import has_own_head, save_head
from assent.models.vocabulary import sync_tokens
from assent.runs.files import claimed, fsync, remove_left_behind


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses transformers' progress bars and warnings. What matters in them is checked and raised elsewhere."""
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
    """Writes a Hugging Face folder: safetensors, configs, tokenizer, chat template. Replaces a folder that is there.

    For a model with an adapter it is a PEFT folder: the adapter only, and the name of its base.
    The folder is written beside its target, synced and renamed, so a reader sees the old folder or the new one.
    `state_dict` has the weights if the model's own are sharded. `beside` writes more files into the folder. Raises
    StorageError.
    """
    sync_tokens(model, tokenizer)
    _make_generation_config_valid(model)
    with _replacing(Path(folder)) as part:
        with quiet():
            if is_adapted(model):
                save_adapter(part, model, target=Path(folder), state_dict=state_dict)
            else:
                _save_whole(part, model, state_dict)
            tokenizer.save_pretrained(part)
        if beside is not None:
            beside(part)
    return Path(folder)


def _save_whole(part: Path, model: Any, state_dict: Mapping[str, Tensor] | None) -> None:
    """The model's own files; a score head that its class does not have goes to a file of its own."""
    weights = None if state_dict is None else dict(state_dict)
    if has_own_head(model.config):
        weights = dict(model.state_dict()) if weights is None else weights
        save_head(part / SCORE_HEAD, {"weight": weights.pop("score.weight")})
    model.save_pretrained(part, state_dict=weights)


def save_members(folder: str | Path, models: Sequence[PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes an ensemble's folder, in which each member's adapter has a PEFT folder. Otherwise as `save_model`."""
    names = [f"member-{number}" for number in range(1, len(models) + 1)]
    with _replacing(Path(folder)) as part:
        for name, model in zip(names, models, strict=True):
            save_model(part / name, model, tokenizer)
        (part / MEMBERS).write_text(json.dumps({"members": names}) + "\n", encoding="utf-8")


@torch.no_grad()
def folder_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that `save_model` would write, by their names in a folder, with the adapter merged. Tied weights
    appear once.

    Tensors are the model's own wherever possible. An adapted layer's weight is a copy with the adapter added; the layer
    is not changed, because adding and subtracting the adapter would change it by rounding.
    """
    base: Any = model
    named = _held(model)
    if is_adapted(model):
        base = model.get_base_model()  # type: ignore[operator]
        named = base_weights(named) | _merged(base)
    tied = getattr(base, "all_tied_weights_keys", None) or {}
    # transformers holds some weights in another shape than the folder (the experts of a layer are stacked)
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(base, {n: t for n, t in named.items() if n not in tied}))


def _held(model: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` would give, as the modules hold it now: for `state_dict` FSDP2 shards its weights again."""
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for prefix, module in model.named_modules():
        kept = module._buffers.keys() - module._non_persistent_buffers_set
        at = f"{prefix}." if prefix else ""
        named |= {f"{at}{name}": buffer for name in kept if (buffer := module._buffers[name]) is not None}
    return named


def _merged(base: PreTrainedModel) -> dict[str, Tensor]:
    """The merged weights of the layers with an adapter, and the weights of modules that are trained whole."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    named: dict[str, Tensor] = {}
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            inside = module.modules_to_save[module.active_adapter]  # type: ignore[index]
            named |= {f"{name}.{own}": tensor for own, tensor in _held(inside).items()}
        elif isinstance(module, LoraLayer):
            if getattr(module.get_base_layer().weight, "quant_state", None) is not None:
                raise ModelError("4-bit weights cannot be passed to another engine", fix="leave --load-in-4bit out")
            merged: Any = copy.deepcopy(module)
            merged.merge()
            named[f"{name}.weight"] = merged.get_base_layer().weight.detach()
    return named


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A folder to write into, which replaces `target` after the block. What killed processes have left of such folders
    is removed. Raises StorageError."""
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")

    def make() -> Path:
        part.mkdir(parents=True)
        return part

    try:
        remove_left_behind(target.parent, f".{target.name}.part-")
        with claimed(make):
            yield part
            for file in part.iterdir():
                fsync(file)
            fsync(part)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)  # of a killed process with this number: in containers they recur
                target.rename(old)
            part.rename(target)
        fsync(target.parent)
        remove_left_behind(target.parent, f".{target.name}.old-")
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, (OSError, SafetensorError)) and not isinstance(error, StorageError):
            raise StorageError(f"the model cannot be written: {error}", got=target) from error
        raise  # a StorageError was raised for a member


def _make_generation_config_valid(model: PreTrainedModel) -> None:
    """Removes sampling settings that contradict `do_sample`. Some models have them, and transformers refuses to write
    them. They have no effect.
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
