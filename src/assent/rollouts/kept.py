"""Completions that were drawn before an interruption. The resumed run reads them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assent.rollouts.sampler import Sampler, SamplingParams, SeedKey
from assent.runs.files import keep_lines, read_lines, storage_errors
from assent.runs.kept import content_key
from assent.types import Rollout

_SEAL = "sha256"
"""The last line's key, with a hash over the lines before it."""


@dataclass(frozen=True, slots=True)
class KeptDraws:
    """A folder of one policy's rollouts: a file for each request, named by all that the rollouts depend on."""

    folder: Path
    policy: Sequence[Any]
    """What identifies the policy and its sampler: its content hash, dtype, device …"""

    def sample(
        self,
        opened: Callable[[], Sampler],
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """See `Sampler.sample`. `opened` opens the sampler and is called only if the folder lacks these rollouts."""
        numbers = list(prompt_numbers or range(len(prompts)))
        asked = [self.policy, prompts, numbers, num_completions, asdict(params), asdict(seed)]
        path = self.folder / f"{content_key(asked)[:32]}.jsonl"
        if (rows := _whole(read_lines(path))) is not None:
            return [_rollout(row, prompts) for row in rows]
        rollouts = opened().sample(
            prompts, num_completions=num_completions, params=params, seed=seed, prompt_numbers=numbers
        )
        with storage_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        rows = [asdict(rollout) for rollout in rollouts]
        rows = [{name: value for name, value in row.items() if name != "prompt_ids"} for row in rows]
        keep_lines(path, [*rows, {_SEAL: content_key(rows)}])
        return rollouts


def _whole(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The rollouts, if they are those that were written; None if the file is damaged or not there."""
    *drawn, last = rows or [{}]
    return drawn if last == {_SEAL: content_key(drawn)} else None


def _rollout(row: dict[str, Any], prompts: Sequence[tuple[int, ...]]) -> Rollout:
    lists = {name: tuple(row[name]) for name in ("ids", "logprobs")}
    return Rollout(**{**row, **lists}, prompt_ids=tuple(prompts[row["prompt_index"]]))
