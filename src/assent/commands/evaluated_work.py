"""The work of `eval`: prompts for one policy after the other in, its judged answers out, at once or in shards.

A row is a prompt that one policy answers, so that a worker has one policy in memory at a time. What compares answers of
several policies, a judge of pairs among them, is the joining process's work.

Legend: P prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from assent.commands.divided import check_engine, open_job
from assent.commands.opening import Prompts, open_policy, open_reader, template_of
from assent.commands.policies import Cast, Judging, open_measure
from assent.config.evaluation import EvalConfig
from assent.data.given import groups_hash
from assent.data.shards import Apart, Done, Record
from assent.engine.ledger import Ledger
from assent.engine.runtime import Runtime
from assent.errors import RunError
from assent.evaluation.answers import Answers, Completions
from assent.evaluation.policies import BestOfN, Decodings, EvaluationPlan, Judges, Policy, answers_of
from assent.evaluation.policy_table import check_names
from assent.judging.chat import ChatSafety
from assent.models.loading import load_tokenizer
from assent.rewards.endpoint import endpoints_of
from assent.rewards.loading import load_reward, shown_by
from assent.rollouts.kept import KeptDraws
from assent.rollouts.opening import open_sampler
from assent.rollouts.sampler import Sampler
from assent.runs.folder import KEPT, RunFolder
from assent.runs.kept import Kept
from assent.runs.progress import Progress
from assent.types import PromptGroup

UNIT_ROWS = 64
"""Rows that are worked on together, however the work is cut."""
JUDGEMENTS, DRAWN = KEPT


@dataclass(frozen=True, slots=True)
class Turn:
    """Prompts for one policy. Their numbers, from `first` on, count over all prompts."""

    policy: str
    first: int
    groups: list[PromptGroup]
    ids: list[tuple[int, ...]]
    completions: Completions | None
    """Its answers, if they are a file's."""


@dataclass(frozen=True, slots=True)
class Opener:
    """Loads what all policies share, in the process that works: judges and the reference."""

    config: EvalConfig
    scorer: Any
    safety: str | None
    tokenizer: str | None
    """The folder of the models' tokenizer; None if all policies are files."""
    reference: str | None
    """The folder of the model that KL is measured to."""
    answered: Kept | None = None
    """What servers answered before an interruption: of work in one piece, whose shards do not keep it."""
    drawn: Mapping[str, KeptDraws] | None = None
    """By name of a model, what it drew before an interruption, likewise."""
    progress: Progress | None = None
    """None in a worker: nothing can be shown from another process."""

    def __call__(self, worker: int) -> Work:
        return Work(self)


class Work:
    """Has policies answer. A record for each row has its policy, its prompt's number, and its answers by decoding."""

    def __init__(self, opener: Opener) -> None:
        config = self.config = opener.config
        self.drawn = opener.drawn or {}
        self.device = Runtime.of(config).device
        tokenizer = None if opener.tokenizer is None else load_tokenizer(opener.tokenizer, revision=config.revision)
        options = {"device": self.device, "dtype": config.dtype, "policy_tokenizer": tokenizer}
        self.chooser = None
        if config.best_of_n and config.reward_model is not None:
            self.chooser = load_reward(config.reward_model, ensemble=config.reward_ensemble, **options)
        scorer = None if opener.scorer is None else load_reward(opener.scorer, **options)
        safety = None if opener.safety is None else open_measure(config, opener.safety)
        asked: list[Any] = [*endpoints_of(self.chooser), *endpoints_of(scorer)]
        asked += [safety.chat] if isinstance(safety, ChatSafety) else []
        for server in asked:
            server.kept = opener.answered
        self.progress = opener.progress
        for reward in (self.chooser, scorer):
            shown_by(reward, self.progress)
        assert config.baseline is not None
        self.plan = EvaluationPlan(
            groups=(),
            judges=Judges(scorer=scorer, safety=safety),
            baseline=config.baseline,
            reference=None if opener.reference is None else open_reader(config, opener.reference, self.device),
            max_new_tokens=config.max_new_tokens,
            samples_per_prompt=config.samples_per_prompt,
            seed=config.seed,
        )
        self._sampler: tuple[str, Sampler] | None = None

    def __call__(self, turns: Sequence[Turn]) -> Done:
        records = [record for turn in turns for record in self._answered(turn)]
        return Done(records, reports=[{"judge": self.plan.judges.name}])

    def _answered(self, turn: Turn) -> list[Record]:
        plan = replace(self.plan, groups=turn.groups, prompt_ids=turn.ids, first=turn.first)
        answers = answers_of(self._policy(turn), plan)
        by_prompt = {decoding: own.by_prompt(len(turn.groups)) for decoding, own in answers.items()}
        return [
            {"policy": turn.policy, "prompt": turn.first + i, **{kind: of[i] for kind, of in by_prompt.items()}}
            for i in range(len(turn.groups))
        ]

    def _policy(self, turn: Turn) -> Policy:
        config = self.config
        of = turn.policy if turn.policy in config.policies else config.baseline
        assert of is not None
        source: dict[str, Any] = {"name": turn.policy, "completions": turn.completions}
        if turn.completions is None:
            source |= {"open": partial(self._opened, config.policies[of]), "kept": self.drawn.get(of)}
        if of == turn.policy:
            return Policy(**source)
        return BestOfN(**source, n=config.best_of_n, reward=self.chooser)

    def _opened(self, path: str) -> Sampler:
        """A policy's sampler. The one before is let go first."""
        if self._sampler is None or self._sampler[0] != path:
            self._sampler = None
            tokenizer = load_tokenizer(path, revision=self.config.revision)
            model = open_policy(self.config, path, self.device, tokenizer=tokenizer)
            template = template_of(self.config, tokenizer)
            self._sampler = path, open_sampler(self.config, model, template, progress=self.progress)
        return self._sampler[1]


class Job:
    """The rows of an evaluation: policy by policy, the P prompts of each. All input has been checked."""

    output, unit = "evaluation", UNIT_ROWS

    def __init__(
        self,
        config: EvalConfig,
        cast: Cast,
        judging: Judging,
        prompts: Prompts,
        *,
        policies: Sequence[Policy],
        hashes: Mapping[str, str],
        lines: Sequence[str],
        progress: Progress,
    ) -> None:
        check_engine(config)
        assert config.baseline is not None
        check_names(policies, config.baseline)
        self.config, self.cast, self.judging, self.prompts = config, cast, judging, prompts
        self.policies, self.hashes, self.lines, self.progress = policies, hashes, lines, progress
        self.ledger = Ledger(Runtime.of(config).device)
        self.apart: list[Apart] = []
        self.reports: list[dict[str, Any]] = []

    @property
    def rows(self) -> int:
        return len(self.policies) * len(self.prompts.groups)

    def load(self, first: int, last: int) -> list[Turn]:
        turns = []
        while first < last:
            policy, start = divmod(first, len(self.prompts.groups))
            # neither beyond the unit nor beyond the policy's last prompt: the same parts in every cut
            stop = min(last - first, UNIT_ROWS - first % UNIT_ROWS, len(self.prompts.groups) - start) + start
            groups, name = self.prompts.groups[start:stop], self.policies[policy].name
            file = self.cast.files.get(name if name in self.config.policies else self.config.baseline or "")
            completions = None if file is None else file.only(groups)
            turns.append(Turn(name, start, groups, self.prompts.ids[start:stop], completions))
            first += stop - start
        return turns

    def digest(self, first: int, last: int) -> str:
        """Of the policies' names and the prompts. What the policies are stands in the run's own hashes."""
        parts = [
            (turn.policy, turn.first, groups_hash(replace(group, source="") for group in turn.groups))
            for turn in self.load(first, last)
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def source(self, row: int) -> str:
        policy, prompt = divmod(row, len(self.prompts.groups))
        return f"{self.policies[policy].name}: {self.prompts.groups[prompt].source}"

    def opened(self, progress: Progress | None = None) -> Opener:
        cast = self.cast
        is_kept = self.answered is not None and not self.config.is_sharded
        return Opener(
            self.config,
            scorer=self.judging.scorer,
            safety=self.judging.safety,
            tokenizer=cast.tokenizer_path,
            reference=None if cast.reference is None else cast.models[cast.reference],
            answered=self.answered if is_kept else None,
            drawn=self._drawn() if is_kept else None,
            progress=progress,
        )

    @cached_property
    def answered(self) -> Kept | None:
        """The answers of servers, kept for a run that is interrupted and repeated. The folder's lock must be held."""
        if self.config.output_dir is None:
            return None
        kept = Kept(Path(self.config.output_dir) / JUDGEMENTS)
        for line in kept.said:
            self.progress.line(f"{line}; these servers are asked again")
        if len(kept):
            self.progress.line(f"{len(kept):,} answers of servers are kept from before and are not requested again")
        return kept

    def _drawn(self) -> dict[str, KeptDraws]:
        config, cast = self.config, self.cast
        assert config.output_dir is not None
        same: list[Any] = [config.dtype, config.sampler, config.max_length, str(Runtime.of(config).device)]
        same += [] if cast.template is None else [sorted(cast.template.eos_ids)]
        folder = Path(config.output_dir) / DRAWN
        return {name: KeptDraws(folder, [self.hashes[f"policy {name}"], *same]) for name in cast.models}

    def open(self) -> RunFolder:
        return open_job(self.config, "eval", self.hashes, self.lines, self.progress)

    def answers(self, records: Iterable[Record]) -> tuple[list[int], dict[str, Decodings]]:
        """The prompts that every policy has answered, and the answers to them by policy and decoding.

        Raises RunError if there is no such prompt.
        """
        found: dict[str, dict[int, Record]] = {policy.name: {} for policy in self.policies}
        for record in records:
            found[record["policy"]][record["prompt"]] = record
        prompts = [p for p in range(len(self.prompts.groups)) if all(p in own for own in found.values())]
        if not prompts:
            raise RunError(
                "there is no prompt that every policy could answer",
                got=f"{self.apart[0].source}: {self.apart[0].error}" if self.apart else None,
                fix="the same command with --status lists what was kept apart, and why",
            )
        answers: dict[str, Decodings] = {}
        for name, own in found.items():
            decodings = [kind for kind in ("sampled", "greedy") if kind in own[prompts[0]]]
            answers[name] = {kind: Answers.of_prompts([own[p][kind] for p in prompts]) for kind in decodings}
        return prompts, answers
