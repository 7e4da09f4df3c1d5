"""`sample` and `best-of-n`: completions of a policy, written as files that every other command reads.

completions.jsonl   prompt, completion and how it ended; of best-of-n the best, with its score
candidates.jsonl    best-of-n: prompt, all N completions and their scores
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assent.config.completions import BestOfNConfig, CompletionOptions, SampleConfig
from assent.data.loading import load_groups
from assent.data.rows_write import as_prompt_is, context
from assent.engine.ledger import Ledger
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.inference.best_of_n import best_of_each, best_of_n_kl_bound, expected_best_of_n
from assent.models.folders import check_revision, content_hash
from assent.models.loading import check_context, load_config, load_policy, load_tokenizer
from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.base import Reward, Scores, joined, score_rollouts
from assent.rewards.loading import Spec, check_reward, load_reward, readers_of, reward_hash
from assent.rewards.reading import ModelReader
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import to_json
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.stages.selecting import to_prompts
from assent.types import PromptGroup, Rollout

CHUNK_PROMPTS = 64
"""Prompts between two movements of the progress bar; what is sampled does not depend on it."""


@dataclass(slots=True)
class _Prompts:
    groups: list[PromptGroup]
    ids: list[tuple[int, ...]]
    sha256: str
    lines: list[str]


def sample(config: SampleConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `completions` (file), `output_dir`, `metrics`."""
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        greedy=config.greedy,
    )
    job = _Job(config)
    with job.open("sample", progress) as folder:
        if folder.result is not None:
            return folder.result
        rollouts = job.sample(params, config.num_completions, RunLog(folder, progress=progress))
        rows = [_row(job.prompts.groups[r.prompt_index], r) for r in rollouts]
        return job.finish(folder, {"completions": rows}, _described(rollouts))


def best_of_n(config: BestOfNConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `completions` and `candidates` (files), `output_dir`, `metrics`, `expected_score` for N = 1 … n."""
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
    )
    check_reward(config.reward, ensemble=config.reward_ensemble)
    job = _Job(config)
    reward = job.reward(config.reward, ensemble=config.reward_ensemble)
    with job.open("best-of-n", progress, {"reward": reward_hash(config.reward)}) as folder:
        if folder.result is not None:
            return folder.result
        log = RunLog(folder, progress=progress)
        rollouts = job.sample(params, config.n, log)
        scores = job.score(reward, rollouts, log)
        chosen = best_of_each(rollouts, scores, n=config.n)
        groups = [job.prompts.groups[one.best.prompt_index] for one in chosen]
        rows = [{**_row(group, one.best), "score": one.score} for group, one in zip(groups, chosen, strict=True)]
        parts = [
            {name: each[i : i + config.n] for name, each in scores.parts.items()}
            for i in range(0, len(scores), config.n)
        ]
        candidates = [
            _candidates(g, one.rollouts, one.scores, part) for g, one, part in zip(groups, chosen, parts, strict=True)
        ]
        described = _described([one.best for one in chosen])
        metrics = {**described, **scores.metrics(), "mean_reward": float(np.mean([one.score for one in chosen]))}
        extra = {
            "expected_score": np.mean([expected_best_of_n(one.scores) for one in chosen], axis=0).tolist(),
            "kl_nats_upper_bound": best_of_n_kl_bound(config.n),
        }
        return job.finish(folder, {"completions": rows, "candidates": candidates}, metrics, **extra)


class _Job:
    """What both have in common. Everything that can be wrong with the input is found before the folder is opened."""

    def __init__(self, config: CompletionOptions) -> None:
        self.config = config
        check_revision(config.revision, config.model)
        check_context(load_config(config.model, revision=config.revision), config.max_length)
        self.tokenizer = load_tokenizer(config.model, revision=config.revision)
        template = resolve_template(
            self.tokenizer,
            chat_template=config.chat_template,
            system=config.system,
            chat_template_kwargs=config.chat_template_kwargs,
        )
        self.prompts = self._read(template)
        self.runtime = Runtime(config.device, seed=config.seed)
        model = load_policy(config.model, dtype=config.dtype, revision=config.revision, tokenizer=self.tokenizer).to(
            self.runtime.device
        )
        self.sampler = TorchSampler(model, self.tokenizer, eos_ids=template.eos_ids)
        self.readers: list[TorchSampler | ModelReader] = [self.sampler]
        self.ledger = Ledger(self.runtime.device, models_resident=1)

    def _read(self, template: Any) -> _Prompts:
        config = self.config
        dataset = load_groups(config.data)
        groups, _ = to_prompts(dataset[: config.num_prompts or len(dataset)])
        tokenized = tokenize_groups(
            groups,
            tokenizer=self.tokenizer,
            template=template,
            max_length=config.max_length,
            max_new_tokens=config.max_new_tokens,
        )
        lines = tokenized.report.lines()
        if not tokenized.groups:
            raise DataError(f"{config.data}: no usable prompt is left", got="\n".join(lines), expected="at least one")
        kept = [groups[i] for i in tokenized.kept]
        return _Prompts(kept, [group.prompt_ids for group in tokenized.groups], dataset.sha256, lines)

    def reward(self, specification: Spec, *, ensemble: str | None) -> Reward:
        options = {"device": self.runtime.device, "dtype": self.config.dtype, "policy_tokenizer": self.tokenizer}
        reward = load_reward(specification, ensemble=ensemble, **options)
        models = readers_of(reward)
        self.ledger.models_resident += len(models)
        self.readers += models
        return reward

    def open(self, command: str, progress: Progress | None, inputs: Mapping[str, str] | None = None) -> RunFolder:
        config = self.config
        model = content_hash(config.model, revision=config.revision)
        folder = RunFolder.open(
            config.output_dir,
            config.model_dump(),
            command=command,
            resume=True,
            hashes={"data": self.prompts.sha256, "model": model, **(inputs or {})},
        )
        log = RunLog(folder, progress=progress)
        if folder.result is not None:
            log.note(f"{folder.path}: this run is finished; nothing to do")
            return folder
        folder.rewind(None)
        for line in self.prompts.lines:
            log.note(line)
        return folder

    def sample(self, params: SamplingParams, num_completions: int, log: RunLog) -> list[Rollout]:
        """num_completions of each prompt, prompt-major; `prompt_index` counts over all prompts."""
        ids, rollouts = self.prompts.ids, []
        with log.progress("completions", len(ids) * num_completions) as task:
            for start in range(0, len(ids), CHUNK_PROMPTS):
                numbers = range(start, min(start + CHUNK_PROMPTS, len(ids)))
                drawn = self.sampler.sample(
                    [ids[i] for i in numbers],
                    num_completions=num_completions,
                    params=params,
                    seed=SeedKey(self.config.seed, "sample", 0),
                    prompt_numbers=numbers,
                )
                self.ledger.add(completions_sampled=len(drawn))
                rollouts += [replace(r, prompt_index=r.prompt_index + start) for r in drawn]
                task.advance(len(drawn))
        return rollouts

    def score(self, reward: Reward, rollouts: Sequence[Rollout], log: RunLog) -> Scores:
        parts: list[Scores] = []
        with log.progress("scores", len(rollouts)) as task:
            for start in range(0, len(rollouts), CHUNK_PROMPTS):
                part = rollouts[start : start + CHUNK_PROMPTS]
                parts.append(score_rollouts(reward, part, self.prompts.groups))
                self.ledger.add(reward_calls=len(part))
                task.advance(len(part))
        return joined(parts)

    def finish(
        self, folder: RunFolder, files: dict[str, list[dict[str, Any]]], metrics: dict[str, float], **extra: Any
    ) -> dict[str, Any]:
        """Writes the files, logs the figures, and closes the run."""
        paths = {name: str(folder.path / f"{name}.jsonl") for name in files}
        for name, rows in files.items():
            _write_lines(Path(paths[name]), rows)
        self.ledger.add(flops=sum(reader.flops for reader in self.readers))
        metrics = {**metrics, **self.ledger.metrics()}
        RunLog(folder).metrics(0, metrics)
        result = {"output_dir": str(folder.path), **paths, "steps": 0, "metrics": metrics, **extra}
        folder.finish(result)
        return result


def _described(rollouts: Sequence[Rollout]) -> dict[str, float]:
    return {
        "rollout/completion_length": float(np.mean([len(rollout.ids) for rollout in rollouts])),
        "rollout/eos_rate": float(np.mean([rollout.finish_reason == "stop" for rollout in rollouts])),
    }


def _row(group: PromptGroup, rollout: Rollout) -> dict[str, Any]:
    return {
        **context(group),
        "completion": as_prompt_is(group.prompt, rollout.text),
        "completion_index": rollout.completion_index,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout.ids),
        "logprob": float(sum(rollout.logprobs)),
    }


def _candidates(
    group: PromptGroup, rollouts: Sequence[Rollout], scores: Sequence[float], parts: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    completions = [as_prompt_is(group.prompt, rollout.text) for rollout in rollouts]
    row = {**context(group), "completions": completions, "scores": list(scores)}
    return {**row, "rewards": parts} if parts else row


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
