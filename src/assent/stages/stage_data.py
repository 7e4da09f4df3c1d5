"""Reads files into tokens for every stage. It writes nothing, loads no weights and names every bad row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from assent.config.data import DataOptions
from assent.config.held_out import ValidationOptions
from assent.config.options import PromptOptions, StageOptions
from assent.config.storage import StorageOptions
from assent.data.loading import Dataset, load_groups
from assent.data.splitting import split_by_conversation_root
from assent.data.texts import counted, some
from assent.data.unread import REPETITION_FIX, Census, in_rows, is_repeated_throughout, refuse_group, repetition
from assent.errors import DataError
from assent.models.batch import TokenGroup
from assent.models.folders import check_revision
from assent.models.loading import load_tokenizer
from assent.models.templates import Template, resolve_template
from assent.models.token_report import TokenReport
from assent.models.tokenizing import tokenize_groups
from assent.models.unread_keys import unread_keys_line
from assent.stages.mapped_data import Asked, Seen, alike, stored_groups
from assent.stages.selecting import Select
from assent.stages.validation import check_overlap
from assent.types import PromptGroup

LARGE_BYTES = 256_000_000
"""Of a training file, from which on its tokens are kept in a file, unless --data-storage says otherwise."""


@dataclass(slots=True)
class Part:
    """One tokenized data set. `tokens[i]` are the tokens of `groups[i]`."""

    name: str
    groups: Sequence[PromptGroup]
    """None of data that is not kept in memory."""
    tokens: Sequence[TokenGroup]
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
    selection: str = "",
    **tokenizing: Any,
) -> StageData:
    """Reads and tokenizes `sources`, a path or groups for each name. Skips a source that is None.

    `selection` names what `select` depends on. With it, large training data is kept in a file (`mapped_data.py`).

    With `eval_fraction`, `eval` is that share of `train`'s conversations. Raises DataError if a source has no usable
    row or if `train` and `eval` share a prompt; TemplateError and ModelError if the tokenizer cannot be used.
    """
    check_revision(config.revision, model)
    if isinstance(config, ValidationOptions) and config.eval_split is not None and sources.get("eval", "") is None:
        sources = {**sources, "eval": sources["train"]}
    given = {name: source for name, source in sources.items() if source is not None}
    mapped = [name for name, source in given.items() if selection and is_mapped(config, name, source)]
    raw = {name: _load(config, name, source) for name, source in given.items() if name not in mapped}
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
    asked = Asked(template, select, selection, config.max_length, tokenizing)
    parts = {name: _mapped(config, name, str(given[name]), asked) for name in mapped}
    for name, (path, groups, sha256, refused, notes) in raw.items():
        kept, refused_by_stage = select(groups)
        tokenized = tokenize_groups(
            kept, tokenizer=tokenizer, template=template, max_length=config.max_length, **tokenizing
        )
        read = _Read(name, path, len(groups) + refused, refused, notes)
        census = _census_lines(config, path, Census(kept), unread_keys_line(kept, template))
        lines = read.lines(refused_by_stage, census, tokenized.report, used=len(tokenized.groups))
        rows = [kept[i] for i in tokenized.kept]
        labelled = any(group.completions for group in rows)
        parts[name] = Part(name, rows, list(tokenized.groups), sha256, labelled, tokenized.report.shortened, lines)
    if "eval" in parts:
        train = parts["train"].groups
        if "train" in mapped:
            train = alike(_dataset(config, "train", str(given["train"])), select, parts["eval"].groups)
        parts["eval"].lines += check_overlap(train, parts["eval"].groups)
    return StageData(tokenizer, template, parts)


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a source."""

    name: str
    path: str
    rows: int
    refused: int
    notes: Sequence[str]

    def lines(
        self, by_stage: Mapping[str, Sequence[str]], census: Sequence[str], report: TokenReport, *, used: int
    ) -> list[str]:
        """The lines of the log. Raises DataError if no row is used."""
        lines = [f"{self.name} data: {self.path}, {counted(self.rows, 'row')}", *(f"  {note}" for note in self.notes)]
        lines += [f"  refused at loading: {self.refused}"] if self.refused else []
        lines += [f"  refused: {len(rows)} ({reason}; {some(rows)})" for reason, rows in by_stage.items()]
        refused = self.refused + sum(map(len, by_stage.values()))
        lines += [f"  {line}" for line in [*census, *report.lines(before=refused)]]
        if not used:
            raise DataError(f"{self.path}: no usable row is left", got="\n".join(lines), expected="at least one row")
        return lines


def is_mapped(config: PromptOptions, name: str, source: str | Sequence[PromptGroup]) -> bool:
    """Whether the tokens of this data are kept in a file instead of memory: training data that is large, or all."""
    if name != "train" or not isinstance(source, str) or not isinstance(config, StorageOptions):
        return False
    if config.data_storage != "auto":
        return config.data_storage == "mapped"
    file = Path(source).expanduser()
    return config.data_may_be_mapped and file.is_file() and file.stat().st_size >= LARGE_BYTES


def _mapped(config: PromptOptions, name: str, path: str, asked: Asked) -> Part:
    def told(dataset: Dataset, seen: Seen) -> list[str]:
        read = _Read(name, path, len(dataset) + len(dataset.refused), len(dataset.refused), dataset.notes)
        census = _census_lines(config, path, seen.census, seen.keys.line(seen.census))
        return read.lines(seen.refused, census, seen.report, used=seen.report.used)

    reading = {"columns": config.columns, "split": config.split} if isinstance(config, DataOptions) else {}
    tokens = stored_groups(path, asked, load=lambda: _dataset(config, name, path), reading=reading, told=told)
    facts = tokens.facts
    lines = [*facts["lines"], "  tokens are kept in a memory-mapped file, not in memory"]
    return Part(name, [], tokens, facts["data_sha256"], facts["labelled"], facts["shortened"], lines)


def _census_lines(config: PromptOptions, path: str, census: Census, unread: str | None) -> list[str]:
    """What the rows hold and nothing reads (law 12). DataError where the prompt stands twice in most of the rows."""
    twice = repetition(census)
    if twice is not None and is_repeated_throughout(census):
        raise DataError(f"{path}: {twice}", expected="completions that go on where the prompt ends", fix=REPETITION_FIX)
    lines = [twice] if twice is not None else []
    if census.columns:
        has_reward = "reward" in type(config).model_fields
        lines.append(("left to the reward: " if has_reward else "not read: ") + in_rows(census.columns))
    return lines if unread is None else [*lines, unread]


_Raw = tuple[str, Sequence[PromptGroup], str, int, list[str]]
"""Path, groups, SHA-256, number of refused rows, and what to say of how they were read."""


def _load(config: PromptOptions, name: str, source: str | Sequence[PromptGroup]) -> _Raw:
    if isinstance(source, str):
        dataset = _dataset(config, name, source)
        return dataset.path, dataset, dataset.sha256, len(dataset.refused), dataset.notes
    digest = hashlib.sha256()
    for group in source:
        refuse_group(group)
        digest.update(repr(group).encode())
    return "rows from Python", source, digest.hexdigest(), len(getattr(source, "refused", ())), []


def _dataset(config: PromptOptions, name: str, path: str) -> Dataset:
    options = config if isinstance(config, DataOptions) else DataOptions()
    is_other = name in ("eval", "normalize")
    split = None if is_other else options.split
    if name == "eval" and isinstance(config, ValidationOptions):
        split = config.eval_split
    return load_groups(path, split=split, columns=options.columns, own_columns=not is_other)
