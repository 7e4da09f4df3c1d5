"""`sample`: completions of a policy, written to a file that every other command reads.

completions.jsonl   prompt, completion and how it ended; with --keep best, each prompt's best one and its `reward`

Completions without a visible character are left out of the file, counted and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assent.commands.opening import open_policy, open_prompts, template_of
from assent.config.completions import BestOfNConfig, SampleConfig
from assent.data.named import load_named
from assent.data.rows_write import as_prompt_is, context
from assent.engine.ledger import Ledger
from assent.engine.runtime import Runtime
from assent.errors import ModelError, RunError
from assent.inference.best_of_n import best_index
from assent.inference.mixing import MixedSampler
from assent.models.folders import check_revision, content_hash
from assent.models.loading import check_adapter, check_context, load_config, load_tokenizer
from assent.rewards.base import Reward, Scores, joined, score_rollouts
from assent.rewards.loading import Spec, check_contexts, check_reward, load_reward, readers_of, reward_hash
from assent.rewards.reading import ModelReader
from assent.rewards.reward_model import same_ids
from assent.rollouts.opening import ModelSampler, check_sampler, open_sampler
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.runs.files import keep_lines
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.stages.selecting import to_prompts
from assent.types import PromptGroup, Rollout

Row = dict[str, Any]
CHUNK_PROMPTS = 64
"""Prompts sampled between two updates of the progress bar. What is sampled does not depend on it."""


def sample(config: SampleConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `completions` (file), `output_dir`, `metrics`."""
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        greedy=config.greedy,
        stop=tuple(config.stop),
    )
    if config.reward is not None:
        check_reward(config.reward, ensemble=config.reward_ensemble)
    job = Job(config)
    reward = None if config.reward is None else job.reward(config.reward, ensemble=config.reward_ensemble)
    inputs = {} if config.reward is None else {"reward": reward_hash(config.reward)}
    with job.open("sample", progress, inputs) as folder:
        if folder.result is not None:
            return folder.result
        log = RunLog(folder, progress=progress)
        rollouts = job.sample(params, config.num_completions, log)
        rows = [row_of(job.prompts.groups[r.prompt_index], r) for r in rollouts]
        if reward is None:
            return job.finish(folder, {"completions": visible(rows, log)}, {**described(rows), **blank(rows)})
        scores = job.score(reward, rollouts, log)
        kept, metrics = _best(rows, scores, config.num_completions, log)
        return job.finish(folder, {"completions": kept}, {**scores.metrics(), **metrics, **blank(rows)})


def _best(
    rows: Sequence[Row], scores: Sequence[float], num_completions: int, log: RunLog
) -> tuple[list[Row], dict[str, float]]:
    """Keeps each prompt's highest-scoring visible completion, with its score; and metrics of those kept."""
    kept: list[Row] = []
    starts = range(0, len(rows), num_completions)
    for start in starts:
        own = [i for i in range(start, start + num_completions) if is_visible(rows[i])]
        if own:
            best = own[best_index([scores[i] for i in own])]
            kept.append({**rows[best], "reward": scores[best]})
    if len(kept) < len(starts):
        log.note(f"{len(starts) - len(kept)} of {len(starts)} prompts have no completion with a visible character")
    if not kept:
        raise RunError("no completion has a visible character, so there is nothing to keep")
    return kept, {**described(kept), "mean_reward": float(np.mean([row["reward"] for row in kept]))}


class Job:
    """What `sample` and `best-of-n` share: prompts, sampler, reward, ledger and run folder.

    All input is checked before the folder is opened.
    """

    def __init__(self, config: SampleConfig | BestOfNConfig) -> None:
        assert config.model is not None
        self.config, self.model_path = config, config.model
        check_sampler(config)
        check_revision(config.revision, *filter(None, (config.model, config.reference)))
        check_context(load_config(config.model, revision=config.revision), config.max_length)
        self.tokenizer = load_tokenizer(config.model, revision=config.revision)
        if config.reward is not None:
            check_contexts(config.reward, self.tokenizer, config.max_length)
        template = template_of(config, self.tokenizer)
        assert config.data is not None
        dataset = load_named(config)
        self.data_sha256 = dataset.sha256
        self.prompts = open_prompts(
            to_prompts(dataset[: config.num_prompts or None])[0],
            template,
            source=config.data,
            notes=dataset.notes,
            max_length=config.max_length,
            max_new_tokens=config.max_new_tokens,
        )
        self.runtime = Runtime.of(config)
        self.sampler = self._sampler(template)
        self.readers: list[ModelSampler | ModelReader] = [self.sampler]
        copies = (config.reference is not None) + (config.sampler == "vllm")  # an engine has its own copy
        self.ledger = Ledger(self.runtime.device, models_resident=1 + copies)

    def _sampler(self, template: Any) -> ModelSampler:
        config, device = self.config, self.runtime.device
        if config.reference is None or config.realignment is None:
            return open_sampler(
                config, open_policy(config, self.model_path, device, tokenizer=self.tokenizer), template
            )
        check_context(load_config(config.reference, revision=config.revision), config.max_length)
        check_adapter(config.reference, revision=config.revision)
        tokenizer = load_tokenizer(config.reference, revision=config.revision)
        if not same_ids(tokenizer, self.tokenizer):
            raise ModelError(
                "policy and reference cannot be mixed, because they have different tokenizers",
                got=f"{self.model_path} and {config.reference}",
                expected="the model that the policy was trained from",
            )
        policy = open_policy(config, self.model_path, device, tokenizer=self.tokenizer)
        reference = open_policy(config, config.reference, device, tokenizer=tokenizer)
        return MixedSampler(policy, reference, self.tokenizer, strength=config.realignment, eos_ids=template.eos_ids)

    def reward(self, specification: Spec, *, ensemble: str | None) -> Reward:
        options = {"device": self.runtime.device, "dtype": self.config.dtype, "policy_tokenizer": self.tokenizer}
        reward = load_reward(specification, ensemble=ensemble, **options)
        models = readers_of(reward)
        self.ledger.models_resident += len(models)
        self.readers += models
        return reward

    def open(self, command: str, progress: Progress | None, inputs: Mapping[str, str] | None = None) -> RunFolder:
        config = self.config
        hashes = {"data": self.data_sha256, "model": content_hash(self.model_path, revision=config.revision)}
        if config.reference is not None:
            hashes["reference"] = content_hash(config.reference, revision=config.revision)
        folder = RunFolder.open(
            config.output_dir,
            config.model_dump(),
            command=command,
            resume=True,
            hashes={**hashes, **(inputs or {})},
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
        """Samples `num_completions` for each prompt, prompt by prompt; `prompt_index` counts over all prompts."""
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
        self, folder: RunFolder, files: dict[str, list[Row]], metrics: dict[str, float], **extra: Any
    ) -> dict[str, Any]:
        self.ledger.add(flops=sum(reader.flops for reader in self.readers))
        return finish(folder, files, {**metrics, **self.ledger.metrics()}, **extra)


def finish(folder: RunFolder, files: dict[str, list[Row]], metrics: dict[str, float], **extra: Any) -> dict[str, Any]:
    """Writes the files, logs the metrics, and closes the run."""
    paths = {name: str(folder.path / f"{name}.jsonl") for name in files}
    for name, rows in files.items():
        keep_lines(Path(paths[name]), rows)
    RunLog(folder).metrics(0, metrics)
    result = {"output_dir": str(folder.path), **paths, "steps": 0, "metrics": metrics, **extra}
    folder.finish(result)
    return result


def described(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "rollout/completion_length": float(np.mean([row["tokens"] for row in rows])),
        "rollout/eos_rate": float(np.mean([row["finish_reason"] == "stop" for row in rows])),
    }


def row_of(group: PromptGroup, rollout: Rollout) -> Row:
    """A sampled completion as a row of a file."""
    return {
        **context(group),
        "completion": as_prompt_is(group.prompt, rollout.text),
        "completion_index": rollout.completion_index,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout.ids),
        "logprob": float(sum(rollout.logprobs)),
    }


def is_visible(row: Row) -> bool:
    """Whether the row's completion has a visible character. Files of completions hold no others."""
    completion = row["completion"]
    return bool((completion if isinstance(completion, str) else completion[-1]["content"]).strip())


def blank(rows: Sequence[Row]) -> dict[str, float]:
    return {"rollout/blank": float(sum(not is_visible(row) for row in rows))}


def visible(rows: Sequence[Row], log: RunLog) -> list[Row]:
    """The rows with visible completions. A note in the log counts the others."""
    kept = [row for row in rows if is_visible(row)]
    if len(kept) < len(rows):
        log.note(
            f"{len(rows) - len(kept)} of {len(rows)} completions have no visible character and are left out of the file"
        )
    return kept
