"""What data-parallel and sharded training put around the module: DistributedDataParallel or fully_shard (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from assent.engine.runtime import Runtime


def wrap(module: nn.Module, runtime: Runtime) -> nn.Module:
    """The module to call. One process: the module itself; sharded: the same object, its parameters now DTensors."""
    if runtime.num_processes == 1:
        return module
    if runtime.is_sharded:
        for block in _blocks(module):
            fully_shard(block)
        fully_shard(module)
        return module
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    # Buffers (rotary frequencies) are constants, equal everywhere: nothing to broadcast at each forward pass.
    return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The layers of the trunk: the elements of the outermost module lists."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else _blocks(child)
    return found


@contextlib.contextmanager
def without_reduction(module: nn.Module) -> Iterator[None]:
    """Gradients stay on their process until a backward pass outside this context (sharded ones are always reduced)."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_full(target: Tensor, source: Tensor) -> None:
    """`source`, whole, into a tensor that may be sharded. All processes must call it."""
    if isinstance(target, DTensor):
        whole = source.to(device=target.device, dtype=target.dtype)
        target.copy_(distribute_tensor(whole, target.device_mesh, target.placements))
    else:
        target.copy_(source)
