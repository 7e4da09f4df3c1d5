"""A reward model from comparisons (Bradley and Terry 1952; Ouyang et al., arXiv:2203.02155, eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from assent.config.stages import RewardConfig
from assent.engine.learner import Learner
from assent.models.batch import GroupBatch, Outputs
from assent.objectives.ranking import bradley_terry
from assent.runs.log import Progress, RunLog
from assent.stages.gate import Gate, check_batch_mates, check_positions, precision_of
from assent.stages.held_out import held_out_metrics
from assent.stages.result import StageResult
from assent.stages.selecting import to_comparisons
from assent.stages.session import Session, open_session
from assent.stages.text import read_text
from assent.types import PromptGroup


class RewardObjective:
    """−log σ(r_chosen − r_rejected − margin) per comparison, averaged over the step; weights as given."""

    want = frozenset({"scores"})

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"bradley_terry": float(pair_weights(batch).sum())}

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.scores is not None
        chosen, rejected = outputs.scores.float().view(-1, 2).unbind(1)
        losses = bradley_terry(
            chosen,
            rejected,
            margin=batch.value.get("margin"),
            chosen_probability=batch.value.get("chosen_probability"),
        )
        with torch.no_grad():
            count = chosen.new_tensor(float(chosen.shape[0]))
            right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
            metrics = {
                "accuracy": (right.sum(), count),
                "margin": ((chosen - rejected).sum(), count),
                "mean_reward": (outputs.scores.float().sum(), 2 * count),
            }
        return {"bradley_terry": (losses * pair_weights(batch)).sum()}, metrics


def pair_weights(batch: GroupBatch) -> Tensor:
    """(G,) the comparisons' weights; 1 where the data gives none."""
    if "weight" in batch.value:
        return batch.value["weight"]
    return torch.ones(batch.num_groups, device=batch.input_ids.device)


def train(
    config: RewardConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent reward` does: data, model, run folder, training, the saved model."""
    text = read_text(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=to_comparisons,
    )
    with open_session(config, text, command="reward", kind="scorer", progress=progress) as session:
        return session.result or run(config, session.learner, session, session.log)


def run(config: RewardConfig, learner: Learner, data: Session, log: RunLog) -> StageResult:
    objective = RewardObjective()
    data.validate_with(lambda: held_out_metrics(learner, data.eval_tokens, objective, intervals=True))
    data.resume()
    if data.step == 0:
        gate = Gate(log, precision=precision_of(config))
        gate.skip("loss_at_zero_margin", reason="a fresh or loaded head gives margins of its own")
        check_positions(gate, data.batch(0))
        check_batch_mates(gate, learner, data.batch(0), want="scores")
        gate.done()
    for step in data.steps():
        data.log_step(step, learner.update(data.batch(step), objective))
    return data.finish()
