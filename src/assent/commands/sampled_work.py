"""The work of `sample` and `best-of-n`: prompts in, completions and their scores out, at once or in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assent.commands.completion_rows import close, row_of
from assent.commands.divided import Join, check_engine, open_job, run_job
from assent.commands.opening import open_policy, template_of
from assent.commands.prompt_rows import PromptRows
from assent.config.completions import BestOfNConfig, SampleConfig
from assent.data.given import groups_hash
from assent.data.named import load_named
from assent.data.shards import Apart, Done, Record
from assent.engine.ledger import Ledger
from assent.engine.peak_memory import PeakMemory
from assent.engine.runtime import Runtime
from assent.errors import ModelError, RunError
from assent.inference.curve import drawn_of
from assent.inference.mixing import MixedSampler
from assent.models.folders import check_revision, content_hash
from assent.models.loading import check_adapter, check_context, load_config, load_tokenizer
from assent.rewards.base import Reward, Scores, joined, score_rollouts
from assent.rewards.loading import Spec, check_contexts, check_reward, load_reward, readers_of, reward_hash, shown_by
from assent.rewards.reading import ModelReader
from assent.rewards.reward_model import same_ids
from assent.rollouts.opening import ModelSampler, check_sampler, open_sampler
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.types import PromptGroup, Rollout

CHUNK_PROMPTS = 64
"""Prompts sampled between two updates of the progress bar. What is sampled does not depend on it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Prompts to be worked on. Their numbers, from `first` on, count over all prompts."""

    first: int
    ids: list[tuple[int, ...]]
    groups: list[PromptGroup]


@dataclass(frozen=True, slots=True)
class Opener:
    """Loads policy and reward in the process that works."""

    config: SampleConfig | BestOfNConfig
    params: SamplingParams
    num_completions: int
    progress: Progress | None = None
    """None in a worker: nothing can be shown from another process."""

    def __call__(self, worker: int) -> Work:
        return Work(self)


class Work:
    """Samples pieces and scores them. A record for each prompt has its `number` and its `rows`, and with a reward its
    `scores`, their `parts`, and what was `drawn`."""

    def __init__(self, opener: Opener) -> None:
        config = self.config = opener.config
        self.params, self.num_completions = opener.params, opener.num_completions
        assert config.model is not None
        self.model_path, self.progress = config.model, opener.progress
        self.runtime = Runtime.of(config)
        self.memory = PeakMemory(self.runtime.device)
        self.tokenizer = load_tokenizer(config.model, revision=config.revision)
        self.sampler = self._sampler(template_of(config, self.tokenizer))
        self.readers: list[ModelSampler | ModelReader] = [self.sampler]
        self.models_resident = 1 + (config.reference is not None) + (config.sampler == "vllm")  # its own copy
        self.reward = None if config.reward is None else self._reward(config.reward, config.reward_ensemble)
        self._flops = 0.0

    def _reward(self, specification: Spec, ensemble: str | None) -> Reward:
        options = {"device": self.runtime.device, "dtype": self.config.dtype, "policy_tokenizer": self.tokenizer}
        reward = load_reward(specification, ensemble=ensemble, **options)
        models = readers_of(reward)
        self.models_resident += len(models)
        self.readers += models
        shown_by(reward, self.progress)
        return reward

    def _sampler(self, template: Any) -> ModelSampler:
        config, device = self.config, self.runtime.device
        policy = open_policy(config, self.model_path, device, tokenizer=self.tokenizer)
        if config.reference is None or config.realignment is None:
            return open_sampler(config, policy, template, progress=self.progress)
        tokenizer = load_tokenizer(config.reference, revision=config.revision)
        reference = open_policy(config, config.reference, device, tokenizer=tokenizer)
        mixed = MixedSampler(policy, reference, self.tokenizer, strength=config.realignment, eos_ids=template.eos_ids)
        mixed.progress = self.progress or mixed.progress
        return mixed

    def __call__(self, piece: Piece) -> Done:
        records, calls = [], 0
        for start in range(0, len(piece.ids), CHUNK_PROMPTS):
            chunk = slice(start, start + CHUNK_PROMPTS)
            ids, groups = piece.ids[chunk], piece.groups[chunk]
            drawn = self.sampler.sample(
                ids,
                num_completions=self.num_completions,
                params=self.params,
                seed=SeedKey(self.config.seed, "sample", 0),
                prompt_numbers=range(piece.first + start, piece.first + start + len(ids)),
            )
            scores = None if self.reward is None else self._scores(self.reward, drawn, groups)
            calls += 0 if scores is None else len(scores)
            for i, group in enumerate(groups):
                own = slice(i * self.num_completions, (i + 1) * self.num_completions)
                records.append(_record(piece.first + start + i, group, drawn[own], own, scores))
        return Done(records, self._costs(len(piece.ids) * self.num_completions, calls))

    def _scores(self, reward: Reward, drawn: Sequence[Rollout], groups: Sequence[PromptGroup]) -> Scores:
        parts = range(0, len(drawn), CHUNK_PROMPTS)
        return joined([score_rollouts(reward, drawn[at : at + CHUNK_PROMPTS], groups) for at in parts])

    def _costs(self, completions: int, calls: int) -> dict[str, float]:
        before, self._flops = self._flops, sum(reader.flops for reader in self.readers)
        return {
            "completions_sampled": float(completions),
            "reward_calls": float(calls),
            "flops": self._flops - before,
            "models_resident": float(self.models_resident),
            "peak_memory_bytes": self.memory.bytes,
        }


def _record(number: int, group: PromptGroup, drawn: Sequence[Rollout], own: slice, scores: Scores | None) -> Record:
    record: Record = {"number": number, "rows": [row_of(group, rollout) for rollout in drawn]}
    if scores is None:
        return record
    parts = {name: numbers[own] for name, numbers in scores.parts.items()}
    return {**record, "scores": scores[own], "parts": parts, "drawn": drawn_of(drawn)}


def scores_in(record: Record) -> Scores:
    """A prompt's scores."""
    return Scores(record["scores"], parts=record["parts"])


class Job:
    """What `sample` and `best-of-n` share: the prompts, which may be cut into shards, and the run folder.

    All input is checked before the folder is opened. No weights are loaded here.
    """

    output, unit = "completions", CHUNK_PROMPTS

    def __init__(self, config: SampleConfig | BestOfNConfig, params: SamplingParams, *, num_completions: int) -> None:
        assert config.model is not None
        self.config, self.model_path = config, config.model
        self._opener = Opener(config, params, num_completions)
        if config.reward is not None:
            check_reward(config.reward, ensemble=config.reward_ensemble)
        check_engine(config)
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
        self.prompts = PromptRows(dataset, template, config, source=config.data, number=config.num_prompts)
        if config.reference is not None:
            self._check_reference(config.reference)
        self.ledger = Ledger(Runtime.of(config).device)
        self.apart: list[Apart] = []
        self.reports: list[dict[str, Any]] = []

    def _check_reference(self, reference: str) -> None:
        revision = self.config.revision
        check_context(load_config(reference, revision=revision), self.config.max_length)
        check_adapter(reference, revision=revision)
        if not same_ids(load_tokenizer(reference, revision=revision), self.tokenizer):
            raise ModelError(
                "policy and reference cannot be mixed, because they have different tokenizers",
                got=f"{self.model_path} and {reference}",
                expected="the model that the policy was trained from",
            )

    @property
    def rows(self) -> int:
        return len(self.prompts)

    def load(self, first: int, last: int) -> Piece:
        groups, ids = self.prompts.read(first, last)
        return Piece(first, ids, groups)

    def digest(self, first: int, last: int) -> str:
        return groups_hash(replace(group, source="") for group in self.prompts.read(first, last)[0])

    def source(self, row: int) -> str:
        return self.prompts.group(row).source

    def opened(self, progress: Progress | None = None) -> Opener:
        return replace(self._opener, progress=progress)

    def open(self, command: str, progress: Progress | None) -> RunFolder:
        config = self.config
        hashes = {"data": self.data_sha256, "model": content_hash(self.model_path, revision=config.revision)}
        if config.reference is not None:
            hashes["reference"] = content_hash(config.reference, revision=config.revision)
        if config.reward is not None:
            hashes["reward"] = reward_hash(config.reward)
        return open_job(config, command, hashes, self.prompts.lines, progress)

    def run(self, command: str, join: Join, progress: Progress | None) -> dict[str, Any]:
        """Does the work, and joins its records with `join`. Raises RunError if there is no record."""

        def joined_some(records: Iterable[Record], folder: RunFolder, log: RunLog) -> dict[str, Any]:
            return join(self._some(records), folder, log)

        return run_job(self, joined_some, opened=lambda: self.open(command, progress), progress=progress)

    def _some(self, records: Iterable[Record]) -> Iterator[Record]:
        first = None
        for first in records:
            yield first
        if first is None:
            raise RunError(
                "no prompt could be worked on",
                got=f"{self.apart[0].source}: {self.apart[0].error}" if self.apart else None,
                fix="the same command with --status lists the prompts that were kept apart, and why",
            )

    def finish(
        self, folder: RunFolder, files: Mapping[str, Path], metrics: dict[str, float], **extra: Any
    ) -> dict[str, Any]:
        metrics = {**metrics, **self.ledger.metrics()}
        return close(folder, files, metrics, apart=self.apart, **extra)
