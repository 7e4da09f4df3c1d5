"""Reads files into tokens for every stage. It writes nothing, loads no weights and names every bad row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from assent.config.data import DataOptions
from assent.config.held_out import ValidationOptions
from assent.config.options import PromptOptions, StageOptions
from assent.data.loading import load_groups
from assent.data.splitting import split_by_conversation_root
from assent.data.texts import counted
from assent.data.unread import REPETITION_FIX, Census, in_rows, is_repeated_throughout, refuse_group, repetition
from assent.errors import DataError
from assent.models.batch import TokenGroup
from assent.models.folders import check_revision
from assent.models.loading import load_tokenizer
from assent.models.templates import Template, resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.models.unread_keys import unread_keys_line
from assent.stages.selecting import Select
from assent.stages.validation import check_overlap
from assent.types import PromptGroup


@dataclass(slots=True)
class Part:
    """One tokenized data set. `tokens[i]` are the tokens of `groups[i]`."""

    name: str
    groups: list[PromptGroup]
    tokens: list[TokenGroup]
    sha256: str
    labelled: bool
    """True if the rows have completions, which somebody wrote or judged: each row then costs a label."""
    shortened: int = 0
    """Rows that `max_length` cut."""
    lines: list[str] = field(default_factory=list)
    """Lines for the log: rows used, shortened and refused, with the reasons."""


@dataclass(slots=True)
class StageData:
    """A stage's tokenizer, template and tokenized data."""

    tokenizer: PreTrainedTokenizerBase
    template: Template
    parts: dict[str, Part]

    @property
    def train(self) -> Part:
        return self.parts["train"]

    def lines(self) -> list[str]:
        return [line for part in self.parts.values() for line in part.lines]


def read_stage_data(
    config: PromptOptions,
    *,
    model: str,
    sources: dict[str, str | Sequence[PromptGroup] | None],
    select: Select,
    **tokenizing: Any,
) -> StageData:
    """Reads and tokenizes `sources`, a path or groups for each name. Skips a source that is None.

    With `eval_fraction`, `eval` is that share of `train`'s conversations. Raises DataError if a source has no usable
    row or if `train` and `eval` share a prompt; TemplateError and ModelError if the tokenizer cannot be used.
    """
    check_revision(config.revision, model)
    if isinstance(config, ValidationOptions) and config.eval_split is not None and sources.get("eval", "") is None:
        sources = {**sources, "eval": sources["train"]}
    raw = {name: _load(config, name, source) for name, source in sources.items() if source is not None}
    if isinstance(config, StageOptions) and (fraction := config.eval_fraction) is not None:
        path, groups, sha256, refused, notes = raw["train"]
        parted = split_by_conversation_root(
            groups, fractions={"train": 1 - fraction, "eval": fraction}, seed=config.seed
        )
        raw["train"] = (path, parted["train"], sha256, refused, notes)
        raw["eval"] = (f"{path}, {fraction:g} of its conversations", parted["eval"], sha256, 0, [])
    tokenizer = load_tokenizer(model, revision=config.revision)
    template = resolve_template(
        tokenizer,
        chat_template=config.chat_template,
        system=config.system,
        prompt_format=config.prompt_format,
        chat_template_kwargs=config.chat_template_kwargs,
        keep_template_tail=config.keep_template_tail,
    )
    parts = {}
    for name, (path, groups, sha256, refused, notes) in raw.items():
        kept, refused_by_stage = select(groups)
        tokenized = tokenize_groups(
            kept, tokenizer=tokenizer, template=template, max_length=config.max_length, **tokenizing
        )
        lines = [f"{name} data: {path}, {counted(len(groups) + refused, 'row')}", *(f"  {note}" for note in notes)]
        lines += [f"  refused at loading: {refused}"] if refused else []
        lines += [
            f"  refused: {len(rows)} ({reason}; {', '.join(rows[:3])})" for reason, rows in refused_by_stage.items()
        ]
        has_reward = "reward" in type(config).model_fields
        lines += [f"  {line}" for line in _census(path, kept, template=template, has_reward=has_reward)]
        lines += [f"  {line}" for line in tokenized.report.lines()]
        if not tokenized.groups:
            raise DataError(f"{path}: no usable row is left", got="\n".join(lines), expected="at least one row")
        rows = [kept[i] for i in tokenized.kept]
        labelled = any(group.completions for group in rows)
        parts[name] = Part(name, rows, list(tokenized.groups), sha256, labelled, tokenized.report.shortened, lines)
    if "eval" in parts:
        parts["eval"].lines += check_overlap(parts["train"].groups, parts["eval"].groups)
    return StageData(tokenizer, template, parts)


def _census(path: str, groups: Sequence[PromptGroup], *, template: Template, has_reward: bool) -> list[str]:
    """What the rows hold and nothing reads (law 12). DataError where the prompt stands twice in most of the rows."""
    census = Census(groups)
    twice = repetition(census)
    if twice is not None and is_repeated_throughout(census):
        raise DataError(f"{path}: {twice}", expected="completions that go on where the prompt ends", fix=REPETITION_FIX)
    lines = [twice] if twice is not None else []
    if census.columns:
        lines.append(("left to the reward: " if has_reward else "not read: ") + in_rows(census.columns))
    unread = unread_keys_line(groups, template)
    return lines if unread is None else [*lines, unread]


_Raw = tuple[str, Sequence[PromptGroup], str, int, list[str]]
"""Path, groups, SHA-256, number of refused rows, and what to say of how they were read."""


def _load(config: PromptOptions, name: str, source: str | Sequence[PromptGroup]) -> _Raw:
    if isinstance(source, str):
        options = config if isinstance(config, DataOptions) else DataOptions()
        is_other = name in ("eval", "normalize")
        split = None if is_other else options.split
        if name == "eval" and isinstance(config, ValidationOptions):
            split = config.eval_split
        dataset = load_groups(source, split=split, columns=options.columns, own_columns=not is_other)
        return dataset.path, dataset, dataset.sha256, len(dataset.refused), dataset.notes
    digest = hashlib.sha256()
    for group in source:
        refuse_group(group)
        digest.update(repr(group).encode())
    return "rows from Python", source, digest.hexdigest(), len(getattr(source, "refused", ())), []
