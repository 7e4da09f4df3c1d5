"""Instruction tuning: maximum likelihood of the completions, given their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assent.config.stages import SftConfig
from assent.engine.learner import Learner
from assent.models.batch import GroupBatch, Outputs
from assent.runs.log import Progress
from assent.stages.gate import Gate, check_batch_mates, check_loss_tokens, check_positions, groups_to_read, precision_of
from assent.stages.held_out import held_out_metrics
from assent.stages.result import StageResult
from assent.stages.scoring import ObjectiveSums
from assent.stages.selecting import demonstrations_of
from assent.stages.session import Session, open_session
from assent.stages.stage_data import read_stage_data
from assent.types import PromptGroup


class SftObjective:
    """−log π(y|x) per counted token, averaged over the step's tokens; a row's `weight` weighs its tokens."""

    want = frozenset({"logprobs"})

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"nll": float(_token_weights(batch).sum())}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.logprobs is not None
        weighted = (outputs.logprobs.float() * _token_weights(batch)).sum()
        return {"nll": -weighted}, {}


def _token_weights(batch: GroupBatch) -> Tensor:
    """(N,) the weight of each counted token's row; 1 if the data has none."""
    if "weight" not in batch.value:
        return torch.ones(batch.num_counted, device=batch.targets.device)
    return batch.value["weight"][batch.group[batch.sequence]]


def train(
    config: SftConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent sft` does: data, model, run folder, training, the saved model."""
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=demonstrations_of(config.train_on),
        selection=f"demonstrations {config.train_on}",
        train_on=config.train_on,
    )
    with open_session(config, stage_data, command="sft", kind="policy", progress=progress) as session:
        return session.result or run(config, session)


def run(config: SftConfig, session: Session) -> StageResult:
    learner, objective = session.models.learner, SftObjective()
    session.validate_with(lambda: held_out_metrics(learner, session.eval_tokens, objective, intervals=True))
    session.resume()
    if session.step == 0:
        _gate(config, learner, session)
    for step in session.steps():
        session.log_step(step, learner.update(session.batch(step), objective))
    return session.finish()


def _gate(config: SftConfig, learner: Learner, session: Session) -> None:
    gate = Gate(session.log, precision=precision_of(config))
    first = groups_to_read(session.batch(0))
    outputs = learner.read(first, want={"logprobs"})
    assert outputs.logprobs is not None
    check_loss_tokens(gate, first, outputs.logprobs.shape[0])
    check_positions(gate, first)
    check_batch_mates(gate, learner, first, want="logprobs", together=outputs.logprobs)
    gate.done()
