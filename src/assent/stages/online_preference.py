"""Online DPO (Guo et al., arXiv:2402.04792): sample K completions, rank them, train on what was sampled, repeat.

What was sampled is kept in `preferences.jsonl`, a file of scores that `dpo` and `reward` read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from assent.config.online_dpo import OnlineDpoConfig
from assent.config.rewards import described, written
from assent.data.rows_write import as_prompt_is, context
from assent.engine.learner import Learner
from assent.errors import RunError
from assent.models.batch import TokenGroup
from assent.rewards.base import Reward, Scores, score_rollouts
from assent.rewards.loading import check_contexts, check_reward, reward_hash
from assent.rollouts.opening import check_sampler
from assent.rollouts.sampler import Sampler
from assent.runs.log import Progress, RunLog
from assent.stages.clock import Clock
from assent.stages.gate import Gate, check_reward_batch_mates, check_tokens, precision_of, sampler_mismatch
from assent.stages.held_out_samples import answers
from assent.stages.preference import PreferenceObjective, check_start
from assent.stages.references import REFERENCE, NoReference, ReadReference, StageReference, check_reference
from assent.stages.result import StageResult
from assent.stages.sampling import sample_round, to_groups
from assent.stages.selecting import to_prompts
from assent.stages.session import Session, open_session
from assent.stages.stage_data import read_stage_data
from assent.types import PromptGroup, Rollout


def train(
    config: OnlineDpoConfig, *, progress: Progress | None = None, data: Sequence[PromptGroup] | None = None
) -> StageResult:
    """Everything `assent online-dpo` does: prompts, policy, reference, reward, run folder, the saved policy."""
    check_sampler(config)
    check_reward(config.reward, ensemble=config.reward_ensemble)
    inputs = {"reward": reward_hash(config.reward)}
    stage_data = read_stage_data(
        config,
        model=config.model,
        sources={"train": data if data is not None else config.data, "eval": config.eval_data},
        select=to_prompts,
        max_new_tokens=config.max_new_tokens,
    )
    check_reference(config, stage_data)
    check_contexts(config.reward, stage_data.tokenizer, config.max_length)
    opened = open_session(config, stage_data, command="online-dpo", kind="policy", inputs=inputs, progress=progress)
    with opened as session:
        return session.result or run(config, session)


def run(config: OnlineDpoConfig, session: Session) -> StageResult:
    learner, log = session.models.learner, session.log
    reward, sampler = session.models.add_reward(config.reward), session.models.add_sampler()
    objective = PreferenceObjective(config.entries)
    reference = ReadReference(config.reference, session) if objective.needs_reference else NoReference()
    _validate(config, session, sampler=sampler, reward=reward, reference=reference)
    session.resume()
    for step in session.steps():
        clock = Clock()
        indices = session.indices(step)
        prompts = [session.train_groups[i] for i in indices]
        rollouts = sample_round(config, sampler, learner, [session.train_tokens[i] for i in indices], step=step)
        clock.lap("generate")
        with session.kept_on_failure("the reward"):
            scores = score_rollouts(reward, rollouts, prompts)
        groups = to_groups(rollouts, config.num_completions, prompts)
        sampled = reference.read(groups)
        judged = less_for_no_end(scores, rollouts, config.missing_eos_penalty)
        rows = [judged[i : i + config.num_completions] for i in range(0, len(judged), config.num_completions)]
        ranked = [ranking_of(config, group, row) for group, row in zip(sampled, rows, strict=True)]
        compared = [group for group in ranked if group is not None]
        clock.lap("score")
        mismatch = sampler_mismatch(learner, groups[:4], config=config, step=step)
        log.preferences(step + 1, records(config, prompts, rollouts, judged, policy=learner.fingerprint()))
        if compared and learner.step == 0:
            _gate(config, learner, log, rollouts, prompts, compared, reward, objective, reference)
        clock.lap("check")
        metrics = {**_of_round(rollouts, rows, sampled, num_compared=len(compared)), **scores.metrics()}
        metrics |= {"objective/scores": float(np.mean(scores)), "objective/scores_std": float(np.std(scores))}
        metrics["rollout/logprob_mismatch"] = mismatch
        for _ in range(config.updates_per_round if compared else 0):
            metrics |= learner.update(compared, objective)
        clock.lap("train")
        metrics |= clock.metrics(tokens=sum(len(rollout.ids) for rollout in rollouts))
        log.samples(step + 1, _shown(prompts[0], rollouts[: config.num_completions], scores))
        session.log_step(step, metrics, completions_sampled=len(rollouts), reward_calls=len(rollouts))
    if learner.step == 0:
        raise RunError(
            "in no round did a prompt's completions differ in score, so nothing was learned",
            got=f"{config.total_steps} rounds of {config.batch_size} prompts, rewarded by {described(config.reward)}",
            fix="see the scores in preferences.jsonl; raise --num-completions or --temperature",
        )
    reference.finish()
    return session.finish()


def less_for_no_end(scores: Scores, rollouts: Sequence[Rollout], penalty: float) -> Scores:
    """The scores that are compared: less the penalty where a completion was cut before it ended."""
    less = [score - penalty * (r.finish_reason != "stop") for score, r in zip(scores, rollouts, strict=True)]
    return Scores(less, parts=scores.parts)


def _validate(
    config: OnlineDpoConfig, session: Session, *, sampler: Sampler, reward: Reward, reference: StageReference
) -> None:
    """Held-out figures are what the reward says of answers to held-out prompts."""

    def measure() -> dict[str, float]:
        figures, rows = answers(
            config,
            session.eval_prompts,
            sampler=sampler,
            learner=session.models.learner,
            reference=reference.model if isinstance(reference, ReadReference) else None,
            reward=reward,
        )
        session.log.samples(session.step, rows)
        session.ledger.add(completions_sampled=len(rows), reward_calls=len(rows))
        return figures

    if session.eval_prompts.ids:
        session.validation.measure = measure


def ranking_of(config: OnlineDpoConfig, group: TokenGroup, scores: Sequence[float]) -> TokenGroup | None:
    """The completions to compare, the best first, with their `rank` from 1; equal scores have equal ranks.

    None where they say nothing: all have one score and no loss knows what a tie means, or all are the same tokens.
    """
    order = sorted(range(len(scores)), key=lambda k: -scores[k])  # of equals, the one sampled first
    chosen = order if config.compares_all else [order[0], order[-1]]
    levels = sorted({scores[k] for k in chosen}, reverse=True)
    completions = tuple(group.completions[k] for k in chosen)
    if len({completion.ids for completion in completions}) == 1 or (len(levels) == 1 and not config.uses_ties):
        return None
    fields = {name: values[chosen] for name, values in group.completion.items()}
    fields["rank"] = np.array([1 + levels.index(scores[k]) for k in chosen])
    return replace(group, completions=completions, completion=fields, token={})


def _gate(
    config: OnlineDpoConfig,
    learner: Learner,
    log: RunLog,
    rollouts: Sequence[Rollout],
    prompts: Sequence[PromptGroup],
    compared: Sequence[TokenGroup],
    reward: Reward,
    objective: PreferenceObjective,
    reference: StageReference,
) -> None:
    """What `dpo` checks, on the first comparisons; and that sampler and trainer are one policy."""
    gate = Gate(log, precision=precision_of(config))
    check_reward_batch_mates(gate, reward, rollouts, prompts, dtype=config.dtype)
    read = learner.read(to_groups(rollouts, config.num_completions), want={"logprobs"}).logprobs
    assert read is not None
    check_tokens(
        gate,
        "ratio",
        read - torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs]),
        cause="sampler and trainer disagree: temperature, dropout, positions, or the sampler holds other weights",
    )
    check_start(gate, learner, compared, objective, origin=reference.origin)
    gate.done()


def _of_round(
    rollouts: Sequence[Rollout], scores: Sequence[Sequence[float]], sampled: Sequence[TokenGroup], *, num_compared: int
) -> dict[str, float]:
    """Figures of what was sampled; `scores` prompt by prompt, as they were compared."""
    metrics = {
        "objective/scores_margin": float(np.mean([max(row) - min(row) for row in scores])),
        "rollout/completion_length": float(np.mean([len(rollout.ids) for rollout in rollouts])),
        "rollout/eos_rate": float(np.mean([rollout.finish_reason == "stop" for rollout in rollouts])),
        "rollout/not_compared": float(len(scores) - num_compared),
        "rollout/blank": float(sum(not rollout.text.strip() for rollout in rollouts)),
    }
    if REFERENCE in sampled[0].completion:
        under_reference = np.concatenate([group.completion[REFERENCE] for group in sampled])
        metrics["objective/kl"] = float(np.mean([sum(r.logprobs) for r in rollouts] - under_reference))
    return metrics


def records(
    config: OnlineDpoConfig,
    prompts: Sequence[PromptGroup],
    rollouts: Sequence[Rollout],
    scores: Scores,
    *,
    policy: str,
) -> list[dict[str, object]]:
    """Rows of `preferences.jsonl`, one for each prompt, ties included. `scores`: as they were compared; `policy`:
    fingerprint of what sampled them.

    A completion without a visible character is no text that a file of completions may hold, and is left out there; of
    a prompt with fewer than two others there is no row. `rollout/blank` counts them.
    """
    rows: list[dict[str, object]] = []
    for number, group in enumerate(prompts):
        start = number * config.num_completions
        kept = [i for i in range(start, start + config.num_completions) if rollouts[i].text.strip()]
        if len(kept) < 2:
            continue
        rows.append(
            {
                **context(group),
                "completions": [as_prompt_is(group.prompt, rollouts[i].text) for i in kept],
                "scores": [scores[i] for i in kept],
                "finish_reasons": [rollouts[i].finish_reason for i in kept],
                "policy": policy,
                "reward": written(config.reward),
                **_parts_of(scores, kept),
            }
        )
    return rows


def _parts_of(scores: Scores, kept: Sequence[int]) -> dict[str, object]:
    """Of several sources, `rewards`: each one's scores of these completions."""
    return {"rewards": {name: [part[i] for i in kept] for name, part in scores.parts.items()}} if scores.parts else {}


def _shown(group: PromptGroup, rollouts: Sequence[Rollout], scores: Scores) -> list[dict[str, object]]:
    """The first prompt's completions, for `samples.jsonl`."""
    prompt = context(group)["prompt"]
    return [
        {"prompt": prompt, "completion": rollout.text, **scores.of(i), "finish": rollout.finish_reason}
        for i, rollout in enumerate(rollouts)
    ]
