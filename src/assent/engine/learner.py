"""One trainable model and its optimiser.

A step takes the gradient of

    loss = Σ_term (Σ over all micro-batches and processes of the term's sum) / (the term's count in the whole step)

so the update does not depend on how the step is cut (law 2).
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from assent.engine.balance import AUX, TERM, Balanced, choices_of
from assent.engine.micro_batches import (
    Budget,
    cost_of,
    free_memory,
    is_out_of_memory,
    padding_fraction,
    sharded_out_of_memory,
    share,
    smallest,
)
from assent.engine.optimiser import OptimiserSettings, learning_rate, make_adamw
from assent.engine.passes import Metrics, Terms, backward_at_once
from assent.engine.reading import read_bins, read_groups
from assent.engine.row_gradients import by_rows
from assent.engine.runtime import Runtime
from assent.engine.sharded_pass import collective_loss, guarded
from assent.engine.sums import Objective, Sums
from assent.engine.weights import fingerprint_of, load_weights, save_weights
from assent.engine.whole_step import groups_not_finite, looks_at_the_step, propagated
from assent.engine.wrapping import Result, full, whole, wrap
from assent.errors import ConfigError, NonFiniteError
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack
from assent.runs.files import write_json

STATE = "state.json"


class Learner:
    """Weights, optimiser, step, precision, clipping, activation checkpointing, processes.

    With several processes, each gets the same groups and takes its share. All of them return the same metrics.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        runtime: Runtime,
        optim: OptimiserSettings,
        total_steps: int,
        router_aux_loss_coef: float = 0.0,
    ) -> None:
        self.module = module
        self.router_aux_loss_coef = router_aux_loss_coef
        self.runtime, self.optim, self.total_steps = runtime, optim, total_steps
        self.budget = Budget.of(module, runtime, optim.micro_batch_tokens)
        self.cost = cost_of(module)
        self.step = 0
        """The number of updates so far."""
        self.num_tokens = 0
        """Tokens in all updates so far. A shared prompt counts once."""
        self.flops = 0.0
        """Model FLOPs of all reads and updates so far."""
        # Evaluation mode, so that no dropout is ever on (law 2).
        self.module.eval()
        if optim.gradient_checkpointing:
            _enable_recomputation(self.module)
        if optim.optim == "adamw_8bit" and runtime.is_sharded:
            raise ConfigError(
                "optim adamw_8bit cannot step sharded weights",
                fix="leave it out: each shard holds only a part of the state already",
            )
        self._called = wrap(self.module, runtime)
        self.optimiser = make_adamw(self.module, optim)
        self._passed: Sequence[TokenGroup] = ()
        """The groups of the last pass. If memory runs out, their micro-batches become smaller."""
        self._hands = 1
        """For how many passes at the same time they were cut."""
        self._matmul_rate = runtime.matmul_rate(next(module.parameters()).dtype)

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """Outputs in the order of `groups`, on the CPU in float32, the same on every process. No gradient."""
        self.flops += self.cost.forward(groups)
        return read_groups(self.module, groups, want=frozenset(want), runtime=self.runtime, budget=self.budget)

    def update(self, groups: Sequence[TokenGroup], objective: Objective) -> dict[str, float]:
        """One optimiser step on `groups`, all processes together. Returns the step's metrics.

        Raises NonFiniteError, which names rows and leaves weights and optimiser as they were (law 9), and
        OutOfMemoryError if a single group does not fit.
        """
        started = time.perf_counter()
        self.runtime.begins(f"update {self.step + 1} on {len(groups)} groups")
        # transformers recomputes activations only in training mode. AlignmentModel's dropouts are zero in it, too.
        self.module.train(self.optim.gradient_checkpointing)
        try:
            while (step := self._attempt(groups, objective)) is None:
                self._discard_gradients()
                free_memory(self.runtime.device)
                self.budget.halve(self._passed, hands=self._hands)
        finally:
            self.module.eval()
        self._check_losses(step, objective)
        grad_norm = self._clip(groups, objective)
        rate = learning_rate(self.step, self.total_steps, self.optim)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self._discard_gradients()
        tokens = sum(group.num_tokens for group in groups)
        self.step += 1
        self.num_tokens += tokens
        self.flops += step.flops
        seconds = time.perf_counter() - started
        return {
            **step.metrics,
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "num_tokens": float(self.num_tokens),
            "perf/tokens_per_second": tokens / seconds,
            "perf/step_seconds": seconds,
            "perf/mfu": step.flops / seconds / self._matmul_rate,
            "perf/padding_fraction": padding_fraction(self.module, groups, step.bins),
            "perf/micro_batches": float(step.num_micro_batches),
        }

    def save(self, folder: Path) -> None:
        """Saves weights, optimiser and step into `folder`, which exists. The main process writes, all must call it."""
        save_weights(folder, self.module, optimiser=self.optimiser, is_main=self.runtime.is_main)
        if self.runtime.is_main:
            state = {"step": self.step, "num_tokens": self.num_tokens, "flops": self.flops}
            write_json(folder / STATE, {**state, "budget": self.budget.state()})

    def load(self, folder: Path) -> None:
        """The inverse of `save`: the next update is bit for bit what it would have been without the break (law 7)."""
        load_weights(folder, self.module, optimiser=self.optimiser)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.step, self.num_tokens, self.flops = state["step"], state["num_tokens"], state["flops"]
        self.budget.restore(state["budget"])

    def whole(self, function: Callable[..., Result], *args: Any, **keywords: Any) -> Result:
        """`function(…)`, which calls parts of the module directly, as sampling does. All processes must call it."""
        return whole(self.module, function, *args, **keywords)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, 16 hex digits. All processes must call it."""
        return fingerprint_of(self.module)

    @property
    def fingerprint_step(self) -> str:
        """A cheap name for the weights within this run, for rollouts: only an update changes the weights."""
        return f"step-{self.step}"

    def _attempt(self, groups: Sequence[TokenGroup], objective: Objective) -> _Step | None:
        """Puts the gradients of the whole step into `.grad`. None if memory ran out on some process."""
        runtime, self._passed = self.runtime, groups
        looks_at_all = looks_at_the_step(objective)
        self._hands = hands = 1 if looks_at_all else self.budget.hands(self.module, runtime)
        bins = self.budget.bins(groups, hands=hands)
        in_one_pass = runtime.num_processes == 1 and len(bins) == 1
        if looks_at_all and not in_one_pass:
            self._hands = self.budget.hands(self.module, runtime)  # of the pass without gradient
            return self._attempt_whole(groups, bins, objective)
        if self.router_aux_loss_coef:
            balanced = self._balanced(groups, bins, objective, in_one_pass=in_one_pass)
            if balanced is None:
                return None
            objective = balanced
        # On the CPU: each process counts all micro-batches, and moves its own to the device one at a time.
        batches = [pack([groups[i] for i in indices], device="cpu") for indices in bins]
        sums = Sums.over(batches, objective)
        if hands > 1 and len(bins) > 1:
            return self._attempt_at_once(bins, batches, groups, objective, sums, hands=hands)
        mine = share(batches, rank=runtime.rank, num_processes=runtime.num_processes)
        not_finite = torch.zeros(len(bins))
        failed, beyond = False, ""
        for number, batch in enumerate(mine):
            if batch is None and not runtime.is_sharded:
                continue
            try:
                with by_rows(self.module, runtime), guarded(self.module) as guard:
                    loss = self._backward(batch, groups, objective, sums)
            except OverflowError as error:  # a loss with an exponential, beyond its range
                loss, beyond = math.nan, str(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if runtime.is_sharded:
                    raise sharded_out_of_memory(self.budget) from error
                failed = True
                break
            failed = failed or guard.failed
            if batch is not None:
                not_finite[number * runtime.num_processes + runtime.rank] = float(not math.isfinite(loss))
        # Flags are exchanged before gradients: no process waits in a reduction for one that has left its pass.
        flags = runtime.max(torch.cat([torch.tensor([float(failed)]), not_finite]))
        if flags[0]:
            return None
        flagged = [indices for indices, flag in zip(bins, flags[1:].tolist(), strict=True) if flag]
        suspects = [groups[i] for indices in flagged for i in indices]
        if runtime.num_processes > 1 and not runtime.is_sharded and not suspects:
            self._backward(None, groups, objective, sums, reduce=True)
        wide = torch.float32 if runtime.device.type == "mps" else torch.float64
        metrics = {} if suspects else sums.metrics(runtime.sum, wide=wide)
        return _Step(bins, metrics, suspects, len(mine), self.cost.update(groups), beyond)

    def _attempt_at_once(
        self,
        bins: Sequence[Sequence[int]],
        batches: Sequence[GroupBatch],
        groups: Sequence[TokenGroup],
        objective: Objective,
        sums: Sums,
        *,
        hands: int,
    ) -> _Step | None:
        """`_attempt` with several micro-batches at the same time, on a CPU."""
        try:
            with by_rows(self.module, self.runtime, into_grad=False):
                passed = backward_at_once(
                    self.module, batches, partial(self._loss, objective=objective, sums=sums), hands=hands
                )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        for one in passed:
            if not one.beyond:
                sums.add(one.terms, one.metrics)
        flagged = [indices for indices, one in zip(bins, passed, strict=True) if not math.isfinite(one.loss)]
        suspects = [groups[i] for indices in flagged for i in indices]
        metrics = {} if suspects else sums.metrics(self.runtime.sum)
        beyond = next((one.beyond for one in passed if one.beyond), "")
        return _Step(bins, metrics, suspects, len(bins), self.cost.update(groups), beyond)

    def _loss(
        self, batch: GroupBatch, objective: Objective, sums: Sums, *, called: nn.Module | None = None
    ) -> tuple[torch.Tensor, Terms, Metrics]:
        """One micro-batch's share of the loss, its terms and its metrics."""
        with self.runtime.autocast():
            outputs = (called or self.module)(batch, frozenset(objective.want))
        if not self.runtime.is_sharded:
            terms, metrics = objective(outputs, batch)
            return sums.loss(terms), terms, metrics
        # The backward pass is collective: every process goes through it, whatever its rows say.
        return collective_loss(lambda: objective(outputs, batch), outputs, sums)

    def _attempt_whole(
        self, groups: Sequence[TokenGroup], bins: Sequence[Sequence[int]], objective: Objective
    ) -> _Step | None:
        """`_attempt` for an objective that looks at the whole step: one pass without gradient, then one with."""
        want = frozenset(objective.want)
        outputs = read_bins(self.module, groups, bins, want=want, runtime=self.runtime, budget=self.budget)
        if outputs is None:
            return None
        self.flops += self.cost.forward(groups)
        if suspects := groups_not_finite(groups, outputs, want):
            return _Step(bins, suspects=suspects)
        try:
            keep = bool(self.router_aux_loss_coef)
            parts, propagation, metrics = propagated(groups, objective, outputs, keep=keep)
        except OverflowError as error:
            return _Step(bins, suspects=groups, beyond=str(error))
        step = self._attempt(parts, propagation)
        if step is None:
            return None
        if self.router_aux_loss_coef and not step.suspects:
            metrics |= {name: step.metrics[name] for name in AUX}
            metrics["loss"] += metrics[f"loss/{TERM}"]
        return replace(step, bins=bins, metrics=metrics, suspects=groups if step.suspects else ())

    def _balanced(
        self, groups: Sequence[TokenGroup], bins: Sequence[Sequence[int]], objective: Objective, *, in_one_pass: bool
    ) -> Balanced | None:
        """The objective with the load-balancing loss, for which the whole step's choices of experts are counted first.
        None if memory ran out on some process."""
        if in_one_pass:
            return Balanced(objective, self.router_aux_loss_coef)
        counted = choices_of(self.module, groups, bins, runtime=self.runtime, budget=self.budget)
        if counted is None:
            return None
        self.flops += self.cost.forward(groups)
        return Balanced(objective, self.router_aux_loss_coef, *counted)

    def _backward(
        self,
        batch: GroupBatch | None,
        groups: Sequence[TokenGroup],
        objective: Objective,
        sums: Sums,
        *,
        reduce: bool = False,
    ) -> float:
        """Adds one micro-batch's gradient and returns its share of the loss.

        None is an empty micro-batch: the smallest of the groups takes its place with weight zero. It takes part in
        collective operations (sharded passes; DDP's reduction, if `reduce`) and names the metrics, and adds nothing.
        """
        weight = 0.0 if batch is None else 1.0
        if batch is None:
            batch = pack([smallest(groups)], device="cpu")
        batch = batch.to(self.runtime.device)
        # DDP synchronises in forward passes, too, when it rebuilds its buckets. But processes may differ in the number
        # of their micro-batches, or leave one early. So each calls the wrapper once, after all its micro-batches.
        called = self._called if reduce else self.module
        total, terms, metrics = self._loss(batch, objective, sums, called=called)
        if total.requires_grad:  # it does not if no token counts
            # DDP and FSDP average over processes; the denominators are global already.
            (total * (weight * self.runtime.num_processes)).backward()
        sums.add(terms, metrics, weight=weight)
        return float(total.detach()) * weight

    def _check_losses(self, step: _Step, objective: Objective) -> None:
        if not step.suspects:
            return
        self._discard_gradients()
        raise self._not_finite("the loss", step.suspects, objective, beyond=step.beyond)

    def _clip(self, groups: Sequence[TokenGroup], objective: Objective) -> float:
        """Scales gradients down to max_grad_norm and returns the norm they had."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = float(full(nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm)))
        if not math.isfinite(norm):
            self._discard_gradients()
            raise self._not_finite("the gradient", groups, objective)
        return norm

    def _not_finite(
        self, what: str, suspects: Sequence[TokenGroup], objective: Objective, *, beyond: str = ""
    ) -> NonFiniteError:
        """Names the rows. With one process, each suspect is tried alone; otherwise all of its micro-batch are named."""
        guilty = list(suspects)
        if self.runtime.num_processes == 1:
            guilty = [group for group in suspects if not self._is_finite_alone(group, objective)] or guilty
        names = [group.source or "a row without a source" for group in guilty]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return NonFiniteError(
            f"{what} of step {self.step + 1} is not finite; weights and optimiser are as before the step",
            got=f"{beyond or 'NaN or Inf'}, with {', '.join(names[:8])}{more}",
            fix="look at these rows; if they are fine, lower the learning rate or compute in float32",
        )

    def _is_finite_alone(self, group: TokenGroup, objective: Objective) -> bool:
        """Whether loss and gradients are finite when this group is alone in a pass."""
        try:
            loss = self._backward(pack([group], device="cpu"), [group], objective, Sums(defaultdict(lambda: 1.0)))
            grads = [p.grad for p in self.module.parameters() if p.grad is not None]
            return math.isfinite(loss) and all(bool(torch.isfinite(grad).all()) for grad in grads)
        except OverflowError:
            return False
        finally:
            self._discard_gradients()

    def _discard_gradients(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)


@dataclass(frozen=True, slots=True)
class _Step:
    """The result of one step's passes.

    bins       the micro-batches of the step's groups
    suspects   groups (of any process) among which the loss is not finite
    beyond     the message of a loss that was asked beyond its range
    """

    bins: Sequence[Sequence[int]]
    metrics: Mapping[str, float] = field(default_factory=dict)
    suspects: Sequence[TokenGroup] = ()
    num_micro_batches: int = 0
    flops: float = 0.0
    beyond: str = ""


def _enable_recomputation(module: nn.Module) -> None:
    """Turns on activation checkpointing in the transformers model inside."""
    model: Any = getattr(module, "hf", module)
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.20
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
