"""A device "cuda" without a GPU: its tensors' numbers lie on the CPU, and what a GPU would refuse is refused.

`pretended()` is a context. Inside it `torch.zeros(3, device="cuda")` is a `Pretended` tensor, whose device is cuda:0
and whose numbers are those of an ordinary tensor. Every operation is computed on the CPU, after these checks:

    all tensors are on one device, except zero-dimensional CPU tensors in elementwise operations; a tensor on the CPU is
    not indexed by one on the device; a generator of the CPU draws nothing on the device

Each operation for which the host waits for the device is counted, with the line of the package that asked for it. While
`set_sync_debug_mode("error")` holds, and while a graph is recorded, it raises. `Recording` stands for a CUDA graph:
what was recorded is done again with the same operations on the same memory, whatever Python says by then.

torch's own fake tensors have no numbers, so code that reads one (a mask, a length, a token) stops there, and they take
no gradients. Here autograd works, by a library that does nothing (`pretend_library.py`). Kernels, streams, memory and
times of a GPU are not in it: only what the package asks of torch.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pretend_library  # noqa: F401  # before torch, which asks for CUDA once

import assent

# isort: split
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

DEVICE = torch.device("cuda", 0)
PACKAGE = str(Path(assent.__file__).parent)
_WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount"),
    *("equal", "is_nonzero", "repeat_interleave", "histc", "_assert_async"),
}
"""The host waits for their result, or for the shape of it."""
_ANY_DEVICE = {"copy_", "_to_copy", "_has_compatible_shallow_copy_type"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class WaitsError(RuntimeError):
    """The host would wait for the device where it must not."""


class _State:
    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        """How often the host waited for the device, by line and operation."""
        self.operations = 0
        self.forbidden = False
        """Waiting raises."""
        self.recording: Recording | None = None

    def wait(self, name: str, why: str) -> None:
        self.waits[f"{line_of_package()}: {why}"] += 1
        if self.forbidden or self.recording is not None:
            raise WaitsError(f"the host would wait for the device: {name} ({why})")


STATE = _State()


def line_of_package() -> str:
    """The innermost line of the package, or of the caller, that is being executed."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of the package"


class Pretended(Tensor):
    """A tensor that is on cuda:0, as far as anyone can see. `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            layout=real.layout, device=DEVICE,
        )  # fmt: skip
        made.held = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # torch's own makes a tensor without dimensions of it
        if id(self) not in memo:
            made: Any = Pretended(self.held.clone())
            memo[id(self)] = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: checked, computed on the CPU, and its result put where a GPU would have it."""
    name, asked = func.overloadpacket.__name__, kwargs.get("device")
    flat, spec = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, Pretended)]
    there = torch.device(asked).type == "cuda" if asked is not None else bool(ours)
    if not ours and not there:
        return func(*args, **kwargs)
    STATE.operations += 1
    _check(func, name, args, flat, there=there)
    if name in ("_has_compatible_shallow_copy_type", "is_pinned"):
        return False
    if name == "_fused_sdp_choice":  # the one by plain products: it is made of operations that a CPU has
        return 0
    if name == "record_stream":
        return None
    wrapped = {id(x.held): x for x in ours}
    real = [x.held if isinstance(x, Pretended) else x for x in flat]
    real = [torch.device("cpu") if isinstance(x, torch.device) else x for x in real]
    real_args, real_kwargs = tree_unflatten(real, spec)
    real_kwargs = {key: value for key, value in real_kwargs.items() if key != "pin_memory"}
    if name == "_to_copy" and ours and there and asked is not None and real_kwargs.get("dtype") is None:
        func, real_args, real_kwargs = torch.ops.aten.clone.default, real_args[:1], {}
    if STATE.recording is not None:
        STATE.recording.before(func, real_args, real_kwargs)
    with _disable_current_modes():
        found = _OTHERWISE.get(name, func)(*real_args, **real_kwargs)
    outputs, shape = tree_flatten(found)
    if STATE.recording is not None:
        STATE.recording.after(func, real_args, real_kwargs, outputs)
    if name == "copy_" and not isinstance(args[0], Pretended):
        return args[0]
    return tree_unflatten([_placed(x, wrapped, there=there) for x in outputs], shape)


def _placed(x: Any, wrapped: dict[int, Pretended], *, there: bool) -> Any:
    """A result where a GPU would have it: an argument that was changed in place is itself."""
    if not isinstance(x, Tensor):
        return x
    return wrapped[id(x)] if id(x) in wrapped else Pretended(x) if there else x


def _check(func: Any, name: str, args: Any, flat: list[Any], *, there: bool) -> None:
    """Raises what a GPU would refuse; counts what it would have to wait for."""
    tensors = [x for x in flat if isinstance(x, Tensor)]
    ours, cpu = [x for x in tensors if isinstance(x, Pretended)], [x for x in tensors if not isinstance(x, Pretended)]
    if name in _ANY_DEVICE:
        target_there = isinstance(args[0], Pretended) if name == "copy_" else there
        if name != "_has_compatible_shallow_copy_type" and cpu and target_there:
            if STATE.recording is not None:
                STATE.wait(name, "a copy from the CPU's memory")
        elif ours and not target_there:
            STATE.wait(name, "a copy to the CPU")
        return
    if any(isinstance(x, torch.Generator) and x.device.type == "cpu" for x in flat) and there:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name in _INDEXED:
        _check_index(name, args)
        return
    elementwise = torch.Tag.pointwise in func.tags or name in ("masked_fill", "masked_fill_", "where", "fill_")
    odd = [x for x in cpu if x.ndim or not elementwise]
    if ours and odd:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {name} with a tensor of shape "
            f"{tuple(odd[0].shape)} on the CPU, at {line_of_package()}"
        )
    if name in _WAITS and ours and "output_size" not in str(flat):
        STATE.wait(name, name)


def _check_index(name: str, args: Any) -> None:
    indices = [x for x in args[1] if isinstance(x, Tensor)]
    if not isinstance(args[0], Pretended) and any(isinstance(x, Pretended) for x in indices):
        raise RuntimeError(f"indices should be on the CPU, as the indexed tensor, at {line_of_package()}")
    value = args[2] if "index_put" in name else None
    if value is not None and value.ndim and isinstance(args[0], Pretended) != isinstance(value, Pretended):
        raise RuntimeError(f"the values of {name} are on another device, at {line_of_package()}")
    if isinstance(args[0], Pretended):
        if any(not isinstance(x, Pretended) for x in indices):
            STATE.wait(name, "indices on the CPU")
        if any(x.dtype == torch.bool for x in indices):
            STATE.wait(name, "a mask as an index")


def _varlen(query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, *rest: Any) -> Any:
    """What the variable-length kernel documents, by segment: causal from the bottom right, a window to the left.

    (T, H, D), (M, J, D), (M, J, D'), (segments + 1,) twice, and the operation's other arguments in its order.
    """
    _, _, is_causal, scale, window = rest[:5]
    left = -1 if is_causal else window[0]
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    outputs = []
    bounds = [zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True) for ends in (ends_q, ends_k)]
    for (a, b), (c, d) in zip(*bounds, strict=True):
        distance = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        scores = torch.einsum("qhd,khd->hqk", query[a:b].float(), key[c:d].float()) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, value[c:d].float()).to(query.dtype))
    return torch.cat(outputs), torch.zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    """The gradients of `_varlen`."""
    ends_q, ends_k, most_q, most_k, is_causal, _, scale, window = rest

    def gradients() -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in (query, key, value)]
        again, *_ = _varlen(*inputs, ends_q, ends_k, most_q, most_k, is_causal, scale, window)
        return torch.autograd.grad(again, inputs, grad)

    with ThreadPoolExecutor(1) as other:  # in this thread autograd is at work already
        return other.submit(gradients).result()


def _histc(numbers: Tensor, *rest: Any, **more: Any) -> Tensor:
    """CUDA counts integers, too."""
    return torch.histc(numbers.float(), *rest, **more).to(numbers.dtype)


_OTHERWISE: dict[str, Callable[..., Any]] = {
    "_varlen_attn": _varlen,
    "_varlen_attn_backward": _varlen_backward,
    "histc": _histc,
}
"""Operations that a CPU does not have as a GPU has them."""


class Recording:
    """A CUDA graph: operations that are noted while `function` runs, and done again on the same memory. Noting them
    changes no number, as on a GPU."""

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        self.done: list[tuple[Any, Any, Any, list[Any]]] = []
        self.before_it: dict[int, tuple[Tensor, Tensor]] = {}
        STATE.recording = self
        try:
            self.out = function()
        finally:
            STATE.recording = None
            for real, numbers in self.before_it.values():
                with _disable_current_modes():
                    real.copy_(numbers)
        RECORDED.append(len(self.done))

    def before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keeps the numbers that the operation is about to change."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                with _disable_current_modes():
                    self.before_it.setdefault(id(value), (value, value.clone()))

    def after(self, func: Any, args: Any, kwargs: Any, outputs: list[Any]) -> None:
        self.done.append((func, args, kwargs, outputs))

    def replay(self) -> Tensor:
        """Does the operations again. Returns the tensor that `function` gave."""
        with _disable_current_modes():
            for func, args, kwargs, outputs in self.done:
                again, _ = tree_flatten(func(*args, **kwargs))
                for old, new in zip(outputs, again, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
        return self.out


RECORDED: list[int] = []
"""The number of operations of each recording."""


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply for weights that become another kind of tensor. They stay the objects that they were: tied
    weights stay tied, and models that share a module share what has been moved."""
    seen: set[int] = set()
    for part in module.modules() if recurse else [module]:
        for weight in part._parameters.values():
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                with torch.no_grad():
                    moved = fn(weight)
                if moved is not weight:
                    torch.utils.swap_tensors(weight, nn.Parameter(moved, weight.requires_grad))
        for key, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[key] = fn(buffer)
    return module


class _Modes:
    """`get_sync_debug_mode` and `set_sync_debug_mode`."""

    @staticmethod
    def get() -> int:
        return int(STATE.forbidden)

    @staticmethod
    def set(mode: int | str) -> None:
        STATE.forbidden = mode in (2, "error", True) if not isinstance(mode, bool) else mode


def _properties(*_: Any) -> Any:
    return mock.Mock(total_memory=80 * 2**30, major=9, minor=0)


def _seams() -> Iterator[Any]:
    """What is replaced in torch and in the package."""
    from assent.models import head
    from assent.rollouts import decoding

    nothing, zero = (lambda *_, **__: None), (lambda *_, **__: 0)
    cuda = {"is_available": lambda: True, "device_count": lambda: 1, "current_device": zero, "synchronize": nothing}
    cuda |= {"get_device_capability": lambda *_: (9, 0), "get_device_properties": _properties, "empty_cache": nothing}
    cuda |= {"get_device_name": lambda *_: "no GPU", "memory_allocated": zero, "max_memory_allocated": zero}
    cuda |= {"reset_peak_memory_stats": nothing, "is_bf16_supported": lambda *_: True, "set_device": nothing}
    cuda |= {"_lazy_init": nothing, "get_sync_debug_mode": _Modes.get, "set_sync_debug_mode": _Modes.set}
    for name, value in cuda.items():
        yield mock.patch.object(torch.cuda, name, value)
    yield mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
    yield mock.patch.object(nn.Module, "_apply", _apply)
    plain = head.is_plain_linear
    kinds = ("Linear", "ChoosingLinear")
    ours = lambda m: type(m).__name__ in kinds and isinstance(m.weight, Pretended) and not head.has_hooks(m)
    yield mock.patch.object(head, "is_plain_linear", lambda m: plain(m) or ours(m))
    yield mock.patch.object(decoding, "OnDevice", Recording)
    yield mock.patch.dict(decoding.DECODERS, {"graphs": lambda model: decoding.GraphDecoder(model, Recording)})


@contextmanager
def pretended() -> Iterator[_State]:
    """Inside, there is one device "cuda" (the module's docstring). Gives the counts."""
    STATE.__init__()  # type: ignore[misc]
    RECORDED.clear()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with contextlib.ExitStack() as stack:
            for seam in _seams():
                stack.enter_context(seam)
            stack.enter_context(_Mode())
            yield STATE
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
