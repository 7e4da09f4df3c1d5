"""`score`: rewards for given completions, or their log-probabilities under a model, at once or in shards.

scores.jsonl     the prompt, its completions, and a score for each
logprobs.jsonl   the rows as they were, with the columns that `dpo --reference logged` reads

Judgements of the data are left out of scores.jsonl, whose scores are another judgement. Rows that the model cannot
read are refused, counted and listed in apart.jsonl.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from assent.commands.completion_rows import close
from assent.commands.divided import added_up, check_engine, open_job, run_job, status_of
from assent.commands.opening import open_reader, template_of
from assent.config.scoring import ScoreConfig
from assent.data.formats import get_layout, write_row
from assent.data.given import groups_hash
from assent.data.loading import Dataset
from assent.data.named import load_named
from assent.data.rows_write import context
from assent.data.shards import Apart, Done, Record
from assent.data.texts import as_plain, last_content
from assent.engine.ledger import Ledger
from assent.engine.peak_memory import PeakMemory
from assent.engine.references import Reference, completion_sums
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.models.folders import check_revision, content_hash
from assent.models.loading import check_adapter, check_context, load_config, load_tokenizer
from assent.models.token_report import TokenReport
from assent.models.tokenizing import tokenize_groups
from assent.rewards.base import checked_reward, joined
from assent.rewards.loading import check_reward, load_reward, readers_of, reward_hash
from assent.runs.files import replacing, storage_errors, to_json
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.stages.selecting import to_completions
from assent.types import PromptGroup

UNIT_ROWS = 256
"""Rows that are read or scored together, as the reference's pass of `dpo` reads them, however the work is cut."""


def score(config: ScoreConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `scored` (file), `output_dir`, `metrics`. Of work in shards that is not all done, their status."""
    if (status := status_of(config, "scored")) is not None:
        return status
    job = ScoreJob(config)
    name = "scores" if config.logprobs is None else "logprobs"

    def join(records: Iterable[Record], folder: RunFolder, log: RunLog) -> dict[str, Any]:
        path, scores = folder.path / f"{name}.jsonl", array("d")

        def lines() -> Iterator[Record]:
            for record in records:
                scores.extend(record.get("scores") or [record["score"]] if name == "scores" else ())
                yield record

        with storage_errors(path), replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(to_json(record) + "\n" for record in lines())
        metrics = {"mean_reward": float(np.mean(scores))} if len(scores) else {}
        metrics |= job.ledger.metrics()
        return close(folder, {job.output: path}, metrics, apart=job.apart, refused=job.told(log))

    return run_job(job, join, opened=lambda: job.open(progress), progress=progress)


def _check_has_column(dataset: Dataset) -> None:
    """Raises DataError for a layout that has no column for log-probabilities."""
    columns = () if dataset.layout == "groups" else get_layout(dataset.layout).optional
    if not {"logp", "logps", "chosen_logps"} & set(columns):
        raise DataError(
            f"{dataset.path}: the layout has no column for log-probabilities",
            got=dataset.layout,
            expected="prompt, completion; prompt, chosen, rejected; prompt, completions with ranking or scores; thumbs",
            fix="write the rows in one of these layouts",
        )


def _is_single(dataset: Dataset) -> bool:
    """Whether each row has one completion, by its layout."""
    several = dataset.layout in ("rankings", "scores")
    if dataset.layout == "groups":
        several = any(len(group.completions) > 1 for group in dataset)
    return not several and len(dataset[0].completions) == 1


class ScoreJob:
    """Rows with completions, to be scored. Input is checked here; no weights are loaded."""

    output, unit = "scored", UNIT_ROWS

    def __init__(self, config: ScoreConfig) -> None:
        self.config = config
        check_engine(config)
        if config.reward is not None:
            check_reward(config.reward, ensemble=config.reward_ensemble)
        if config.logprobs is not None:
            check_revision(config.revision, config.logprobs)
            check_context(load_config(config.logprobs, revision=config.revision), config.max_length)
            check_adapter(config.logprobs, revision=config.revision)
            template_of(config, load_tokenizer(config.logprobs, revision=config.revision))
        self.dataset = load_named(config)
        if config.logprobs is not None:
            _check_has_column(self.dataset)
        self.ledger = Ledger(Runtime.of(config).device)
        self.apart: list[Apart] = []
        self.reports: list[dict[str, Any]] = []

    def told(self, log: RunLog) -> list[Apart]:
        """Says what tokenizing did to the rows, and returns those that it refused."""
        if not self.reports:
            return []
        report = TokenReport(max_length=self.config.max_length)
        for own in self.reports:
            report.merge(TokenReport(**own))
        for line in report.lines():
            log.note(line)
        return [Apart(row, reason) for reason, rows in report.refused.items() for row in rows]

    @property
    def rows(self) -> int:
        return len(self.dataset)

    def load(self, first: int, last: int) -> list[PromptGroup]:
        return to_completions(self.dataset[first:last])[0] if self.config.logprobs is None else self.dataset[first:last]

    def digest(self, first: int, last: int) -> str:
        return groups_hash(replace(group, source="") for group in self.dataset[first:last])

    def source(self, row: int) -> str:
        return self.dataset[row].source

    def opened(self, progress: Progress | None = None) -> Opener:
        return Opener(self.config, layout=self.dataset.layout, single=_is_single(self.dataset))

    def open(self, progress: Progress | None) -> RunFolder:
        config = self.config
        hashes = {"data": self.dataset.sha256}
        if config.reward is not None:
            hashes["reward"] = reward_hash(config.reward)
        if config.logprobs is not None:
            hashes["model"] = content_hash(config.logprobs, revision=config.revision)
        return open_job(config, "score", hashes, self.dataset.lines(), progress)


@dataclass(frozen=True, slots=True)
class Opener:
    """Loads what scores, in the process that works."""

    config: ScoreConfig
    layout: str
    single: bool
    """Whether each row has one completion."""

    def __call__(self, worker: int) -> RewardWork | LogprobWork:
        if self.config.logprobs is None:
            return RewardWork(self.config, single=self.single)
        return LogprobWork(self.config, self.layout)


class RewardWork:
    """Scores the completions of rows."""

    def __init__(self, config: ScoreConfig, *, single: bool) -> None:
        assert config.reward is not None
        self.single = single
        device = Runtime.of(config).device
        self.memory = PeakMemory(device)
        self.reward = load_reward(config.reward, ensemble=config.reward_ensemble, device=device, dtype=config.dtype)
        self.readers = readers_of(self.reward)
        self._flops = 0.0

    def __call__(self, groups: list[PromptGroup]) -> Done:
        return added_up(map(self._unit, _units(groups)))

    def _unit(self, groups: Sequence[PromptGroup]) -> Done:
        flat = [group for group in groups for _ in group.completions]
        texts = [last_content(text) for group in groups for text in group.completions]
        scores = joined([checked_reward(self.reward, [group.prompt for group in flat], texts, groups=flat)])
        records, start = [], 0
        for group in groups:
            own = [scores.of(i) for i in range(start, start + len(group.completions))]
            start += len(own)
            records.append(_scored(group, own, single=self.single))
        before, self._flops = self._flops, sum(reader.flops for reader in self.readers)
        return Done(records, _costs(self.memory, len(self.readers), self._flops - before, reward_calls=len(texts)))


def _scored(group: PromptGroup, scores: list[dict[str, Any]], *, single: bool) -> Record:
    """With `single` the row has `completion` and `score`, otherwise `completions` and `scores`."""
    completions = [as_plain(text) for text in group.completions]
    if single:
        return {**context(group), "completion": completions[0], **scores[0]}
    row = {**context(group), "completions": completions, "scores": [one["score"] for one in scores]}
    if "rewards" in scores[0]:
        row["rewards"] = {name: [one["rewards"][name] for one in scores] for name in scores[0]["rewards"]}
    if "step_rewards" in scores[0]:
        row["step_rewards"] = [one["step_rewards"] for one in scores]
    return row


class LogprobWork:
    """Reads the completions of rows with a model, and adds their summed log-probabilities to the rows."""

    def __init__(self, config: ScoreConfig, layout: str) -> None:
        assert config.logprobs is not None
        self.config, self.layout = config, get_layout(layout)
        self.runtime = Runtime.of(config)
        self.memory = PeakMemory(self.runtime.device)
        self.tokenizer = load_tokenizer(config.logprobs, revision=config.revision)
        self.template = template_of(config, self.tokenizer)
        self.reader = Reference(open_reader(config, config.logprobs, self.runtime.device), self.runtime)
        self._flops = 0.0

    def __call__(self, groups: list[PromptGroup]) -> Done:
        return added_up(map(self._unit, _units(groups)))

    def _unit(self, groups: Sequence[PromptGroup]) -> Done:
        tokenized = tokenize_groups(
            groups, tokenizer=self.tokenizer, template=self.template, max_length=self.config.max_length
        )
        sums = completion_sums(tokenized.groups, self.reader).tolist()
        records, start = [], 0
        for i in tokenized.kept:
            group = groups[i]
            own = tuple(sums[start : start + len(group.completions)])
            start += len(own)
            records.append(write_row(replace(group, logps=own), self.layout))
        report = TokenReport(max_length=self.config.max_length)
        report.merge(tokenized.report)  # without the rows' lengths
        before, self._flops = self._flops, self.reader.flops
        return Done(records, _costs(self.memory, 1, self._flops - before), reports=[asdict(report)])


def _units(groups: Sequence[PromptGroup]) -> Iterator[Sequence[PromptGroup]]:
    """A shard's rows in the parts in which they are worked on without shards: a shard begins at a multiple of them."""
    return (groups[start : start + UNIT_ROWS] for start in range(0, len(groups), UNIT_ROWS))


def _costs(memory: PeakMemory, models: int, flops: float, **counts: float) -> dict[str, float]:
    return {"flops": flops, "models_resident": float(models), "peak_memory_bytes": memory.bytes, **counts}
