"""Reward models from comparisons (Bradley and Terry 1952; Ouyang et al., arXiv:2203.02155, eq. 1), rankings, ratings,
thumbs and steps (Lightman et al., arXiv:2305.20050), with the losses of `objectives/ranking.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from assent.config.losses import RANKING_LOSSES, reward_loss_declaration
from assent.config.stages import RewardConfig
from assent.engine.learner import Learner
from assent.errors import RunError
from assent.models.batch import Outputs, TokenGroup
from assent.models.loading import check_single_model
from assent.models.packing import pack
from assent.models.tiers import score_head
from assent.runs.log import Progress, RunLog
from assent.stages.gate import Gate, check_batch_mates, check_positions, groups_to_read, precision_of
from assent.stages.held_out import held_out_metrics
from assent.stages.result import StageResult
from assent.stages.run_models import module_of
from assent.stages.scoring import (
    Members,
    RankingObjective,
    ScoreObjective,
    pair_weights,
    with_bootstrap,
    with_step_targets,
)
from assent.stages.selecting import Select, rankings_for, to_completions, to_labelled
from assent.stages.session import Session, open_session
from assent.stages.stage_data import read_stage_data
from assent.types import PromptGroup

BLOCK_ROWS = 4096
"""Rows read at a time to normalise scores."""


def train(
    config: RewardConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent reward` does: data, model, run folder, training, the saved model."""
    check_single_model(config.model, revision=config.revision)
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=select_for(config),
        selection=f"{config.score_loss} {[entry.name for entry in config.entries]}",
    )
    if config.normalize_data is not None:
        sources: dict[str, str | Sequence[PromptGroup] | None] = {"normalize": config.normalize_data}
        whole = config.model_copy(update={"eval_fraction": None})
        stage_data.parts |= read_stage_data(whole, model=config.model, sources=sources, select=to_completions).parts
    with open_session(config, stage_data, command="reward", kind="scorer", progress=progress) as session:
        return session.result or run(config, session)


def run(config: RewardConfig, session: Session) -> StageResult:
    models = session.models
    learner = Members(models.members) if config.num_adapters > 1 else models.learner
    objective = objective_of(config)
    if config.supervision == "process":
        session.train_tokens = [with_step_targets(group) for group in session.train_tokens]
        session.eval_tokens = [with_step_targets(group) for group in session.eval_tokens]
    if config.num_heads > 1:
        module_of(models.learner).config.assent_ensemble_size = config.num_heads
    session.validate_with(lambda: held_out_metrics(learner, session.eval_tokens, objective, intervals=True))
    session.resume()
    if session.step == 0:
        _gate(config, learner, session)
    if config.bootstrap:
        session.train_tokens = with_bootstrap(session.train_tokens, members=config.num_members, seed=config.seed)
    for step in session.steps():
        session.log_step(step, learner.update(session.batch(step), objective))
    return session.finish(partial(_normalise, config, session) if config.normalize_rewards else None)


def objective_of(config: RewardConfig) -> RankingObjective | ScoreObjective:
    if config.score_loss is not None:
        return ScoreObjective(config.score_loss, process=config.supervision == "process")
    return RankingObjective(*config.entries, centring=config.center_rewards_coefficient)


def select_for(config: RewardConfig) -> Select:
    if config.score_loss is not None:
        return partial(to_labelled, loss=config.score_loss, process=config.supervision == "process")
    accepts = [RANKING_LOSSES[entry.name].accepts for entry in config.entries]
    # Every loss of a sum must be able to read the row, so all must take more than two completions. One loss that uses a
    # margin is enough. All must use a soft label: a loss that ignores it would take the order as certain.
    usable = frozenset.union(*accepts) - {"many", "chosen_probability"} | frozenset.intersection(*accepts)
    return partial(rankings_for, loss=" + ".join(entry.name for entry in config.entries), accepts=usable)


def _normalise(config: RewardConfig, session: Session) -> None:
    groups = session.data.parts["train" if config.normalize_data is None else "normalize"].tokens
    for learner in session.models.members:
        normalise(learner, groups, session.log)


def normalise(learner: Learner, groups: Sequence[TokenGroup], log: RunLog) -> None:
    """Gives each head's scores mean 0 and standard deviation 1 over the groups' completions (law 10).

    The gain is multiplied into the head. The bias goes to the model's config, and all of Assent adds it to the scores.
    RunError if a head gives every completion the same score.
    """
    blocks = (groups[at : at + BLOCK_ROWS] for at in range(0, len(groups), BLOCK_ROWS))
    read = [learner.read(block, want={"scores"}).scores for block in blocks]
    scores = torch.cat([part for part in read if part is not None])
    scores = scores.double().view(len(scores), -1)
    mean, deviation = scores.mean(0), scores.std(0, correction=0)
    if not bool((deviation > 0).all()):
        raise RunError(
            "the rewards cannot be normalised: a head gives every completion the same score",
            got=f"{len(scores)} completions, standard deviations {', '.join(f'{d:.3g}' for d in deviation.tolist())}",
            expected="scores that differ",
            fix="train for longer, or give --normalize-data with more varied completions",
        )
    model = module_of(learner)
    head = score_head(model.base)
    assert isinstance(head.weight, nn.Parameter)
    with torch.no_grad():
        head.weight.mul_((1 / deviation)[:, None].to(head.weight))
    before: Tensor = torch.as_tensor(getattr(model.config, "assent_score_bias", 0.0), dtype=torch.float64)
    bias = ((before - mean) / deviation).tolist()
    model.config.assent_score_bias = bias[0] if len(bias) == 1 else bias
    log.note(f"rewards normalised on {len(scores)} completions: the mean was {mean.tolist()}, the standard "
             f"deviation {deviation.tolist()}")  # fmt: skip


def _gate(config: RewardConfig, learner: Learner | Members, session: Session) -> None:
    gate = Gate(session.log, precision=precision_of(config))
    first = session.batch(0)
    _check_equal_scores(gate, config, first)
    check_positions(gate, first)
    some = groups_to_read(first)
    scores = learner.read(some, want={"scores"}).scores
    assert scores is not None
    check_batch_mates(gate, learner, some, want="scores", together=scores)
    gate.done()


def _check_equal_scores(gate: Gate, config: RewardConfig, groups: Sequence[TokenGroup]) -> None:
    """At equal scores the loss has its declared value. It is computed on zeros, because the head's margins are not."""
    name = "loss_at_zero_margin"
    batch = pack(groups, device="cpu")
    ranks = batch.completion.get("rank")
    if config.score_loss == "mse":
        return gate.skip(name, reason="the value of a regression loss depends on the labels")
    if any(column in batch.value for column in ("chosen_probability", "margin")):
        return gate.skip(name, reason="the data has soft labels or margins")
    if ranks is not None and any(
        len(set(group.completion["rank"].tolist())) < len(group.completions) for group in groups
    ):
        return gate.skip(name, reason="the first batch has ties")
    objective = objective_of(config)
    shape = {"scores": batch.num_completions, "values": batch.num_counted, "last_values": batch.num_completions}
    zeros = {want: torch.zeros(shape[want], config.num_heads) for want in objective.want}
    sums, _ = objective(Outputs(**zeros), batch)
    weights, expected = pair_weights(batch).tolist(), 0.0
    for entry in config.entries:
        at_zero = partial(reward_loss_declaration(entry.name).zero_margin_value, **entry.hyperparameters)
        values = [at_zero(num_completions=len(group.completions)) for group in groups]
        expected += entry.weight * sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    counts = objective.counts(batch)
    gate.check(
        name,
        sum(float(total) / counts[term] for term, total in sums.items()),
        expected=expected,
        tolerance=1e-5 * max(1.0, expected),
        cause="the loss is not the one that its declaration describes, or weights and signs are applied wrongly",
    )
