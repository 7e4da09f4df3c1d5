"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290, eq. 7) and its family, on pairs or rankings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from assent.config.loss_options import LOGGED, LossEntry
from assent.config.stages import PreferenceConfig
from assent.engine.learner import Learner
from assent.errors import DataError
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack
from assent.models.token_store import value_names
from assent.objectives.preference import preference_loss
from assent.objectives.ranking import ranking_loss
from assent.runs.log import Progress
from assent.stages.gate import Gate, check_log_ratios, check_policy, groups_to_read, precision_of
from assent.stages.held_out import held_out_metrics
from assent.stages.references import REFERENCE, check_reference, open_reference
from assent.stages.result import StageResult
from assent.stages.scoring import ObjectiveSums, pair_weights
from assent.stages.selecting import Select, only_logged, to_comparisons, to_rankings, without_logged
from assent.stages.session import Session, open_session
from assent.stages.stage_data import StageData, read_stage_data
from assent.types import PromptGroup

COLUMNS = ("margin", "chosen_probability")
COMPARED = ("rewards/margins", "rewards/accuracies")
"""Metrics that count only groups with an order."""
Computed = tuple[Tensor, Mapping[str, Tensor], Tensor]
"""Values (G,), metrics (G,), and (G,) 1 for each group that has an order, 0 for a tied pair."""


class PreferenceObjective:
    """The weighted sum of registered losses of the completions' summed log-probabilities, averaged over the step.

    The best completion comes first in each group. Metrics are those of the first loss.
    """

    want = frozenset({"logprobs"})

    def __init__(self, losses: Sequence[LossEntry]) -> None:
        self.losses = list(losses)
        self.declared = {entry.name: entry.declaration for entry in losses}
        self.needs_reference = any(declared.needs_reference for declared in self.declared.values())
        self.scope = "step" if any(declared.scope == "step" for declared in self.declared.values()) else "row"

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {entry.name: float(pair_weights(batch).sum()) for entry in self.losses}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.logprobs is not None
        logps = batch.sum_by_completion(outputs.logprobs)
        return self.of_sums(logps, batch)

    def of_sums(self, logps: Tensor, batch: GroupBatch) -> ObjectiveSums:
        """The same as a call, from each completion's summed log-probability, (S,)."""
        sums: dict[str, Tensor] = {}
        means: dict[str, tuple[Tensor, Tensor]] = {}
        for entry in self.losses:
            compute = self._ranking if entry.is_ranking else self._pairs
            values, metrics, is_ordered = compute(entry, logps, batch)
            sums[entry.name] = entry.weight * (values * pair_weights(batch)).sum()
            every = torch.ones_like(is_ordered)
            counted = {name: is_ordered if name in COMPARED else every for name in metrics}
            means = means or {name: ((metrics[name] * of).sum(), of.sum()) for name, of in counted.items()}
        return sums, means

    def _pairs(self, entry: LossEntry, logps: Tensor, batch: GroupBatch) -> Computed:
        declared = self.declared[entry.name]
        fields: dict[str, Any] = {
            name: batch.value[name] for name in COLUMNS if name in batch.value and name in declared.accepts
        }
        if declared.needs_reference:
            fields |= _halves(batch.completion[REFERENCE], "reference_chosen", "reference_rejected")
        if declared.uses_lengths:
            lengths = torch.bincount(batch.sequence, minlength=batch.num_completions).to(logps)
            fields |= _halves(lengths, "chosen_lengths", "rejected_lengths")
        fields |= {**_halves(logps, "chosen", "rejected"), **entry.hyperparameters}
        values, metrics = preference_loss(entry.name, **fields)
        return values, metrics, torch.ones_like(values)

    def _ranking(self, entry: LossEntry, logps: Tensor, batch: GroupBatch) -> Computed:
        """Ranks completions by their implicit rewards (arXiv:2305.18290, appendix A.3)."""
        hyperparameters: dict[str, Any] = dict(entry.hyperparameters)
        rewards = hyperparameters.pop("beta") * (logps - batch.completion[REFERENCE])
        values, measured = ranking_loss(
            entry.name, scores=rewards, ranks=batch.completion["rank"], group=batch.group, **hyperparameters
        )
        is_last = torch.ones_like(batch.group, dtype=torch.bool)
        is_last[:-1] = batch.group[1:] != batch.group[:-1]
        best, worst = is_last.roll(1), is_last  # groups follow one another
        metrics = {
            "rewards/chosen": rewards[best],
            "rewards/rejected": rewards[worst],
            "rewards/margins": rewards[best] - rewards[worst],
            "rewards/accuracies": measured["accuracy"],
            "logps/chosen": logps[best],
            "logps/rejected": logps[worst],
        }
        return values, {name: value.detach() for name, value in metrics.items()}, measured["ordered"]


def _halves(values: Tensor, first: str, second: str) -> dict[str, Tensor]:
    """Splits (2B,) values of pairs into two of (B,)."""
    one, other = values.view(-1, 2).unbind(1)
    return {first: one, second: other}


def train(
    config: PreferenceConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent dpo` does: data, model, reference, run folder, training, the saved model."""
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=select_for(config),
        selection=f"{[entry.name for entry in config.entries]} {config.reference == LOGGED}",
    )
    check_reference(config, stage_data)
    _check_columns(config, stage_data)
    with open_session(config, stage_data, command="dpo", kind="policy", progress=progress) as session:
        return session.result or run(config, session)


def select_for(config: PreferenceConfig) -> Select:
    """Keeps pairs, or rankings if all losses are losses of rankings. Keeps ties if all losses can use them."""
    entries = config.entries
    ties = all(entry.is_ranking and "tied" in entry.declaration.accepts for entry in entries)
    select = partial(to_rankings if all(entry.is_ranking for entry in entries) else to_comparisons, ties=ties)
    return only_logged(select) if config.reference == LOGGED else without_logged(select)


def _check_columns(config: PreferenceConfig, data: StageData) -> None:
    """DataError for a column of numbers that the losses cannot use.

    One loss that reads a margin is enough, because a margin only adds to the order. All losses must read a soft label,
    because it says how certain the order is; a loss that ignores it would take the order as certain.
    """
    names = ", ".join(entry.name for entry in config.entries)
    accepts = [entry.declaration.accepts for entry in config.entries]
    used = frozenset.union(*accepts) - {"chosen_probability"} | frozenset.intersection(*accepts)
    sorts = any(not entry.declaration.row_weights for entry in config.entries)
    for part in data.parts.values():
        names_there, weighted = value_names(part.tokens)
        idle = names_there.intersection(COLUMNS) - used
        if sorts and weighted:
            idle.add("weight")
        if idle:
            raise DataError(
                f"the {part.name} data has a column that the loss cannot use",
                got=f"{min(idle)}, with loss {names}",
                expected="only columns that the loss uses",
                fix="drop the column, or choose a loss that uses it: docs/papers.md says which do",
            )


def run(config: PreferenceConfig, session: Session) -> StageResult:
    learner = session.models.learner
    objective = PreferenceObjective(config.entries)
    reference = open_reference(config, session, needed=objective.needs_reference)
    session.validate_with(
        lambda: held_out_metrics(learner, reference.read(session.eval_tokens), objective, intervals=True),
        reference=reference.path,
    )
    session.resume()
    if session.step == 0:
        gate = Gate(session.log, precision=precision_of(config))
        first = reference.read(groups_to_read(session.batch(0)))
        check_start(gate, learner, first, objective, origin=reference.origin)
        gate.done()
    for step in session.steps():
        metrics = learner.update(reference.read(session.batch(step)), objective)
        reference.follow(step + 1)
        session.log_step(step, metrics)
    reference.finish()
    return session.finish()


def check_start(
    gate: Gate, learner: Learner, first: Sequence[TokenGroup], objective: PreferenceObjective, *, origin: str
) -> None:
    """The gate (law 5) on groups of the first step, which hold the reference's sums. `origin` is its."""
    logprobs = check_policy(gate, learner, first)
    if origin == "none":
        gate.skip("loss_at_zero_margin", reason="the loss takes no reference, so its margins are not zero at the start")
    elif origin != "start":
        gate.skip("loss_at_zero_margin", reason="the reference is not the policy's start")
    else:
        batch = pack(first, device="cpu")
        tolerance = check_log_ratios(gate, logprobs, batch.completion[REFERENCE], batch)
        check_zero_margin(gate, objective, logprobs, batch, tolerance)


def check_zero_margin(
    gate: Gate, objective: PreferenceObjective, logprobs: Tensor, batch: GroupBatch, tolerance: float
) -> None:
    """At zero log-ratios the loss has its declared value. Several losses with a reference have the weighted sum.

    tolerance: allowed error of a completion's sum, in nats. The gradient turns it into an allowed error of the loss.
    """
    if any(name in batch.value for name in COLUMNS):
        gate.skip("loss_at_zero_margin", reason="the data has soft labels or margins")
        return
    ranks = torch.stack([batch.group.float(), batch.completion.get("rank", torch.arange(batch.num_completions))])
    if ranks.unique(dim=1).shape[1] < batch.num_completions:
        gate.skip("loss_at_zero_margin", reason="the first batch has ties")
        return
    at_start = [entry for entry in objective.losses if objective.declared[entry.name].needs_reference]
    sums = batch.sum_by_completion(logprobs).requires_grad_()
    expected = sum(entry.weight * _declared_value(entry, sums.detach(), batch) for entry in at_start)
    if math.isnan(expected):
        gate.skip("loss_at_zero_margin", reason="a loss declares no finite value at zero margin")
        return
    terms, _ = PreferenceObjective(at_start).of_sums(sums, batch)
    counts = objective.counts(batch)
    loss = torch.stack([terms[name] / counts[name] for name in terms]).sum()
    (slope,) = torch.autograd.grad(loss, sums)
    gate.check(
        "loss_at_zero_margin",
        float(loss.detach()),
        expected=expected,
        tolerance=2 * tolerance * float(slope.abs().sum()) + 1e-5 * abs(expected),
        cause="the loss is not the one that its declaration describes, or weights and signs are applied wrongly",
    )


def _declared_value(entry: LossEntry, logps: Tensor, batch: GroupBatch) -> float:
    """The declared value of the loss if policy and reference agree, with its likelihood term; mean over groups."""
    declared, weights = entry.declaration, pair_weights(batch)
    hyperparameters: dict[str, Any] = dict(entry.hyperparameters)
    if entry.is_ranking:
        hyperparameters.pop("beta")
        sizes = torch.bincount(batch.group, minlength=batch.num_groups).tolist()
        values = torch.tensor([declared.zero_margin_value(num_completions=k, **hyperparameters) for k in sizes])
    else:
        lengths = torch.bincount(batch.sequence, minlength=batch.num_completions)
        nll = -(logps / lengths).view(-1, 2)[:, 0]
        values = declared.zero_margin_value(**hyperparameters) + declared.nll_weight(**hyperparameters) * nll
    return float((values * weights).sum() / weights.sum())
