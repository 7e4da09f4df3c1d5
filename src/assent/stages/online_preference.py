"""Online DPO (Guo et al., arXiv:2402.04792): sample K completions, rank them, train on them, repeat.

`preferences.jsonl` keeps the completions and their scores, in a layout that `dpo` and `reward` read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from assent.config.online_dpo import OnlineDpoConfig
from assent.config.rewards import described, written
from assent.data.rows_write import as_prompt_is, context
from assent.engine.learner import Learner
from assent.errors import RunError
from assent.models.batch import TokenGroup
from assent.rewards.base import Reward, Scores, score_rollouts
from assent.rewards.loading import check_contexts, check_reward, reward_hash
from assent.rollouts.opening import check_sampler
from assent.runs.log import Progress, RunLog
from assent.stages.gate import (
    GROUPS,
    Gate,
    check_ratio,
    check_reward_batch_mates,
    groups_to_read,
    precision_of,
    sampler_mismatch,
)
from assent.stages.preference import PreferenceObjective, check_start
from assent.stages.references import REFERENCE, NoReference, ReadReference, StageReference, check_reference
from assent.stages.result import StageResult
from assent.stages.sampling import Clock, sample_round, sample_row, to_groups
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
    if session.eval_prompts.ids:
        origin = reference.model if isinstance(reference, ReadReference) else None
        session.validation.measure = lambda: session.answer(sampler, origin, reward=reward)
    session.resume()
    for step in session.steps():
        clock = Clock()
        prompts = session.prompts(step)
        rollouts = sample_round(config, sampler, learner, session.batch(step), step=step)
        clock.lap("generate")
        with session.kept_on_failure("the reward"):
            scores = score_rollouts(reward, rollouts, prompts, may_abstain=True)
        groups = to_groups(rollouts, config.num_completions, prompts)
        sampled = reference.read(groups)
        judged = less_for_no_end(scores, rollouts, config.missing_eos_penalty)
        given, k = judged.given(), config.num_completions
        rows = [given[i : i + k] for i in range(0, len(given), k)]
        ranked = [ranking_of(config, group, row) for group, row in zip(sampled, rows, strict=True)]
        compared = [group for group in ranked if group is not None]
        clock.lap("score")
        mismatch = sampler_mismatch(learner, groups[:4], config=config, step=step)
        log.preferences(step + 1, records(config, prompts, rollouts, judged, policy=learner.fingerprint()))
        if compared and learner.step == 0:
            _gate(config, learner, log, rollouts, prompts, compared, reward, objective, reference)
        clock.lap("check")
        metrics = {**_of_round(rollouts, rows, sampled, num_compared=len(compared)), **scores.metrics()}
        known = [score for score in scores.given() if score is not None]
        metrics |= {"objective/scores": float(np.mean(known)), "objective/scores_std": float(np.std(known))}
        metrics["rollout/logprob_mismatch"] = mismatch
        for _ in range(config.updates_per_round if compared else 0):
            metrics |= learner.update(compared, objective)
        clock.lap("train")
        metrics |= clock.metrics(rollouts)
        shown = range(config.num_completions)  # those of the first prompt
        log.samples(step + 1, [sample_row(prompts[0], rollouts[i], scores.of(i)) for i in shown])
        session.log_step(step, metrics, completions_sampled=len(rollouts), reward_calls=len(rollouts))
    if learner.step == 0:
        raise RunError(
            "no prompt's completions differed in score in any round, so nothing was learned",
            got=f"{config.total_steps} rounds of {config.batch_size} prompts, rewarded by {described(config.reward)}",
            expected="at least one prompt whose completions get different scores",
            fix="look at the scores in preferences.jsonl; raise --num-completions or --temperature",
        )
    reference.finish()
    return session.finish()


def less_for_no_end(scores: Scores, rollouts: Sequence[Rollout], penalty: float) -> Scores:
    """The scores to compare: the reward's, minus `penalty` for each completion that was cut before its end."""
    less = [
        None if score is None else score - penalty * (r.finish_reason != "stop")
        for score, r in zip(scores.given(), rollouts, strict=True)
    ]
    return Scores(less, parts=scores.parts)


def ranking_of(config: OnlineDpoConfig, group: TokenGroup, scores: Sequence[float | None]) -> TokenGroup | None:
    """The completions to compare, best first, with `rank` counted from 1. Equal scores have equal ranks. A completion
    without a score is not compared.

    None if there is nothing to learn: all scores are equal and no loss uses ties, all have the same tokens, or fewer
    than two have a score.
    """
    known = {k: score for k, score in enumerate(scores) if score is not None}
    if len(known) < 2:
        return None
    order = sorted(known, key=lambda k: -known[k])  # equal scores keep the order of sampling
    chosen = order if config.compares_all else [order[0], order[-1]]
    levels = sorted({known[k] for k in chosen}, reverse=True)
    completions = tuple(group.completions[k] for k in chosen)
    if len({completion.ids for completion in completions}) == 1 or (len(levels) == 1 and not config.uses_ties):
        return None
    fields = {name: values[chosen] for name, values in group.completion.items()}
    fields["rank"] = np.array([1 + levels.index(known[k]) for k in chosen])
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
    """Makes the checks of `dpo` on the first comparisons, and checks that sampler and trainer are the same policy."""
    gate = Gate(log, precision=precision_of(config))
    check_reward_batch_mates(gate, reward, rollouts, prompts, dtype=config.dtype)
    some = rollouts[: GROUPS * config.num_completions]
    read = learner.read(to_groups(some, config.num_completions), want={"logprobs"}).logprobs
    assert read is not None
    check_ratio(gate, read, some)
    check_start(gate, learner, groups_to_read(compared), objective, origin=reference.origin)
    gate.done()


def _of_round(
    rollouts: Sequence[Rollout],
    scores: Sequence[Sequence[float | None]],
    sampled: Sequence[TokenGroup],
    *,
    num_compared: int,
) -> dict[str, float]:
    """Metrics of the round. `scores` are the compared ones, a row for each prompt."""
    known = [[score for score in row if score is not None] for row in scores]
    metrics = {
        "objective/scores_margin": float(np.mean([max(row) - min(row) for row in known if row])),
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
    """Rows of `preferences.jsonl`, one for each prompt, ties included. `scores` are the compared ones; `policy` is the
    fingerprint of the model that sampled.

    A file of completions may not hold blank text or lack scores. So blank completions and those without a score are
    left out, and a prompt with fewer than two others has no row. `rollout/blank` and `objective/abstained` count them.
    """
    rows: list[dict[str, object]] = []
    for number, group in enumerate(prompts):
        start = number * config.num_completions
        own = range(start, start + config.num_completions)
        kept = [i for i in own if rollouts[i].text.strip() and not scores.abstained[i]]
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
    """With several sources of reward, `rewards`: each source's scores of these completions."""
    return {"rewards": {name: [part[i] for i in kept] for name, part in scores.parts.items()}} if scores.parts else {}
