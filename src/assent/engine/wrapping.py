"""The wrappers of data-parallel and sharded training: DistributedDataParallel or fully_shard (FSDP2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from assent.engine.runtime import Runtime
from assent.engine.sharded_pass import Guard, blocks_of

Result = TypeVar("Result")

_NO_BUFFERS = (
    "forward_sync_buffers"  # the name since torch 2.13, which warns of the older one
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def wrap(module: nn.Module, runtime: Runtime) -> nn.Module:
    """The module to call, on its device. With one process it is the module itself. Sharded, its parameters become
    DTensors; a module that is on the CPU until then is never whole on the device."""
    if not runtime.is_sharded:
        module.to(runtime.device)
    if runtime.num_processes == 1:
        return module
    if runtime.is_sharded:
        Guard.over(module)
        mesh, dtype = _mesh(runtime.device.type, runtime.num_processes), getattr(module, "sharded_dtype", None)
        for part in (*blocks_of(module), module):  # one part at a time is whole on the device, and in another type
            if dtype is not None:
                part.to(dtype)
            fully_shard(part, mesh=mesh)
        setattr(module, "within", _call)  # noqa: B010 (an entry beside `forward`, for `whole`)
        register_fsdp_forward_method(module, "within")
        return module
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    # Buffers (rotary frequencies) are the same constants in every process: no need to broadcast them in each pass.
    return DistributedDataParallel(module, device_ids=ids, **{_NO_BUFFERS: False})  # type: ignore[arg-type]


@cache
def _mesh(device: str, number: int) -> DeviceMesh:
    return init_device_mesh(device, (number,))


@torch.no_grad()
def whole(module: nn.Module, function: Callable[..., Result], *args: Any, **keywords: Any) -> Result:
    """`function(…)`, which calls parts of `module` directly and many times, as sampling does.

    Sharded weights are put together first and stay whole in every process until it returns. So all processes must call
    it, but what their functions call may differ.
    """
    if not isinstance(module, FSDPModule):
        return function(*args, **keywords)
    blocks = [part for part in module.modules() if isinstance(part, FSDPModule) and part is not module]
    for block in blocks:
        block.set_reshard_after_forward(False)

    def call() -> Result:
        for block in blocks:
            block.unshard()
        return function(*args, **keywords)

    try:
        result: Result = module.within(call)  # type: ignore[operator]
        return result
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True)
            block.reshard()
        module.reshard()


def _call(function: Callable[[], Result]) -> Result:
    return function()


def reshard(module: nn.Module) -> nn.Module:
    """The module, with each of its sharded weights a shard. After a forward pass the root's weights are still whole,
    and what is written into them then is lost."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return module


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, which may be sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_full(target: Tensor, source: Tensor) -> None:
    """Copies `source`, which is whole, into a tensor that may be sharded. All processes must call it."""
    if isinstance(target, DTensor):
        whole = source.to(device=target.device, dtype=target.dtype)
        target.copy_(distribute_tensor(whole, target.device_mesh, target.placements))
    else:
        target.copy_(source)
