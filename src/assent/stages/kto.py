"""KTO (Ethayarajh et al., arXiv:2402.01306): preference optimisation from thumbs, up or down, on single completions.

KTO measures a completion's value from a baseline, the policy's KL to the reference. The mean log-ratio of mismatched
completions estimates it: another row's completion under this row's prompt (eq. 8 and section 4.1). So each group holds
two completions that share the prompt: its own, and the mismatched one, which is read without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from assent.config.loss_options import LOGGED
from assent.config.losses import thumbs_loss_declaration
from assent.config.stages import KtoConfig
from assent.engine.learner import Learner
from assent.engine.random import permutation
from assent.errors import DataError
from assent.models.batch import GroupBatch, Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.objectives.thumbs import kto_baseline, thumbs_loss
from assent.runs.log import Progress
from assent.stages.gate import Gate, check_log_ratios, check_policy, groups_to_read, precision_of
from assent.stages.held_out import held_out_metrics
from assent.stages.references import REFERENCE, StageReference, check_reference, open_reference
from assent.stages.result import StageResult
from assent.stages.scoring import ObjectiveSums, pair_weights
from assent.stages.selecting import Select, only_logged, to_thumbs, without_logged
from assent.stages.session import Session, open_session
from assent.stages.stage_data import read_stage_data
from assent.types import PromptGroup


class KtoObjective:
    """A registered loss of thumbs, averaged over the step's rows."""

    want = frozenset({"logprobs"})

    def __init__(self, loss_type: str, **hyperparameters: float) -> None:
        self.loss_type, self.hyperparameters = loss_type, hyperparameters
        self.declared = thumbs_loss_declaration(loss_type)
        self.scope = self.declared.scope
        self.has_baseline = "kl_baseline" in self.declared.accepts
        """True if each group holds a mismatched completion after its own."""

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {self.loss_type: float(pair_weights(batch).sum())}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.logprobs is not None
        logps, reference = batch.sum_by_completion(outputs.logprobs), batch.completion[REFERENCE]
        every = 2 if self.has_baseline else 1
        baseline = kto_baseline(logps[1::2], reference[1::2]) if self.has_baseline else None
        values, vectors = thumbs_loss(
            self.loss_type,
            logprobs=logps[::every],
            reference_logprobs=reference[::every],
            desirable=batch.completion["thumb"][::every] > 0,
            kl_baseline=baseline,
            **self.hyperparameters,
        )
        one = logps.new_tensor(1.0)
        means = {name: (vector.sum(), one * vector.numel()) for name, vector in vectors.items()}
        if baseline is not None:
            means["kl_baseline"] = (baseline, one)
        chosen, rejected = vectors["rewards/chosen"], vectors["rewards/rejected"]
        if (
            self.scope == "step" and chosen.numel() and rejected.numel()
        ):  # a micro-batch's margin would not average to the step's
            means["rewards/margins"] = (chosen.mean() - rejected.mean(), one)
        return {self.loss_type: (values * pair_weights(batch)).sum()}, means


def with_mismatched(groups: Sequence[TokenGroup], *, max_length: int, seed: int) -> list[TokenGroup]:
    """Adds another row's completion to each group, cut so that it fits into `max_length` with the prompt.

    The other row is the next one with another prompt, in an order drawn from `seed`. It stays the same for the whole
    run, so the reference reads both completions at once. DataError if all prompts are the same.
    """
    order = permutation(len(groups), seed, "mismatched")
    result = list(groups)
    for place, i in enumerate(order):
        later = (groups[order[(place + k) % len(order)]] for k in range(1, len(order)))
        other = next((group for group in later if group.prompt_ids != groups[i].prompt_ids), None)
        if other is None:
            raise DataError(
                "KTO's baseline reads completions under other rows' prompts, but all rows have the same prompt",
                got=f"{len(groups)} rows",
                expected="at least two different prompts",
                fix="add rows with other prompts, or use --loss-type apo_zero_unpaired",
            )
        result[i] = _joined(groups[i], other.completions[0], max_length)
    return result


def _joined(group: TokenGroup, other: TokenCompletion, max_length: int) -> TokenGroup:
    room = max_length - len(group.prompt_ids)
    mask = None if other.mask is None else other.mask[:room]
    cut = TokenCompletion(other.ids[:room], mask, truncated=other.truncated or len(other.ids) > room, aside=True)
    fields = {name: np.append(values, np.nan) for name, values in group.completion.items()}
    return replace(group, completions=(*group.completions, cut), completion=fields)


def train(
    config: KtoConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent kto` does: data, model, reference, run folder, training, the saved model."""
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=select_for(config),
    )
    check_reference(config, stage_data)
    if "kl_baseline" in thumbs_loss_declaration(config.loss_type).accepts:
        for part in stage_data.parts.values():
            part.tokens = with_mismatched(part.tokens, max_length=config.max_length, seed=config.seed)
    with open_session(config, stage_data, command="kto", kind="policy", progress=progress) as session:
        return session.result or run(config, session)


def select_for(config: KtoConfig) -> Select:
    """Thumbs, and with `split_comparisons` the two completions of a comparison as one thumb each."""
    select = partial(to_thumbs, split_comparisons=config.split_comparisons)
    return only_logged(select) if config.reference == LOGGED else without_logged(select)


def run(config: KtoConfig, session: Session) -> StageResult:
    learner = session.models.learner
    objective = KtoObjective(config.loss_type, **config.hyperparameters)
    session.log.note(_balance(session.train_tokens))
    reference = open_reference(config, session, needed=True)
    session.validate_with(
        lambda: held_out_metrics(learner, reference.read(session.eval_tokens), objective, intervals=True),
        reference=reference.path,
    )
    session.resume()
    if session.step == 0:
        _gate(config, learner, session, objective, reference)
    for step in session.steps():
        metrics = learner.update(reference.read(session.batch(step)), objective)
        reference.follow(step + 1)
        session.log_step(step, metrics)
    reference.finish()
    return session.finish()


def _balance(groups: Sequence[TokenGroup]) -> str:
    up = sum(bool(group.completion["thumb"][0]) for group in groups)
    cut = sum(completion.truncated for group in groups for completion in group.completions[1:])
    cuts = f"; {cut} mismatched completions are cut to fit max_length" if cut else ""
    return f"thumbs: {up} up, {len(groups) - up} down{cuts}"


def _gate(
    config: KtoConfig,
    learner: Learner,
    session: Session,
    objective: KtoObjective,
    reference: StageReference,
) -> None:
    gate = Gate(session.log, precision=precision_of(config))
    first = reference.read(groups_to_read(session.batch(0)))
    logprobs = check_policy(gate, learner, first)
    if reference.origin != "start":
        gate.skip("loss_at_zero_margin", reason="the reference is not the policy's start")
        return gate.done()
    batch = pack(first, device="cpu")
    tolerance = check_log_ratios(gate, logprobs, batch.completion[REFERENCE], batch)
    weights, up = pair_weights(batch), batch.completion["thumb"][:: 2 if objective.has_baseline else 1] > 0
    fraction = float(weights[up].sum() / weights.sum())
    sums, _ = objective(Outputs(logprobs=logprobs), batch)
    largest = max(config.hyperparameters["desirable_weight"], config.hyperparameters["undesirable_weight"])
    gate.check(
        "loss_at_zero_margin",
        float(sums[config.loss_type] / weights.sum()),
        expected=objective.declared.zero_margin_value(**config.hyperparameters, desirable_fraction=fraction),
        tolerance=0.5 * largest * config.hyperparameters["beta"] * 2 * tolerance + 1e-6,  # sigma' <= 1/4, two sums
        cause="the loss is not the one that its declaration describes, or weights and signs are applied wrongly",
    )
    gate.done()
