"""Sharded passes that end although memory runs out in them.

A sharded pass is collective: each layer's weights are put together before it, and its gradients are dealt out after it.
A process that left the pass where its memory ran out would leave the others waiting. So each layer, and the head, is
guarded: what fails in it is caught there, zeros stand for its result, and the process goes on to the end of the pass
with nothing left to compute. Then all processes hear of it, drop what they have, and take smaller micro-batches.

A guarded part keeps a graph of its own, so that its backward pass can be caught, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assent.engine.micro_batches import is_out_of_memory
from assent.engine.passes import Metrics, Terms
from assent.engine.sums import Sums
from assent.models.batch import Outputs

Part = Callable[..., Any]
GUARD = "assent_memory_guard"
"""The attribute of a sharded module that holds its guard."""


class Guard:
    """Catches that memory runs out in the layers and the head of one sharded module, while it is `on`.

    failed   whether memory ran out in this process since it is on
    """

    def __init__(self) -> None:
        self.failed = self._is_on = False
        self._anchor = torch.zeros((), requires_grad=True)  # a part's result has a graph even if its inputs have none

    @classmethod
    def over(cls, module: nn.Module) -> Guard:
        """Guards the layers of a module, and its head, if it reads one by `read_head`."""
        guard, blocks = cls(), blocks_of(module)
        for block in blocks:
            states = _States()
            block.forward = partial(guard.call, block.forward, states, block.parameters)
        if hasattr(module, "read_head"):
            inner = {id(parameter) for block in blocks for parameter in block.parameters()}

            def outside() -> list[nn.Parameter]:
                return [parameter for parameter in module.parameters() if id(parameter) not in inner]

            read_head: Part = module.read_head  # type: ignore[assignment]
            setattr(module, "read_head", partial(guard.call, read_head, _head_numbers, outside))  # noqa: B010
        setattr(module, GUARD, guard)
        return guard

    @contextmanager
    def on(self) -> Iterator[None]:
        self.failed, self._is_on = False, True
        try:
            yield
        finally:
            self._is_on = False

    def call(
        self, part: Part, stand_in: Part, parameters: Callable[[], Iterable[nn.Parameter]], *args: Any, **keywords: Any
    ) -> Any:
        """`part(…)`, or `stand_in(…)` where memory runs out; `parameters` are those that the part trains."""
        if not self._is_on:
            return part(*args, **keywords)
        if not torch.is_grad_enabled():
            return self.tried(part, stand_in, args, keywords)
        leaves, spec = pytree.tree_flatten((args, keywords))
        inside = _Inside(self, part, stand_in, parameters, leaves, spec)
        with_grad = [leaves[i] for i in inside.with_grad]
        return inside.filled(_Guarded.apply(inside, self._anchor, *with_grad))

    def tried(self, part: Part, stand_in: Part, args: Any, keywords: Any) -> Any:
        """`part(…)`, or `stand_in(…)` if memory runs out or did so before."""
        if not self.failed:
            try:
                result = part(*args, **keywords)
                if isinstance(stand_in, _States):
                    stand_in.is_tuple = isinstance(result, tuple)
                return result
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.failed = True
        return stand_in(*args, **keywords)


@contextmanager
def guarded(module: nn.Module) -> Iterator[Guard]:
    """Inside, the guard of a sharded module is on. Another module has none: what fails in it leaves the pass."""
    guard: Guard = getattr(module, GUARD, None) or Guard()
    with guard.on():
        yield guard


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The layers of the trunk: the elements of the outermost module lists."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


class _States:
    """Zeros in the place of a layer's result, which has the shape of the states that it got."""

    is_tuple = False

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        states = next(leaf for leaf in pytree.tree_leaves((args, keywords)) if isinstance(leaf, Tensor))
        return (torch.zeros_like(states),) if self.is_tuple else torch.zeros_like(states)


def _head_numbers(states: Tensor, _: Tensor, *, want_entropy: bool) -> tuple[Tensor, Tensor | None]:
    numbers = torch.zeros(len(states), device=states.device)
    return numbers, numbers if want_entropy else None


class _Inside:
    """One call of a guarded part: its arguments as leaves of a graph of its own, and its result."""

    def __init__(
        self,
        guard: Guard,
        part: Part,
        stand_in: Part,
        parameters: Callable[[], Iterable[nn.Parameter]],
        leaves: list[Any],
        spec: pytree.TreeSpec,
    ) -> None:
        self.guard, self.part, self.stand_in, self.parameters = guard, part, stand_in, parameters
        self.leaves, self.spec = list(leaves), spec
        self.with_grad = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        self.result: list[Any] = []
        self.spec_of_result = spec

    def forward(self) -> tuple[Tensor, ...]:
        """The tensors of the result, without their graph."""
        for i in self.with_grad:
            self.leaves[i] = self.leaves[i].detach().requires_grad_()
        args, keywords = pytree.tree_unflatten(self.leaves, self.spec)
        with torch.enable_grad():
            result = self.guard.tried(self.part, self.stand_in, args, keywords)
        self.result, self.spec_of_result = pytree.tree_flatten(result)
        return tuple(leaf.detach() for leaf in self.result if isinstance(leaf, Tensor))

    def filled(self, flat: Sequence[Tensor]) -> Any:
        """The result, with tensors of the outer graph."""
        given = iter(flat)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.result]
        return pytree.tree_unflatten(leaves, self.spec_of_result)

    def backward(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the arguments. Those of parameters are added to `.grad`; zeros, where memory ran out: others
        deal out their gradients of the same parameters."""
        results = [leaf for leaf in self.result if isinstance(leaf, Tensor)]
        pairs = [(leaf, grad) for leaf, grad in zip(results, grads, strict=True) if leaf.requires_grad]
        self.result = []
        if not self.guard.failed and pairs:
            try:
                torch.autograd.backward([leaf for leaf, _ in pairs], [grad for _, grad in pairs])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.guard.failed = True
        pairs.clear()
        own = [self.leaves[i] for i in self.with_grad]
        self.leaves = []
        if self.guard.failed:
            for parameter in self.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [torch.zeros_like(leaf) if leaf.grad is None or self.guard.failed else leaf.grad for leaf in own]


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inside: _Inside, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.inside = inside
        return inside.forward()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.inside.backward(grads))


def collective_loss(
    objective: Callable[[], tuple[Terms, Metrics]], outputs: Outputs, sums: Sums
) -> tuple[Tensor, Terms, Metrics]:
    """A micro-batch's share of the loss, its terms and its metrics, with a graph even if no token counts.

    Raises OverflowError for a loss beyond its range, after a backward pass of zeros, in which the others take part.
    """
    given = [getattr(outputs, field.name) for field in fields(outputs)]
    nothing = torch.stack([tensor.sum() for tensor in given if tensor is not None and tensor.requires_grad]).sum() * 0
    try:
        terms, metrics = objective()
        total = sums.loss(terms)
    except OverflowError:
        nothing.backward()
        raise
    return total if total.requires_grad else total + nothing, terms, metrics
