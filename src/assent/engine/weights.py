"""Weights and optimiser state as safetensors, whole even if training shards them (law 6)."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assent.engine.optimiser import Optimiser
from assent.engine.wrapping import copy_full, full, reshard
from assent.errors import RunFolderError
from assent.models.adapters import is_adapted
from assent.models.loading import fingerprint
from assent.runs.files import storage_errors

MODEL, OPTIMISER = "model.safetensors", "optimiser.safetensors"


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and persistent buffers, by name.

    If only some parameters are trained, as an adapter's are, the others are left out.
    """
    parameters = dict(reshard(module).named_parameters())
    named: dict[str, Tensor] = {name: p for name, p in parameters.items() if p.requires_grad} or dict(parameters)
    buffers = dict(module.named_buffers())
    return named | {name: buffers[name] for name in module.state_dict() if name in buffers}


def gathered(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The state dict of the transformers model inside, on the CPU, with sharded weights put together. All processes
    must call it; those that do not `keep` it hold one whole weight at a time and return nothing."""
    model = getattr(reshard(module), "hf", module)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if (one := tied.get(name, name)) != name:  # a folder has it under its first name, PEFT asks for each
            found |= {name: found[one]} if keep and is_adapted(model) else {}
            continue
        whole = full(tensor.detach())
        if keep:
            found[name] = whole.cpu()
    return found


def fingerprint_of(module: nn.Module) -> str:
    """`models.loading.fingerprint` of the transformers model inside. All processes must call it."""
    model = getattr(reshard(module), "hf", module)
    return fingerprint(dict(model.named_parameters()), whole=full)


def save_weights(folder: Path, module: nn.Module, *, is_main: bool, optimiser: Optimiser | None = None) -> None:
    """Writes the files into `folder`. All processes must call it, the main one writes. Raises StorageError."""
    for name, tensors in _files(module, optimiser):
        whole = {}
        for key, tensor in tensors.items():
            gathered = full(tensor.detach())
            if is_main:
                whole[key] = gathered.cpu().contiguous()
        if is_main:
            with storage_errors(folder / name):
                save_file(whole, folder / name)


def load_weights(folder: Path, module: nn.Module, *, optimiser: Optimiser | None = None) -> None:
    """The inverse of `save_weights`. Raises RunFolderError if the files hold another model's weights."""
    for name, tensors in _files(module, optimiser):
        try:
            stored = load_file(folder / name)
        except (SafetensorError, OSError) as error:
            raise RunFolderError(
                f"{folder / name} cannot be read: {error}", fix="restore the file, or choose another --output-dir"
            ) from error
        expected = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        found = {key: tuple(tensor.shape) for key, tensor in stored.items()}
        if found != expected:
            differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            raise RunFolderError(
                f"{folder / name} holds another model's weights",
                got=", ".join(f"{key} {found.get(key, 'missing')}" for key in differing[:3]),
                expected=", ".join(f"{key} {expected.get(key, 'absent')}" for key in differing[:3]),
                fix="choose another --output-dir",
            )
        for key, tensor in tensors.items():
            copy_full(tensor, stored[key])
    if optimiser is not None:
        optimiser.loaded()


def _files(module: nn.Module, optimiser: Optimiser | None) -> list[tuple[str, dict[str, Tensor]]]:
    """Each file's name and tensors. Without an optimiser there is only the weights' file."""
    files = [(MODEL, named_weights(module))]
    if optimiser is None:
        return files
    trained = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return [*files, (OPTIMISER, optimiser.named_state(trained))]
