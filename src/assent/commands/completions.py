"""`sample`: completions of a policy, written to a file that every other command reads.

completions.jsonl   prompt, completion and how it ended; with --keep best, each prompt's best one and its `reward`

Completions without a visible character are left out of the file, counted and reported.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from assent.commands.completion_rows import Row, is_visible
from assent.commands.divided import status_of
from assent.commands.sampled_work import Job, scores_in
from assent.config.completions import SampleConfig
from assent.data.shards import Record
from assent.errors import RunError
from assent.inference.best_of_n import best_index
from assent.rewards.base import Scores, joined
from assent.rollouts.sampler import SamplingParams
from assent.runs.files import replacing, storage_errors, to_json
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog


def sample(config: SampleConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `completions` (file), `output_dir`, `metrics`. Of work in shards that is not all done, their status."""
    if (status := status_of(config, "completions")) is not None:
        return status
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        greedy=config.greedy,
        stop=tuple(config.stop),
    )
    job = Job(config, params, num_completions=config.num_completions)
    return job.run("sample", lambda records, folder, log: _written(job, records, folder, log), progress)


def _written(job: Job, records: Iterable[Record], folder: RunFolder, log: RunLog) -> dict[str, Any]:
    """Writes the completions while they come, and closes the run."""
    config, figures = job.config, Figures()
    assert isinstance(config, SampleConfig)
    scores: list[Scores] = []
    path = folder.path / "completions.jsonl"
    prompts = kept = 0

    def lines() -> Iterator[Row]:
        nonlocal prompts, kept
        for record in records:
            prompts += 1
            rows = record["rows"]
            figures.count(rows)
            if config.keep == "best":
                scores.append(scores_in(record))
                rows = _best(rows, scores[-1])
                figures.describe(rows)
            else:
                figures.describe(rows)
                rows = [row for row in rows if is_visible(row)]
            kept += len(rows)
            yield from rows

    with storage_errors(path), replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in lines():
            stream.write(to_json(row) + "\n")
        if config.keep == "best" and not kept:
            raise RunError("no completion has a visible character, so there is nothing to keep")
    metrics = figures.metrics()
    if config.keep == "best":
        if kept < prompts:
            log.note(f"{prompts - kept} of {prompts} prompts have no completion with a visible character")
        metrics = {**joined(scores).metrics(), **metrics, "mean_reward": figures.mean_reward()}
    else:
        figures.tell(log)
    return job.finish(folder, {"completions": path}, metrics)


def _best(rows: Sequence[Row], scores: Sequence[float]) -> list[Row]:
    """A prompt's highest-scoring visible completion, with its score; none if none is visible."""
    own = [i for i in range(len(rows)) if is_visible(rows[i])]
    if not own:
        return []
    best = own[best_index([scores[i] for i in own])]
    return [{**rows[best], "reward": scores[best]}]


class Figures:
    """Counts of rows, at a few bytes for each."""

    def __init__(self) -> None:
        self.rows = self.blank = self.stopped = 0
        self._lengths, self._rewards = array("q"), array("d")

    def count(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        self.blank += sum(not is_visible(row) for row in rows)

    def describe(self, rows: Sequence[Row]) -> None:
        self._lengths.extend(row["tokens"] for row in rows)
        self.stopped += sum(row["finish_reason"] == "stop" for row in rows)
        self._rewards.extend(row["reward"] for row in rows if "reward" in row)

    def metrics(self) -> dict[str, float]:
        return {
            "rollout/completion_length": float(np.mean(self._lengths)),
            "rollout/eos_rate": self.stopped / len(self._lengths),
            "rollout/blank": float(self.blank),
        }

    def mean_reward(self) -> float:
        return float(np.mean(self._rewards))

    def tell(self, log: RunLog) -> None:
        if self.blank:
            log.note(f"{self.blank} of {self.rows} completions have no visible character and are left out of the file")
