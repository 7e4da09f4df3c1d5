"""RLHF: sample, score, train, repeat. One function for all algorithms of config/algorithms.py.

Three policies: the one in training, the one that sampled (ratio), the reference (KL).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from assent.config.functions import source_hash
from assent.config.online import CriticOptions, OnlineOptions
from assent.config.rewards import ImplicitSource, ModelSource
from assent.engine.learner import Learner
from assent.engine.random import permutation
from assent.engine.references import Reader
from assent.engine.runtime import Runtime
from assent.engine.side_by_side import side_by_side
from assent.errors import ConfigError, RunError
from assent.models.batch import TokenGroup
from assent.models.loading import check_context, is_classifier, load_config, load_tokenizer
from assent.models.one_trunk import check_base_is_plain, check_is_on
from assent.models.tokenizing import decode
from assent.objectives.kl import AdaptiveKLController
from assent.rewards.base import Reward, Scores
from assent.rewards.loading import check_contexts, check_reward, reward_hash
from assent.rewards.reward_model import check_reward_model, same_tokenizer
from assent.rewards.steps import step_ends
from assent.rollouts.opening import check_sampler
from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.runs.log import Progress, RunLog
from assent.stages.clock import Clock
from assent.stages.gate import (
    Gate,
    check_batch_mates,
    check_positions,
    check_reward_batch_mates,
    check_tokens,
    precision_of,
    sampler_mismatch,
)
from assent.stages.online_objectives import PolicyObjective, SharedTrunkObjective, ValueObjective
from assent.stages.references import check_reference, check_same_tokens
from assent.stages.result import StageResult
from assent.stages.rollout_step import Round, build_round, to_groups
from assent.stages.scores import score_round
from assent.stages.selecting import to_prompts
from assent.stages.session import Session, open_session
from assent.stages.stage_data import StageData, read_stage_data
from assent.types import PromptGroup, Rollout, Text

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
    check_reference(config, stage_data)
    if critic_start := getattr(config, "critic", None):
        check_same_tokens(critic_start, config, stage_data, what="the critic")
        _check_critic(critic_start, config)
    check_sampler(config)
    check_reward(config.reward, ensemble=config.reward_ensemble)
    check_contexts(config.reward, stage_data.tokenizer, config.max_length)
    _check_memory(config)
    _check_rounds(config, len(stage_data.train.tokens))
    inputs = {"reward": reward_hash(config.reward)}
    if modules := config.triple.modules:
        inputs["algorithm"] = source_hash(modules)
    if potential := getattr(config, "potential", None):
        _check_potential(potential, stage_data, config.max_length)
        inputs["potential"] = reward_hash(potential)
    with open_session(
        config, stage_data, command=config.command, kind="policy", inputs=inputs, progress=progress
    ) as session:
        if session.result:
            return session.result
        reward = session.reward(config.reward)
        critic = _critic(config, session) if config.triple.value else None
        return run(
            config, session.learner, session, session.log, sampler=session.sampler(), reward=reward, critic=critic
        )


def _check_rounds(config: OnlineOptions, num_prompts: int) -> None:
    """ConfigError where the last round of a pass over the prompts is too small for its updates: the learning rate's
    schedule counts on them."""
    _, num_mini_batches = config.passes
    reaches_last = config.total_steps * config.batch_size >= num_prompts
    smallest = (num_prompts - 1) % config.batch_size + 1 if reaches_last else config.batch_size
    if smallest < num_mini_batches:
        raise ConfigError(
            "the last round of a pass over the prompts has fewer of them than num_mini_batches",
            got=f"{num_prompts} prompts in rounds of {config.batch_size}: the last has {smallest}",
            expected=f"at least {num_mini_batches}",
            fix="lower --num-mini-batches, or choose a --batch-size that leaves more",
        )


def _note_rounds(config: OnlineOptions, num_prompts: int, log: RunLog) -> None:
    """Says where rounds have fewer prompts than asked for."""
    if num_prompts < config.batch_size:
        log.note(f"batch_size is {config.batch_size}, but each round has {num_prompts} prompts: there are no more")
    elif (last := num_prompts % config.batch_size) and config.total_steps * config.batch_size > num_prompts:
        log.note(f"batch_size does not divide {num_prompts} prompts: the last round of each pass has {last}")


def _check_memory(config: OnlineOptions) -> None:
    """What `--trunk one` and `--offload-frozen` ask of models and device, before anything is loaded."""
    sources = [leaf for source in config.reward for leaf in source.leaves()]
    frozen = {f"the reward {s.label}": s.reward for s in sources if isinstance(s, ModelSource | ImplicitSource)}
    if potential := getattr(config, "potential", None):
        frozen["the potential"] = potential
    if config.trunk == "one":
        check_base_is_plain(config.model, revision=config.revision)
        if implicit := [source.reward for source in sources if isinstance(source, ImplicitSource)]:
            raise ConfigError(
                "with trunk one no model has weights of its own, and an implicit reward is two such models",
                got=implicit[0],
                fix="leave --trunk out",
            )
        critic = getattr(config, "critic", None)
        for what, path in {**frozen, **({} if critic in (None, config.model) else {"the critic": critic})}.items():
            check_is_on(path, config.model, what=what, revision=config.revision)
    if config.offload_frozen:
        if (device := Runtime(config.device).device).type != "cuda":
            raise ConfigError("offload_frozen needs CUDA", got=f"device {device}", fix="leave it out")
        if config.lora_r and config.reference is None and not frozen:
            raise ConfigError(
                "offload_frozen has no effect: the reference is the policy with its adapter off, the rewards no models",
                fix="leave it out",
            )


def _check_critic(path: str, config: OnlineOptions) -> None:
    """ConfigError for a reward model with several heads or adapters: a critic has one."""
    found = load_config(path, revision=config.revision)
    if is_classifier(found) and found.num_labels != 1:
        raise ConfigError(f"the critic {path} has several heads", got=found.num_labels, expected="1")


def _check_potential(path: str, data: StageData, max_length: int) -> None:
    """It is read at the policy's tokens, by one head."""
    heads = check_reward_model(path)
    check_context(load_config(path), max_length, whose=f"the potential {path}")
    if heads != 1:
        raise ConfigError(f"potential {path} has several heads", got=heads, expected="1")
    if not same_tokenizer(load_tokenizer(path), data.tokenizer):
        raise ConfigError(
            f"potential {path} has another tokenizer than the policy, whose tokens it would read",
            fix="train a reward model that starts from the policy's model",
        )


def _critic(config: OnlineOptions, session: Session) -> Learner:
    assert isinstance(config, CriticOptions)
    if config.trunk == "shared":
        return session.learner
    start = config.critic or _critic_start(config, session.data)
    return session.add_learner("critic", start, kind="scorer", learning_rate=config.critic_learning_rate)


def _critic_start(config: OnlineOptions, data: StageData) -> str:
    """The reward model if it is all that scores, has one head and reads the policy's tokens, else the policy, with a
    fresh head."""
    source, path = config.reward[0], config.reward[0].reward
    if len(config.reward) > 1 or not isinstance(source, ModelSource) or load_config(path).num_labels != 1:
        return config.model
    return path if same_tokenizer(load_tokenizer(path), data.tokenizer) else config.model


def _step_ends(rollouts: Sequence[Rollout], data: StageData) -> list[tuple[int, ...]]:
    """The last token of each of a completion's steps, as the policy wrote them."""
    return [step_ends(rollout.ids, rollout.text, lambda ids: decode(ids, data.tokenizer)) for rollout in rollouts]


def run(
    config: OnlineOptions,
    learner: Learner,
    session: Session,
    log: RunLog,
    *,
    sampler: Sampler,
    reward: Reward,
    critic: Learner | None,
) -> StageResult:
    reference = session.reference_model(config.reference)
    path = getattr(config, "potential", None)
    potential = session.reference_model(path, name="potential", kind="scorer") if path else None
    controller = _controller(config)
    session.resume()
    controller.value = session.state.get("kl_coef", controller.value)
    if not session.step:
        _note_rounds(config, len(session.train_groups), log)
    params = SamplingParams(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    for step in session.steps():
        clock = Clock()
        indices = session.indices(step)
        sampler.load({}, learner.fingerprint_step)
        with session.runtime.autocast():  # in the arithmetic that the ratio is computed in
            rollouts = learner.whole(
                sampler.sample,
                [session.train_tokens[i].prompt_ids for i in indices],
                num_completions=config.num_completions,
                params=params,
                seed=SeedKey(config.seed, "rollout", step),
            )
        clock.lap("generate")
        prompts = [session.train_groups[i] for i in indices]
        scores = score_round(reward, rollouts, prompts, session=session)
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
        own_critic = None if critic is learner else critic  # on a shared trunk it is trained with the policy
        metrics = _train_round(config, step, batch, objective, learner=learner, critic=own_critic)
        clock.lap("train")
        learned = step >= getattr(config, "critic_warmup_steps", 0)  # before that, the policy stands still
        if learned and isinstance(controller, AdaptiveKLController):
            controller.update(batch.kl_nats, len(rollouts))
        session.state |= {"kl_coef": controller.value, "score_moments": batch.score_moments}
        log.samples(step + 1, _sample_rows(prompts, rollouts, scores))
        found = {**batch.metrics, **scores.metrics(), **metrics, "rollout/logprob_mismatch": mismatch}
        found |= clock.metrics(tokens=sum(len(rollout.ids) for rollout in rollouts))
        session.log_step(step, found, completions_sampled=len(rollouts), reward_calls=len(rollouts))
    session.check_unchanged(reference)
    return session.finish()


@dataclass(slots=True)
class _FixedKL:
    value: float


def _controller(config: OnlineOptions) -> AdaptiveKLController | _FixedKL:
    if config.kl_target is None:
        return _FixedKL(config.kl_coef)
    return AdaptiveKLController(config.kl_coef, config.kl_target, config.kl_horizon or 1000.0)


def _objective(config: OnlineOptions, *, kl_coef: float) -> PolicyObjective | SharedTrunkObjective:
    """Of the learner `model`: the policy's, and the critic's with it where both are one trunk."""
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
    """`num_ppo_epochs` passes over the round in `num_mini_batches` updates each; the mean of the updates' metrics
    (of what is a state, the last). The policy's updates end early where `target_kl` says so; the critic's do not."""
    epochs, num_mini_batches = config.passes
    parts: list[list[TokenGroup]] = []
    for epoch in range(epochs):
        order = torch.tensor(permutation(len(batch.groups), config.seed, "minibatch", step, epoch))
        parts += [[batch.groups[i] for i in part.tolist()] for part in order.tensor_split(num_mini_batches)]
    target_kl = getattr(config, "target_kl", None)

    def policy_updates() -> Iterator[dict[str, float]]:
        for groups in parts:
            yield (update := learner.update(groups, policy_objective))
            if target_kl is not None and _gone(update) > target_kl:
                break

    def critic_updates(critic: Learner, objective: ValueObjective) -> Iterator[dict[str, float]]:
        for groups in parts:
            yield {f"critic/{name}": value for name, value in critic.update(groups, objective).items()}

    work: dict[nn.Module, Iterator[dict[str, float]]] = {}
    if step >= getattr(config, "critic_warmup_steps", 0):
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


def _gone(update: Mapping[str, float]) -> float:
    """Nats per token from the policy that sampled. RunError for a third party's objective that does not tell it."""
    if K3 not in update:
        raise RunError(
            "target_kl needs to know how far the policy has gone, which its objective does not tell",
            expected=f"a metric {K3}, for each token",
            fix="let the policy objective give it, or leave target_kl out",
        )
    return update[K3]


def _gate(
    config: OnlineOptions, gate: Gate, learner: Learner, *, rollouts: Sequence[Rollout], reference: Reader
) -> None:
    """Ratio 1 and KL 0 before the first update; log-probabilities independent of batch mates."""
    groups = to_groups(rollouts, config.num_completions)
    check_positions(gate, groups)
    check_batch_mates(gate, learner, groups, want="logprobs")
    outputs = learner.read(groups, want={"logprobs"})
    assert outputs.logprobs is not None
    sampled = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs])
    check_tokens(
        gate,
        "ratio",
        outputs.logprobs - sampled,
        cause="sampler and trainer disagree: temperature, dropout, positions, or the sampler holds other weights",
    )
    if config.reference is not None and reference.fingerprint() != learner.fingerprint():
        gate.skip("kl", reason="the reference is not the policy's start")
    else:
        under_reference = reference.read(groups, want={"logprobs"}).logprobs
        assert under_reference is not None
        check_tokens(
            gate,
            "kl",
            outputs.logprobs - under_reference,
            cause="the reference does not compute as the policy does: dtype, attention, or adapters",
        )
    gate.done()


def _sample_rows(
    prompts: Sequence[PromptGroup], rollouts: Sequence[Rollout], scores: Scores
) -> list[dict[str, object]]:
    """The first, the best and the worst of the round, for `samples.jsonl`."""
    shown = dict.fromkeys(
        [0, max(range(len(scores)), key=scores.__getitem__), min(range(len(scores)), key=scores.__getitem__)]
    )
    return [
        {
            "prompt": _plain(prompts[rollouts[i].prompt_index].prompt),
            "completion": rollouts[i].text,
            **scores.of(i),
            "finish": rollouts[i].finish_reason,
        }
        for i in shown
    ]


def _plain(prompt: Text) -> str | list[dict[str, object]]:
    return prompt if isinstance(prompt, str) else [message.as_dict() for message in prompt]
