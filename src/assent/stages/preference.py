"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290, eq. 7) and the losses registered beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assent.config.losses import PREFERENCE_LOSSES
from assent.config.stages import PreferenceConfig
from assent.engine.learner import Learner
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack
from assent.objectives.preference import preference_loss
from assent.runs.log import Progress, RunLog
from assent.stages.gate import (
    Gate,
    check_batch_mates,
    check_log_ratios,
    check_loss_tokens,
    check_positions,
    precision_of,
)
from assent.stages.held_out import held_out_metrics
from assent.stages.result import StageResult
from assent.stages.reward import pair_weights
from assent.stages.selecting import to_comparisons
from assent.stages.session import Session, open_session
from assent.stages.text import read_text
from assent.types import PromptGroup

REFERENCE = "reference_logps"


class PreferenceObjective:
    """A registered loss of the completions' summed log-probabilities, averaged over the step's comparisons."""

    want = frozenset({"logprobs"})

    def __init__(self, loss_type: str, **hyperparameters: Any) -> None:
        self.loss_type, self.hyperparameters = loss_type, hyperparameters

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {self.loss_type: float(pair_weights(batch).sum())}

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.logprobs is not None
        chosen, rejected = batch.sum_by_completion(outputs.logprobs).view(-1, 2).unbind(1)
        reference_chosen, reference_rejected = batch.completion[REFERENCE].view(-1, 2).unbind(1)
        losses, metrics = preference_loss(
            self.loss_type,
            chosen=chosen,
            rejected=rejected,
            reference_chosen=reference_chosen,
            reference_rejected=reference_rejected,
            margin=batch.value.get("margin"),
            chosen_probability=batch.value.get("chosen_probability"),
            **self.hyperparameters,
        )
        count = chosen.new_tensor(float(batch.num_groups))
        sums = {name: (values.sum(), count) for name, values in metrics.items()}
        return {self.loss_type: (losses * pair_weights(batch)).sum()}, sums


def train(
    config: PreferenceConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent dpo` does: data, model, reference, run folder, training, the saved model."""
    text = read_text(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=to_comparisons,
    )
    with open_session(config, text, command="dpo", kind="policy", progress=progress) as session:
        return session.result or run(config, session.learner, session, session.log)


def run(config: PreferenceConfig, learner: Learner, data: Session, log: RunLog) -> StageResult:
    objective = PreferenceObjective(config.loss_type, beta=config.beta)
    train_logps, eval_logps = data.reference_logps(config.reference, data.train_tokens, data.eval_tokens)
    data.train_tokens = with_reference(data.train_tokens, train_logps)
    data.eval_tokens = with_reference(data.eval_tokens, eval_logps)
    data.validate_with(
        lambda: held_out_metrics(learner, data.eval_tokens, objective, intervals=True), reference=config.reference
    )
    data.resume()
    if data.step == 0:
        _gate(config, learner, data, log)
    for step in data.steps():
        data.log_step(step, learner.update(data.batch(step), objective))
    data.check_same("reference_logps", digest(train_logps), digest(torch.from_numpy(_stored(data.train_tokens))))
    return data.finish()


def digest(values: Tensor) -> str:
    """SHA-256 of the numbers' bytes, 16 hex digits."""
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:16]


def _stored(groups: Sequence[TokenGroup]) -> np.ndarray:
    return np.concatenate([group.completion[REFERENCE] for group in groups])


def with_reference(groups: Sequence[TokenGroup], logps: Tensor) -> list[TokenGroup]:
    """Groups that carry the reference's summed log-probabilities, (S,) in the groups' order."""
    result, start = [], 0
    for group in groups:
        end = start + len(group.completions)
        result.append(replace(group, completion={**group.completion, REFERENCE: logps[start:end].numpy()}))
        start = end
    return result


def _gate(config: PreferenceConfig, learner: Learner, data: Session, log: RunLog) -> None:
    gate = Gate(log, precision=precision_of(config))
    first = data.batch(0)
    outputs = learner.read(first, want={"logprobs"})
    assert outputs.logprobs is not None
    check_loss_tokens(gate, first, outputs.logprobs.shape[0])
    check_positions(gate, first)
    check_batch_mates(gate, learner, first, want="logprobs")
    if config.reference is not None:
        gate.skip("loss_at_zero_margin", reason="the reference is not the policy's start")
        return gate.done()
    batch = pack(first, device="cpu")
    tolerance = check_log_ratios(gate, outputs.logprobs, batch.completion[REFERENCE], batch)
    if any(name in group.value for group in first for name in ("chosen_probability", "margin")):
        gate.skip("loss_at_zero_margin", reason="the data gives soft labels or margins of its own")
        return gate.done()
    metrics = held_out_metrics(learner, first, PreferenceObjective(config.loss_type, beta=config.beta), prefix="")
    gate.check(
        "loss_at_zero_margin",
        metrics["loss"],
        expected=PREFERENCE_LOSSES[config.loss_type].zero_margin_value(beta=config.beta),
        tolerance=2 * config.beta * tolerance,  # both sums of a pair may be off
        cause="the loss is not the one that its declaration describes, or weights and signs are applied wrongly",
    )
    gate.done()
