"""`best-of-n`: keeps each prompt's highest-scoring completion out of N, and says what every other N would have given.

completions.jsonl   prompt, best completion and its score
candidates.jsonl    prompt, all completions and their scores; not with --block-size

Completions without a visible character are left out of these files, counted and reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assent.commands.completion_rows import Row, blank, close, described, is_visible, row_of, visible, write_rows
from assent.commands.divided import final_result, open_job, status_of
from assent.commands.sampled_work import Job, scores_in
from assent.config.completions import BestOfNConfig
from assent.data.loading import load_groups
from assent.data.rows_write import context
from assent.data.shards import Record
from assent.data.texts import as_plain, last_content
from assent.engine.ledger import Ledger
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.inference.best_of_n import best_index, best_of_n_kl_bound
from assent.inference.blocks import best_of_blocks
from assent.inference.curve import CurvePoint, Drawn, best_of_n_curve, n_for_gain
from assent.inference.soft import perturbed
from assent.models.tokenizing import decode
from assent.rewards.base import Reward, Scores, checked_reward, joined, score_rollouts
from assent.rewards.loading import check_reward, load_reward, readers_of, reward_hash
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.runs.files import to_json
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.types import Preference, PromptGroup, Rollout


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One prompt's completions as rows, with their scores. `parts`: the scores by each reward, if there are several."""

    group: PromptGroup
    rows: list[Row]
    scores: list[float]
    parts: dict[str, list[float | None]]
    drawn: list[Drawn]


def best_of_n(config: BestOfNConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `completions` and `candidates` (files), `output_dir`, `metrics`, `n`, `gain_reached`, `curve`.

    With --block-size there is `kl_nats_upper_bound` instead of `candidates`, `gain_reached` and `curve`. Of work in
    shards that is not all done, there is their status.
    """
    if (status := status_of(config, "completions")) is not None:
        return status
    if config.samples is not None:
        if config.reward is not None:
            check_reward(config.reward, ensemble=config.reward_ensemble)
        return _of_samples(config, config.samples, progress)
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
    )
    job = Job(config, params, num_completions=config.most)
    if config.block_size is not None:
        with job.open("best-of-n", progress) as folder:
            return folder.result or _by_blocks(job, params, folder, RunLog(folder, progress=progress))

    def join(records: Iterable[Record], folder: RunFolder, log: RunLog) -> dict[str, Any]:
        scores, sampled = [], []
        for record in records:
            scores.append(scores_in(record))
            sampled.append(_sampled(job.prompts.group(record["number"]), record, scores[-1], params))
        files, metrics, extra = _chosen(config, sampled, log)
        return job.finish(folder, write_rows(folder, files), {**joined(scores).metrics(), **metrics}, **extra)

    return job.run("best-of-n", join, progress)


def _sampled(group: PromptGroup, record: Record, scores: Scores, params: SamplingParams) -> _Sampled:
    """One prompt's record. With top-k or top-p the policy's probability of a completion is not known."""
    known = params.top_p == 1 and not params.top_k
    drawn: list[Drawn] = [(tuple(ids), logprob if known else None) for ids, logprob in record["drawn"]]
    return _Sampled(group, record["rows"], scores, scores.parts, drawn)


def _of_samples(config: BestOfNConfig, path: str, progress: Progress | None) -> dict[str, Any]:
    """Chooses among the completions of a file. A model reads them only if --reward is one."""
    dataset = load_groups(path)
    groups = _by_prompt(dataset)
    fewest = min(len(group.completions) for group in groups)
    if (config.n or 2) > fewest:
        raise DataError(
            f"{path}: a prompt has fewer completions than n",
            got=f"{fewest}, for {next(g.source for g in groups if len(g.completions) == fewest)}",
            expected=f"at least {config.n or 2} for each prompt",
            fix="lower --n, or sample more",
        )
    scores, inputs, ledger = _scores(config, groups)
    with open_job(config, "best-of-n", {"samples": dataset.sha256, **inputs}, dataset.lines(), progress) as folder:
        if (result := final_result(folder)) is not None:
            return result
        log = RunLog(folder, progress=progress)
        sampled = [
            _Sampled(g, _rows_of(g), own, own.parts, [(to_json(as_plain(text)), None) for text in g.completions])
            for g, own in zip(groups, scores, strict=True)
        ]
        files, metrics, extra = _chosen(config, sampled, log)
        return close(folder, write_rows(folder, files), {**metrics, **ledger.metrics()}, **extra)


def _by_prompt(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Joins the rows of each prompt into one group, in the order in which prompts first appear."""
    found: dict[str, PromptGroup] = {}
    for group in groups:
        key = _key(group)
        before = found.get(key)
        if before is None:
            found[key] = group
            continue
        if (_score_list(before) is None) != (_score_list(group) is None):
            raise DataError(f"{group.source}: some completions of this prompt have scores, others have none")
        scores = (_score_list(before) or []) + (_score_list(group) or [])
        found[key] = replace(
            before,
            completions=before.completions + group.completions,
            preference=Preference(scores=tuple(scores)) if scores else None,
        )
    return list(found.values())


def _key(group: PromptGroup) -> str:
    """Equal for equal prompts."""
    return to_json(as_plain(group.prompt))


def _score_list(group: PromptGroup) -> list[float] | None:
    scores = None if group.preference is None else group.preference.scores
    return None if scores is None else list(scores)


def _scores(config: BestOfNConfig, groups: Sequence[PromptGroup]) -> tuple[list[Scores], dict[str, str], Ledger]:
    """Scores of each group's completions, by --reward or from the file; the reward's hash; and what scoring cost."""
    if config.reward is None:
        return [Scores(_scores_in_file(group)) for group in groups], {}, Ledger()
    device = Runtime.of(config).device
    reward = load_reward(config.reward, ensemble=config.reward_ensemble, device=device, dtype=config.dtype)
    scores = [_scored(reward, group) for group in groups]
    readers = readers_of(reward)
    ledger = Ledger(device, models_resident=len(readers))
    ledger.add(reward_calls=sum(map(len, scores)), flops=sum(reader.flops for reader in readers))
    return scores, {"reward": reward_hash(config.reward)}, ledger


def _scores_in_file(group: PromptGroup) -> list[float]:
    scores = _score_list(group)
    if scores is None:
        raise DataError(
            f"{group.source or 'a row'} has no scores",
            expected="the columns prompt, completions, scores; or prompt, completion, score",
            fix="give --reward to score them",
        )
    return scores


def _scored(reward: Reward, group: PromptGroup) -> Scores:
    texts = list(map(last_content, group.completions))
    return checked_reward(reward, [group.prompt] * len(texts), texts, groups=[group] * len(texts))


def _rows_of(group: PromptGroup) -> list[Row]:
    return [
        {**context(group), "completion": as_plain(text), "completion_index": k}
        for k, text in enumerate(group.completions)
    ]


def _chosen(
    config: BestOfNConfig, sampled: Sequence[_Sampled], log: RunLog
) -> tuple[dict[str, list[Row]], dict[str, float], dict[str, Any]]:
    """The files to write, the metrics, and further outputs."""
    scores = [one.scores for one in sampled]
    ranked = scores
    if config.soft_temperature is not None:
        key = SeedKey(config.seed, "soft best-of-n", 0)
        ranked = [
            perturbed(own, temperature=config.soft_temperature, seed=key, prompt=i) for i, own in enumerate(scores)
        ]
    curve = best_of_n_curve(
        ranked,
        values=None if ranked is scores else scores,
        drawn=[one.drawn for one in sampled],
        clusters=[_key(one.group) for one in sampled],  # a prompt that occurs twice is one cluster
    )
    most = config.n or len(curve)
    n, reached = most, None
    if config.gain is not None:
        enough = n_for_gain(curve[:most], config.gain)
        n, reached = enough or most, enough is not None
    log.note(_summary(config, curve[n - 1], reached))
    best = [best_index(own[:n]) for own in ranked]
    rows = [{**one.rows[i], "score": one.scores[i]} for one, i in zip(sampled, best, strict=True)]
    files = {"completions": visible(rows, log), "candidates": _candidates(sampled)}
    metrics = {"mean_reward": float(np.mean([row["score"] for row in rows]))}
    metrics |= blank([row for one in sampled for row in one.rows])
    if config.samples is None:
        metrics |= described(rows)
    return files, metrics, {"n": n, "gain_reached": reached, "curve": [point.as_dict() for point in curve]}


def _summary(config: BestOfNConfig, point: CurvePoint, reached: bool | None) -> str:
    text = f"best of {point.n} scores {point.gain.text()} more than a single completion"
    if reached is False:
        return f"{text}; no n up to {point.n} gains {config.gain:g}: raise --n"
    return text


def _candidates(sampled: Sequence[_Sampled]) -> list[Row]:
    """Rows of completions and scores. A prompt with fewer than two visible completions is left out."""
    rows = []
    for one in sampled:
        kept = [i for i, row in enumerate(one.rows) if is_visible(row)]
        if len(kept) > 1:
            row = {**context(one.group), "completions": [one.rows[i]["completion"] for i in kept]}
            row["scores"] = [one.scores[i] for i in kept]
            parts = {name: [part[i] for i in kept] for name, part in one.parts.items()}
            rows.append({**row, "rewards": parts} if parts else row)
    return rows


def _by_blocks(job: Job, params: SamplingParams, folder: RunFolder, log: RunLog) -> dict[str, Any]:
    config, work = job.config, job.opened(log.shown)(0)
    assert isinstance(config, BestOfNConfig)
    assert config.block_size is not None
    reward, sampler = work.reward, work.sampler
    assert reward is not None
    job.ledger.models_resident = work.models_resident
    temperature, (groups, ids) = config.soft_temperature, job.prompts.read(0, job.rows)

    def score(rollouts: Sequence[Rollout]) -> list[float]:
        job.ledger.add(completions_sampled=len(rollouts), reward_calls=len(rollouts))
        return score_rollouts(reward, rollouts, groups)

    def choose(scores: Sequence[float], prompt: int, block: int) -> int:
        if temperature is None:
            return best_index(scores)
        key = SeedKey(config.seed, "soft best-of-n", block)
        return best_index(perturbed(scores, temperature=temperature, seed=key, prompt=prompt))

    guided = best_of_blocks(
        sampler,
        ids,
        n=config.most,
        block_size=config.block_size,
        params=params,
        seed=SeedKey(config.seed, "sample", 0),
        score=score,
        decode=lambda found: decode(found, sampler.tokenizer),
        choose=choose,
    )
    rows = [{**row_of(group, one.rollout), "score": one.score} for group, one in zip(groups, guided, strict=True)]
    metrics = {"mean_reward": float(np.mean([one.score for one in guided])), **described(rows), **blank(rows)}
    bound = float(np.mean([one.blocks for one in guided])) * best_of_n_kl_bound(config.most)
    files = write_rows(folder, {"completions": visible(rows, log)})
    job.ledger.add(flops=sum(reader.flops for reader in work.readers))
    return job.finish(folder, files, metrics, n=config.most, kl_nats_upper_bound=bound)
