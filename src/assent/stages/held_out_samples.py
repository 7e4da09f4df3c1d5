"""Answers to held-out prompts during training: samples to read, and the KL to the reference.

Every measurement uses the same prompts and random numbers, so two measurements differ only by the weights. Training's
own randomness is not affected (law 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assent.config.options import StageOptions
from assent.data import texts
from assent.engine.learner import Learner
from assent.engine.random import permutation
from assent.engine.references import Reader
from assent.errors import DataError
from assent.evaluation.kl import kl_estimates
from assent.models.batch import TokenCompletion, TokenGroup
from assent.rewards.base import Reward, score_rollouts
from assent.rollouts.sampler import Sampler, SeedKey
from assent.stages.sampling import sample
from assent.stages.stage_data import StageData
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup, Rollout


@dataclass(frozen=True, slots=True)
class HeldOutPrompts:
    """Held-out prompts to answer. `ids[i]` are the tokens of the prompt of `groups[i]`."""

    groups: list[PromptGroup]
    ids: list[tuple[int, ...]]
    lines: list[str]
    """Lines for the log about how they were chosen."""


def choose_prompts(config: StageOptions, data: StageData) -> HeldOutPrompts:
    """Chooses `eval_prompts` distinct held-out prompts that leave room for an answer; the seed decides which.

    If there are fewer, it takes them all and says so. Raises DataError if no prompt leaves room.
    """
    wanted = config.eval_prompts
    if not wanted:
        return HeldOutPrompts([], [], [])
    part, longest = data.parts["eval"], config.eval_max_new_tokens
    distinct = {own.prompt_ids: group for group, own in zip(part.groups, part.tokens, strict=True)}
    fitting = [(ids, group) for ids, group in distinct.items() if len(ids) + longest <= config.max_length]
    if not fitting:
        raise DataError(
            "no held-out prompt leaves room for an answer",
            got=f"prompts of at least {min(map(len, distinct))} tokens, eval_max_new_tokens {longest}",
            expected=f"at most {config.max_length} tokens together (max_length)",
            fix="lower --eval-max-new-tokens, or raise --max-length",
        )
    chosen = [fitting[i] for i in sorted(permutation(len(fitting), config.seed, "eval prompts")[:wanted])]
    lines = []
    if len(chosen) < wanted:
        lines = [f"held-out prompts to answer: {len(chosen)} of {len(distinct)}; no others leave room for an answer"]
    return HeldOutPrompts([group for _, group in chosen], [ids for ids, _ in chosen], lines)


def answers(
    config: StageOptions,
    prompts: HeldOutPrompts,
    *,
    sampler: Sampler,
    learner: Learner,
    reference: Reader | None,
    reward: Reward | None = None,
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Samples an answer to each prompt at the run's temperature. Returns figures, and rows for samples.jsonl."""
    rollouts = sample(
        sampler,
        learner,
        prompts.ids,
        num_completions=1,
        max_new_tokens=config.eval_max_new_tokens,
        temperature=config.temperature,
        seed=SeedKey(config.seed, "eval", 0),
    )
    lengths = [len(rollout.ids) for rollout in rollouts]
    ended = [rollout.finish_reason == "stop" for rollout in rollouts]
    figures = {
        "eval_rollout/completion_length": sum(lengths) / len(lengths),
        "eval_rollout/eos_rate": sum(ended) / len(ended),
    }
    rows: list[dict[str, object]] = [
        {"prompt": texts.as_plain(group.prompt), "completion": rollout.text, "finish": rollout.finish_reason}
        for group, rollout in zip(prompts.groups, rollouts, strict=True)
    ]
    if reference is not None:
        figures |= _distance(rows, rollouts, lengths, learner, reference)
    if reward is not None:
        scores = score_rollouts(reward, rollouts, prompts.groups, may_abstain=True)
        known = [score for score in scores.given() if score is not None]
        figures["eval_objective/scores"] = sum(known) / len(known)
        if len(known) < len(scores):
            figures["eval_objective/abstained"] = float(len(scores) - len(known))
        if len(known) > 1:
            ends = mean_interval(known)
            figures |= {"eval_objective/scores_low": ends.low, "eval_objective/scores_high": ends.high}
        for i, row in enumerate(rows):
            row.update(scores.of(i))
    return figures, rows


def _distance(
    rows: Sequence[dict[str, object]],
    rollouts: Sequence[Rollout],
    lengths: Sequence[int],
    learner: Learner,
    reference: Reader,
) -> dict[str, float]:
    """The KL to the reference. Adds its answer's share to each row."""
    groups = [TokenGroup(rollout.prompt_ids, (TokenCompletion(rollout.ids),)) for rollout in rollouts]
    # Both read in the same way, so with equal weights the KL is zero, and sampler and trainer cannot differ in it.
    policy, start = (_logprobs(reader, groups, lengths) for reader in (learner, reference))
    for row, own, reference_own in zip(rows, policy, start, strict=True):
        row["kl"] = float((own - reference_own).sum())
    kl = kl_estimates(policy, start)
    figures = {"eval_kl": kl.k1.value, "eval_kl_k3": kl.k3.value}
    if len(rollouts) > 1:
        figures |= {"eval_kl_low": kl.k1.low, "eval_kl_high": kl.k1.high}
    return figures


def _logprobs(reader: Reader, groups: Sequence[TokenGroup], lengths: Sequence[int]) -> list[Any]:
    """The log-probabilities of each group's completion, token by token."""
    read = reader.read(groups, want={"logprobs"}).logprobs
    assert read is not None
    return [piece.double().numpy() for piece in read.split(list(lengths))]
