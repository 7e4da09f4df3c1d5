"""One trainable model and its optimiser; and the model that is only read.

Legend: G groups, S completions, N counted completion tokens. A step's update is that of

    loss = Σ_term (Σ over all micro-batches and processes of the term's sum) / (the term's count in the whole step)

so it does not depend on how the step is cut (law 2).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from assent.engine.micro_batches import (
    Budget,
    cost_of,
    free_memory,
    is_out_of_memory,
    padding_fraction,
    share,
)
from assent.engine.optimiser import OptimiserSettings, learning_rate, make_adamw
from assent.engine.reading import _sharded_out_of_memory, read_groups
from assent.engine.runtime import Runtime
from assent.engine.weights import fingerprint_of, initialise_state, load_weights, save_weights
from assent.engine.wrapping import full, wrap
from assent.errors import NonFiniteError, RunError
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack
from assent.runs.files import write_json

STATE = "state.json"


class Objective(Protocol):
    """What a stage binds its pure functions into."""

    @property
    def want(self) -> frozenset[str]:
        """The outputs it reads."""

    def counts(self, batch: GroupBatch) -> Mapping[str, float]:
        """Denominator of each loss term, from the batch alone; the Learner sums them over the whole step."""

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        """Each term's SUM over this micro-batch; for each metric its (sum, count)."""


class Reference:
    """A model that is read and never trained."""

    def __init__(self, module: nn.Module, runtime: Runtime, micro_batch_tokens: int = 0) -> None:
        self.module = module.to(runtime.device).requires_grad_(False).eval()
        self.runtime = runtime
        self.budget = Budget.of(module, runtime, micro_batch_tokens)
        self.cost = cost_of(module)
        self.flops = 0.0
        """Model FLOPs of what was read so far."""
        if runtime.is_sharded:
            wrap(self.module, runtime)

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """No gradient. In the order of `groups`, on the CPU in float32, the same on every process."""
        self.flops += self.cost.forward(groups)
        return read_groups(self.module, groups, want=frozenset(want), runtime=self.runtime, budget=self.budget)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, 16 hex digits. All processes must call it."""
        return fingerprint_of(self.module)


class Learner:
    """Weights, optimiser, step, precision, clipping, checkpointing, processes.

    With several processes each is given the same groups and takes its share; metrics come back equal on all of them.
    """

    def __init__(self, module: nn.Module, *, runtime: Runtime, optim: OptimiserSettings, total_steps: int) -> None:
        self.module = module.to(runtime.device)
        self.runtime, self.optim, self.total_steps = runtime, optim, total_steps
        self.budget = Budget.of(module, runtime, optim.micro_batch_tokens)
        self.cost = cost_of(module)
        self.step = 0
        """Updates done."""
        self.num_tokens = 0
        """Tokens trained on so far, a shared prompt once."""
        self.flops = 0.0
        """Model FLOPs so far, of reading and of updating."""
        # Evaluation mode, so that no dropout is ever on (law 2).
        self.module.eval()
        if optim.gradient_checkpointing:
            _enable_recomputation(self.module)
        self._called = wrap(self.module, runtime)
        self.optimiser = make_adamw(self.module, optim)
        initialise_state(self.optimiser)
        self._matmul_rate = runtime.matmul_rate(next(module.parameters()).dtype)

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """No gradient. In the order of `groups`, on the CPU in float32, the same on every process."""
        self.flops += self.cost.forward(groups)
        return read_groups(self.module, groups, want=frozenset(want), runtime=self.runtime, budget=self.budget)

    def update(self, groups: Sequence[TokenGroup], objective: Objective) -> dict[str, float]:
        """One optimiser step on `groups`, all processes together. Returns the step's metrics.

        Raises NonFiniteError, naming rows, with weights and optimiser as they were (law 9); OutOfMemoryError where a
        single group does not fit.
        """
        started = time.perf_counter()
        # transformers recompute activations in training mode only; AlignmentModel's dropouts are zero in it as well.
        self.module.train(self.optim.gradient_checkpointing)
        try:
            while (step := self._accumulate(groups, objective)) is None:
                self._discard_gradients()
                free_memory(self.runtime.device)
                self.budget.halve(groups)
        finally:
            self.module.eval()
        self._check_losses(step, groups, objective)
        grad_norm = self._clip(groups, objective)
        rate = learning_rate(self.step, self.total_steps, self.optim)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self._discard_gradients()
        tokens = sum(group.num_tokens for group in groups)
        self.step += 1
        self.num_tokens += tokens
        flops = self.cost.update(groups)
        self.flops += flops
        seconds = time.perf_counter() - started
        return {
            **step.metrics,
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "num_tokens": float(self.num_tokens),
            "perf/tokens_per_second": tokens / seconds,
            "perf/step_seconds": seconds,
            "perf/mfu": flops / seconds / self._matmul_rate,
            "perf/padding_fraction": padding_fraction(self.module, groups, self.budget.bins(groups)),
            "perf/micro_batches": float(step.num_micro_batches),
        }

    def save(self, folder: Path) -> None:
        """Weights, optimiser and step into `folder`, which exists. All processes must call it; the main one writes."""
        save_weights(folder, self.module, self.optimiser, is_main=self.runtime.is_main)
        if self.runtime.is_main:
            state = {"step": self.step, "num_tokens": self.num_tokens, "flops": self.flops}
            write_json(folder / STATE, {**state, "budget": self.budget.state()})

    def load(self, folder: Path) -> None:
        """The inverse of `save`: the next update is bit for bit the one that would have followed (law 7)."""
        load_weights(folder, self.module, self.optimiser)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.step, self.num_tokens, self.flops = state["step"], state["num_tokens"], state["flops"]
        self.budget.restore(state["budget"])

    def fingerprint(self) -> str:
        """SHA-256 of the weights, 16 hex digits. All processes must call it."""
        return fingerprint_of(self.module)

    @property
    def fingerprint_step(self) -> str:
        """A cheap name of the weights within this run, for rollouts: they change with each update only."""
        return f"step-{self.step}"

    def _accumulate(self, groups: Sequence[TokenGroup], objective: Objective) -> _Step | None:
        """Gradients of the whole step in `.grad`; None where memory ran out on some process."""
        runtime = self.runtime
        bins = self.budget.bins(groups)
        mine = share(bins, rank=runtime.rank, num_processes=runtime.num_processes)
        counts = _global_counts(bins, groups, objective)
        sums = _Sums()
        not_finite = torch.zeros(len(bins))
        failed = False
        for number, indices in enumerate(mine):
            if not indices and not runtime.is_sharded:
                continue
            try:
                loss = self._backward(groups, indices, objective, counts, sums)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if runtime.is_sharded:
                    raise _sharded_out_of_memory(self.budget) from error
                failed = True
                break
            if indices:
                not_finite[number * runtime.num_processes + runtime.rank] = float(not math.isfinite(loss))
        # Flags travel before gradients do: nobody waits in a reduction for a process that has fallen out of its pass.
        flags = runtime.max(torch.cat([torch.tensor([float(failed)]), not_finite]))
        if flags[0]:
            return None
        suspects = [indices for indices, flag in zip(bins, flags[1:].tolist(), strict=True) if flag]
        if runtime.num_processes > 1 and not runtime.is_sharded and not suspects:
            self._backward(groups, [], objective, counts, sums, reduce=True)
        metrics = {} if suspects else sums.metrics(counts, runtime)
        return _Step(metrics, suspects, len(mine))

    def _backward(
        self,
        groups: Sequence[TokenGroup],
        indices: Sequence[int],
        objective: Objective,
        counts: Mapping[str, float],
        sums: _Sums,
        *,
        reduce: bool = False,
    ) -> float:
        """Adds one micro-batch's gradient and returns its share of the loss.

        No indices: an empty micro-batch, which is the smallest group with weight zero. It takes part in what is
        collective (sharded passes; DDP's reduction, if `reduce`) and in the names of the metrics, and adds nothing.
        """
        smallest = min(range(len(groups)), key=lambda i: groups[i].num_tokens)
        batch = pack([groups[i] for i in indices or [smallest]], device=self.runtime.device)
        # DDP synchronises in forward passes too (when it rebuilds its buckets), while processes may differ in their
        # number of micro-batches or fall out of one; so its wrapper is entered once, when all are through.
        called = self._called if reduce else self.module
        with self.runtime.autocast():
            outputs = called(batch, frozenset(objective.want))
        terms, metrics = objective(outputs, batch)
        total = torch.stack([terms[name].float() / counts[name] for name in terms]).sum()
        weight = 1.0 if indices else 0.0
        if total.requires_grad:  # not where no token counts
            # DDP and FSDP average over processes; the denominators are global already.
            (total * (weight * self.runtime.num_processes)).backward()
        sums.add(terms, metrics, weight=weight)
        return float(total.detach()) * weight

    def _check_losses(self, step: _Step, groups: Sequence[TokenGroup], objective: Objective) -> None:
        if not step.suspects:
            return
        self._discard_gradients()
        suspects = [groups[i] for indices in step.suspects for i in indices]
        raise self._not_finite("the loss", suspects, objective)

    def _clip(self, groups: Sequence[TokenGroup], objective: Objective) -> float:
        """Scales gradients down to max_grad_norm and returns the norm they had."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = float(full(nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm)))
        if not math.isfinite(norm):
            self._discard_gradients()
            raise self._not_finite("the gradient", groups, objective)
        return norm

    def _not_finite(self, what: str, suspects: Sequence[TokenGroup], objective: Objective) -> NonFiniteError:
        """Names the rows: with one process each suspect is tried alone, else all that share the micro-batch."""
        guilty = list(suspects)
        if self.runtime.num_processes == 1:
            guilty = [group for group in suspects if not self._is_finite_alone(group, objective)] or guilty
        names = [group.source or "a row without a source" for group in guilty]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return NonFiniteError(
            f"{what} of step {self.step + 1} is not finite; weights and optimiser are as before the step",
            got=f"NaN or Inf with {', '.join(names[:8])}{more}",
            fix="look at these rows; otherwise lower the learning rate, or compute in float32",
        )

    def _is_finite_alone(self, group: TokenGroup, objective: Objective) -> bool:
        batch = pack([group], device=self.runtime.device)
        with self.runtime.autocast():
            outputs = self.module(batch, frozenset(objective.want))
        terms, _ = objective(outputs, batch)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        finite = bool(torch.isfinite(total))
        if finite and total.requires_grad:
            total.backward()
            grads = [p.grad for p in self.module.parameters() if p.grad is not None]
            finite = all(bool(torch.isfinite(grad).all()) for grad in grads)
        self._discard_gradients()
        return finite

    def _discard_gradients(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)


class _Step:
    """What the passes of one step gave. `suspects`: micro-batches (of any process) whose loss is not finite."""

    def __init__(self, metrics: dict[str, float], suspects: list[list[int]], num_micro_batches: int) -> None:
        self.metrics, self.suspects, self.num_micro_batches = metrics, suspects, num_micro_batches


class _Sums:
    """Sums over a step's micro-batches, in float64 on the CPU."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.values: dict[str, tuple[float, float]] = {}

    def add(self, terms: Mapping[str, Tensor], metrics: Mapping[str, tuple[Tensor, Tensor]], *, weight: float) -> None:
        flat = [*terms.values(), *(part for pair in metrics.values() for part in pair)]
        device = flat[0].device
        numbers = torch.stack([x.detach().to(device, torch.float32).reshape(()) for x in flat]).tolist()
        numbers = [weight * number if weight else 0.0 for number in numbers]
        for name, number in zip(terms, numbers, strict=False):
            self.terms[name] = self.terms.get(name, 0.0) + number
        pairs = numbers[len(terms) :]
        for name, total, count in zip(metrics, pairs[::2], pairs[1::2], strict=True):
            old_total, old_count = self.values.get(name, (0.0, 0.0))
            self.values[name] = (old_total + total, old_count + count)

    def metrics(self, counts: Mapping[str, float], runtime: Runtime) -> dict[str, float]:
        """Loss, terms and metrics of the whole step. A metric that counted nothing has no mean and is left out."""
        terms, values = sorted(self.terms), sorted(self.values)
        local = [self.terms[name] for name in terms] + [part for name in values for part in self.values[name]]
        wide = torch.float32 if runtime.device.type == "mps" else torch.float64
        numbers = runtime.sum(torch.tensor(local, dtype=wide)).tolist()
        losses = {f"loss/{name}": number / counts[name] for name, number in zip(terms, numbers, strict=False)}
        pairs = numbers[len(terms) :]
        means = {n: total / count for n, total, count in zip(values, pairs[::2], pairs[1::2], strict=True) if count}
        return {"loss": sum(losses.values()), **losses, **means}


def _global_counts(
    bins: Sequence[Sequence[int]], groups: Sequence[TokenGroup], objective: Objective
) -> dict[str, float]:
    """The step's denominators. Every process has all groups and counts them all, so nothing needs to be exchanged."""
    counts: dict[str, float] = {}
    for indices in bins:
        for name, count in objective.counts(pack([groups[i] for i in indices], device="cpu")).items():
            counts[name] = counts.get(name, 0.0) + float(count)
    empty = sorted(name for name, count in counts.items() if not count > 0)
    if empty:
        raise RunError(f"nothing in this step counts for the loss term {empty[0]}", got="count 0", expected="above 0")
    return counts


def _enable_recomputation(module: nn.Module) -> None:
    """Activation checkpointing of the transformers model inside."""
    model: Any = getattr(module, "hf", module)
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.20
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
