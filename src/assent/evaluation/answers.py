"""A policy's answers: sampled now, or read from a file of completions.

Legend: P prompts, N answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from assent.data.loading import load_groups
from assent.data.readers import file_suffix
from assent.data.texts import last_content
from assent.errors import DataError
from assent.rewards.base import Reward, checked_reward, score_rollouts
from assent.types import PromptGroup, Rollout, Text


@dataclass(slots=True, kw_only=True)
class Answers:
    """One policy's answers in one decoding, prompt by prompt; each list is (N,). None: unknown (answers of a file)."""

    prompt_index: list[int]
    texts: list[str]
    tokens: list[int] | None = None
    """Lengths, EOS included."""
    ended: list[bool] | None = None
    """Whether each ended with EOS."""
    rollouts: list[Rollout] | None = None
    """Known where they were sampled; what a table needs of them stands in the lists below."""
    entropy: list[float] | None = None
    """−Σ log π, in nats."""
    k1: list[float] | None = None
    """KL estimates of each answer to the reference, in nats."""
    k3: list[float] | None = None
    scores: list[float] | None = None
    measures: Mapping[str, list[float | None]] = field(default_factory=dict)
    """What the safety function measured."""
    choice_kl: list[float] | None = None
    """Best-of-n only: of its one answer to a prompt, the estimated KL in nats to the policy that was sampled."""

    @classmethod
    def of_rollouts(cls, rollouts: list[Rollout]) -> Answers:
        return cls(
            prompt_index=[rollout.prompt_index for rollout in rollouts],
            texts=[rollout.text for rollout in rollouts],
            tokens=[len(rollout.ids) for rollout in rollouts],
            ended=[rollout.finish_reason == "stop" for rollout in rollouts],
            rollouts=rollouts,
            entropy=[-sum(rollout.logprobs) for rollout in rollouts],
        )

    @classmethod
    def of_prompts(cls, prompts: Sequence[Mapping[str, Any]]) -> Answers:
        """The answers to (P,) prompts, from what `by_prompt` gave of each. A list that one of them lacks is unknown."""
        index = [p for p, one in enumerate(prompts) for _ in one["texts"]]
        known = [name for name in _OF_EACH if all(name in one for one in prompts)]
        measured = dict.fromkeys(name for one in prompts for name in one["measures"])
        measures: dict[str, list[float | None]] = {name: [] for name in measured}
        for one in prompts:
            for name, values in measures.items():
                values += one["measures"].get(name) or [None] * len(one["texts"])
        lists = {name: [value for one in prompts for value in one[name]] for name in known}
        return cls(prompt_index=index, measures=measures, **lists)

    def by_prompt(self, num_prompts: int) -> list[dict[str, Any]]:
        """For each prompt, what a table needs of its answers, as JSON."""
        known = {name: values for name in _OF_EACH if (values := getattr(self, name)) is not None}
        pick = lambda lists, places: {name: [values[i] for i in places] for name, values in lists.items()}
        rows = self.places(num_prompts)
        return [{**pick(known, places), "measures": pick(self.measures, places)} for places in rows]

    def score(self, reward: Reward, groups: Sequence[PromptGroup]) -> list[float]:
        """A score for each answer. `groups` (P,) are the prompts' rows."""
        if self.rollouts is not None:
            return score_rollouts(reward, self.rollouts, groups)
        rows = [groups[p] for p in self.prompt_index]
        prompts = [row.prompt for row in rows]
        return checked_reward(reward, prompts, self.texts, groups=rows)

    def places(self, num_prompts: int) -> list[list[int]]:
        """For each prompt, the positions of its answers."""
        rows: list[list[int]] = [[] for _ in range(num_prompts)]
        for i, prompt in enumerate(self.prompt_index):
            rows[prompt].append(i)
        return rows

    def kept(self, places: Sequence[int]) -> Answers:
        """The answers at these positions, before they are judged."""
        pick = lambda column: None if column is None else [column[i] for i in places]
        return Answers(
            prompt_index=[self.prompt_index[i] for i in places],
            texts=[self.texts[i] for i in places],
            tokens=pick(self.tokens),
            ended=pick(self.ended),
            rollouts=pick(self.rollouts),
            entropy=pick(self.entropy),
        )


_OF_EACH = ("texts", "tokens", "ended", "entropy", "k1", "k3", "scores", "choice_kl")


@dataclass(frozen=True, slots=True)
class Completions:
    """The completions in a file, by prompt and in the file's order."""

    path: str
    sha256: str
    of: Mapping[str, Sequence[PromptGroup]]
    """A prompt's `key` to the rows with its completions."""

    def only(self, groups: Sequence[PromptGroup]) -> Completions:
        """Those of these prompts."""
        names = [key(group.prompt) for group in groups]
        return replace(self, of={name: self.of[name] for name in names})

    def answers(self, groups: Sequence[PromptGroup], *, at_most: int | None = None) -> Answers:
        """Answers to these prompts, all of which the file must hold. `at_most`: only the first ones of each prompt.

        Raises DataError if a prompt has fewer than `at_most`.
        """
        found = Answers(prompt_index=[], texts=[])
        tokens: list[object] = []
        reasons: list[object] = []
        for number, group in enumerate(groups):
            rows = self.of[key(group.prompt)]
            texts = [(text(completion), row) for row in rows for completion in row.completions]
            if at_most is not None and len(texts) < at_most:
                raise DataError(
                    f"{self.path} has too few completions for a prompt",
                    got=f"{len(texts)} ({rows[0].source})",
                    expected=f"{at_most} or more",
                    fix="sample more completions, or ask for fewer",
                )
            for answer, row in texts[:at_most]:
                found.prompt_index.append(number)
                found.texts.append(answer)
                tokens.append(row.columns.get("tokens"))
                reasons.append(row.columns.get("finish_reason"))
        counts = [n for n in tokens if isinstance(n, int) and not isinstance(n, bool)]
        found.tokens = counts if len(counts) == len(tokens) else None
        if all(reason in ("stop", "length") for reason in reasons):
            found.ended = [reason == "stop" for reason in reasons]
        return found


def is_file(path: str) -> bool:
    """Whether a policy is a file of completions, or has the name of one, rather than a model's folder or a hub name."""
    return Path(path).is_file() or (file_suffix(Path(path)) is not None and not Path(path).is_dir())


def read_completions(path: str) -> Completions:
    """Raises DataError for a file without completions, and for one of comparisons, which are not one policy's."""
    data = load_groups(path)
    rows: dict[str, list[PromptGroup]] = {}
    for group in data:
        if not group.completions:
            raise DataError(
                f"{group.source or path} has no completion",
                got=f"the layout {data.layout}",
                expected="prompt and completion, or prompt and completions, as sample and best-of-n write them",
            )
        if group.preference is not None and group.preference.ranking is not None:
            raise DataError(
                f"{path} holds comparisons, not one policy's completions",
                got=f"the layout {data.layout}",
                expected="prompt and completion, or prompt and completions",
            )
        rows.setdefault(key(group.prompt), []).append(group)
    if not rows:
        raise DataError(f"{path} holds no completions", expected="at least one row")
    return Completions(path, data.sha256, rows)


def in_common(groups: Sequence[PromptGroup], files: Mapping[str, Completions]) -> list[PromptGroup]:
    """The prompts for which every file has completions. If there are files, a prompt that occurs twice counts once.

    Raises DataError if there are none, naming a file and a prompt of each side.
    """
    if not files:
        return list(groups)
    once = list({key(group.prompt): group for group in reversed(groups)}.values())[::-1]
    kept = [group for group in once if all(key(group.prompt) in file.of for file in files.values())]
    if not kept:
        counts = {name: sum(key(group.prompt) in file.of for group in once) for name, file in files.items()}
        name, least = min(counts.items(), key=lambda item: item[1])
        held = next(iter(files[name].of.values()))[0].prompt
        raise DataError(
            "the files of completions and the data have no prompts in common",
            got=f"{least} of {len(once)} prompts in {files[name].path}, whose first is {_opening(held)}",
            expected=f"completions of the data's prompts, the first of which is {_opening(once[0].prompt)}",
            fix="sample from the same prompts (assent sample --data PROMPTS); text and messages are different prompts",
        )
    return kept


def key(prompt: Text) -> str:
    """Equal for equal prompts, whatever else their rows hold."""
    return prompt if isinstance(prompt, str) else repr([(message.role, message.content) for message in prompt])


def _opening(prompt: Text) -> str:
    asked = last_content(prompt)
    form = "" if isinstance(prompt, str) else " (messages)"
    return repr(asked if len(asked) <= 80 else asked[:80] + "…") + form


def text(completion: Text) -> str:
    """The text of a completion of one assistant turn."""
    return completion if isinstance(completion, str) else "".join(message.content for message in completion)


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Share of different n-grams of words in all texts together (Li et al., arXiv:1510.03055, §4.3).

    None if no text has n words.
    """
    grams: Counter[tuple[str, ...]] = Counter()
    for one in texts:
        words = one.split()
        grams.update(zip(*(words[i:] for i in range(n)), strict=False))
    return len(grams) / grams.total() if grams else None


def lengths(answers: Answers) -> np.ndarray:
    """(N,) characters."""
    return np.array([len(one) for one in answers.texts], dtype=np.float64)
