"""RLHF: sample, score, train, repeat. One function runs all algorithms of config/algorithms.py.

There are three policies: the one in training, the one that sampled (for the ratio) and the reference (for the KL).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from assent.config.online import CriticOptions, OnlineOptions
from assent.config.rewards import ModelSource
from assent.engine.learner import Learner
from assent.engine.random import permutation
from assent.engine.references import Reader
from assent.engine.side_by_side import side_by_side
from assent.errors import RunError
from assent.models.batch import TokenGroup
from assent.models.loading import load_config, load_tokenizer
from assent.models.tokenizing import decode
from assent.objectives.kl import AdaptiveKLController
from assent.rewards.base import Scores, score_rollouts
from assent.rewards.reward_model import same_tokenizer
from assent.rewards.steps import step_ends
from assent.runs.log import Progress, RunLog
from assent.stages.gate import (
    GROUPS,
    Gate,
    check_batch_mates,
    check_positions,
    check_ratio,
    check_reward_batch_mates,
    check_tokens,
    precision_of,
    sampler_mismatch,
)
from assent.stages.online_checks import check_online
from assent.stages.online_objectives import PolicyObjective, SharedTrunkObjective, ValueObjective
from assent.stages.result import StageResult
from assent.stages.rollout_step import Round, build_round
from assent.stages.sampling import Clock, sample_round, sample_row, to_groups
from assent.stages.selecting import to_prompts
from assent.stages.session import Session, open_session
from assent.stages.stage_data import StageData, read_stage_data
from assent.types import PromptGroup, Rollout

K3 = "policy/approxkl_k3"


def train(
    config: OnlineOptions, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything an online command does: prompts, policy, critic, reference, reward, run folder, the saved policy."""
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data},
        select=to_prompts,
        max_new_tokens=config.max_new_tokens,
    )
    inputs = check_online(config, stage_data)
    opened = open_session(config, stage_data, command=config.command, kind="policy", inputs=inputs, progress=progress)
    with opened as session:
        return session.result or run(config, session)


def run(config: OnlineOptions, session: Session) -> StageResult:
    models, learner, log = session.models, session.models.learner, session.log
    reward = models.add_reward(config.reward)
    critic = _critic(config, session) if config.triple.value else None
    sampler = models.add_sampler()
    reference = models.add_reference(config.reference)
    path = config.potential
    potential = models.add_reference(path, name="potential", kind="scorer") if path else None
    controller = _controller(config)
    session.resume()
    controller.value = session.state.get("kl_coef", controller.value)
    if not session.step:
        _note_rounds(config, len(session.train_groups), log)
    for step in session.steps():
        clock = Clock()
        prompts = session.prompts(step)
        rollouts = sample_round(config, sampler, learner, session.batch(step), step=step)
        clock.lap("generate")
        with session.kept_on_failure("the reward"):
            scores = score_rollouts(reward, rollouts, prompts, may_abstain=True)
        clock.lap("score")
        if step == 0:
            gate = Gate(log, precision=precision_of(config))
            check_reward_batch_mates(gate, reward, rollouts, prompts, dtype=config.dtype)
            _gate(config, gate, learner, rollouts=rollouts, reference=reference)
            clock.lap("check")
        batch = build_round(
            config,
            rollouts,
            scores,
            reference=reference,
            critic=critic,
            potential=potential,
            trainer=learner if config.importance_sampling_cap is not None else None,
            kl_coef=controller.value,
            score_moments=session.state.get("score_moments", (0.0, 0.0, 0.0)),
            step_ends=None if scores.steps is None else _step_ends(rollouts, session.data),
            prompts=prompts,
        )
        clock.lap("score")
        few = to_groups(rollouts[: 4 * config.num_completions], config.num_completions)
        mismatch = sampler_mismatch(learner, few, config=config, step=step)
        clock.lap("check")
        objective = _objective(config, kl_coef=controller.value)
        own_critic = None if critic is learner else critic  # on a shared trunk the policy's update trains it
        metrics = _train_round(config, step, batch, objective, learner=learner, critic=own_critic)
        clock.lap("train")
        learned = step >= config.critic_warmup_steps  # before that, only the critic is trained
        if learned and isinstance(controller, AdaptiveKLController):
            controller.update(batch.kl_nats, len(rollouts))
        session.state |= {"kl_coef": controller.value, "score_moments": batch.score_moments}
        log.samples(step + 1, _sample_rows(prompts, rollouts, scores))
        found = {**batch.metrics, **scores.metrics(), **metrics, "rollout/logprob_mismatch": mismatch}
        found |= clock.metrics(rollouts)
        session.log_step(step, found, completions_sampled=len(rollouts), reward_calls=len(rollouts))
    models.check_unchanged(reference)
    return session.finish()


def _critic(config: OnlineOptions, session: Session) -> Learner:
    assert isinstance(config, CriticOptions)
    if config.trunk == "shared":
        return session.models.learner
    start = config.critic or _critic_start(config, session.data)
    return session.models.add_learner(
        "critic",
        start,
        kind="scorer",
        updates=config.num_updates(session.order.num_steps, learner="critic"),
        learning_rate=config.critic_learning_rate,
    )


def _critic_start(config: OnlineOptions, data: StageData) -> str:
    """The path of the critic's start: the reward model if it is the only source of reward, has one head and reads the
    policy's tokens; otherwise the policy, which gets a fresh head."""
    source, path = config.reward[0], config.reward[0].reward
    if len(config.reward) > 1 or not isinstance(source, ModelSource) or load_config(path).num_labels != 1:
        return config.model
    return path if same_tokenizer(load_tokenizer(path), data.tokenizer) else config.model


def _step_ends(rollouts: Sequence[Rollout], data: StageData) -> list[tuple[int, ...]]:
    """For each rollout, the index of the last token of each step."""
    return [step_ends(rollout.ids, rollout.text, lambda ids: decode(ids, data.tokenizer)) for rollout in rollouts]


def _note_rounds(config: OnlineOptions, num_prompts: int, log: RunLog) -> None:
    """Logs a note if some rounds have fewer prompts than batch_size."""
    if num_prompts < config.batch_size:
        log.note(
            f"batch_size is {config.batch_size}, but the data has {num_prompts} prompts: each round has all of them"
        )
    elif (last := num_prompts % config.batch_size) and config.total_steps * config.batch_size > num_prompts:
        log.note(f"batch_size does not divide {num_prompts} prompts: the last round of each pass has only {last}")


@dataclass(slots=True)
class _FixedKL:
    value: float


def _controller(config: OnlineOptions) -> AdaptiveKLController | _FixedKL:
    if config.kl_target is None:
        return _FixedKL(config.kl_coef)
    return AdaptiveKLController(config.kl_coef, config.kl_target, config.kl_horizon or 1000.0)


def _objective(config: OnlineOptions, *, kl_coef: float) -> PolicyObjective | SharedTrunkObjective:
    """The objective of the learner `model`: the policy's, together with the critic's on a shared trunk."""
    policy = PolicyObjective.of(config, kl_coef=kl_coef)
    if config.trunk != "shared":
        return policy
    assert isinstance(config, CriticOptions)
    return SharedTrunkObjective(policy=policy, value=ValueObjective.of(config), vf_coef=config.vf_coef)


def _train_round(
    config: OnlineOptions,
    step: int,
    batch: Round,
    policy_objective: PolicyObjective | SharedTrunkObjective,
    *,
    learner: Learner,
    critic: Learner | None,
) -> dict[str, float]:
    """Passes over the round `num_ppo_epochs` times, with `num_mini_batches` updates in each pass. `target_kl` ends the
    policy's updates early, but not the critic's. Returns the mean of the updates' metrics; for states, the last."""
    epochs, num_mini_batches = config.passes
    parts: list[list[TokenGroup]] = []
    for epoch in range(epochs):
        order = torch.tensor(permutation(len(batch.groups), config.seed, "minibatch", step, epoch))
        parts += [
            [batch.groups[i] for i in part.tolist()] for part in order.tensor_split(num_mini_batches) if len(part)
        ]
    target_kl = config.target_kl

    def policy_updates() -> Iterator[dict[str, float]]:
        for groups in parts:
            yield (update := learner.update(groups, policy_objective))
            if target_kl is not None and _distance(update) > target_kl:
                break

    def critic_updates(critic: Learner, objective: ValueObjective) -> Iterator[dict[str, float]]:
        for groups in parts:
            yield {f"critic/{name}": value for name, value in critic.update(groups, objective).items()}

    work: dict[nn.Module, Iterator[dict[str, float]]] = {}
    if step >= config.critic_warmup_steps:
        work[learner.module] = policy_updates()
    if critic is not None:
        work[critic.module] = critic_updates(critic, ValueObjective.of(config))
    updates = [update for found in side_by_side(learner.runtime, [*work], [*work.values()]) for update in found]
    totals: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.items():
            totals.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    states = {name: values[-1] for name, values in totals.items() if name.endswith(("num_tokens", "learning_rate"))}
    return {**means, **states, "policy/updates": float(len(totals.get("grad_norm", [])))}


def _distance(update: Mapping[str, float]) -> float:
    """Nats per token to the policy that sampled. RunError if a third party's objective does not report it."""
    if K3 not in update:
        raise RunError(
            "target_kl needs the distance to the policy that sampled, which the policy objective does not report",
            got=f"the metrics {', '.join(sorted(update))}",
            expected=f"a metric {K3}, for each token",
            fix="return this metric from the policy objective, or leave target_kl out",
        )
    return update[K3]


def _gate(
    config: OnlineOptions, gate: Gate, learner: Learner, *, rollouts: Sequence[Rollout], reference: Reader
) -> None:
    """Before the first update: ratio 1, KL 0, and log-probabilities that do not depend on batch mates."""
    rollouts = rollouts[: GROUPS * config.num_completions]
    groups = to_groups(rollouts, config.num_completions)
    check_positions(gate, groups)
    outputs = learner.read(groups, want={"logprobs"})
    assert outputs.logprobs is not None
    check_batch_mates(gate, learner, groups, want="logprobs", together=outputs.logprobs)
    check_ratio(gate, outputs.logprobs, rollouts)
    if config.reference is not None and reference.fingerprint() != learner.fingerprint():
        gate.skip("kl", reason="the reference is not the policy's start")
    else:
        under_reference = reference.read(groups, want={"logprobs"}).logprobs
        assert under_reference is not None
        check_tokens(
            gate,
            "kl",
            outputs.logprobs - under_reference,
            cause="the reference computes differently from the policy: dtype, attention, or adapters",
        )
    gate.done()


def _sample_rows(
    prompts: Sequence[PromptGroup], rollouts: Sequence[Rollout], scores: Scores
) -> list[dict[str, object]]:
    """Rows of `samples.jsonl`: the first, the best and the worst completion of the round."""
    scored = [i for i, gone in enumerate(scores.abstained) if not gone]
    shown = dict.fromkeys([0, max(scored, key=scores.__getitem__), min(scored, key=scores.__getitem__)])
    return [sample_row(prompts[rollouts[i].prompt_index], rollouts[i], scores.of(i)) for i in shown]
