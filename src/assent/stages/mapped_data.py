"""Training data that is larger than memory: tokenized once into a memory-mapped file, block by block.

The store's name is a hash of all that its rows depend on: the data's content and name, the tokenizer and the template,
the options of selecting and tokenizing, and the format: the same data is tokenized once for all runs. What is said of
the rows is kept beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent import __version__
from assent.data.loading import Dataset
from assent.data.splitting import conversation_root, prompt_key
from assent.data.unread import Census
from assent.models.batch import TokenGroup
from assent.models.templates import Template
from assent.models.token_report import TokenReport
from assent.models.token_store import StoredGroups, StoreWriter, stored_facts
from assent.models.tokenizing import SAMPLE, UNSAID, tokenize_groups
from assent.models.unread_keys import KeyCensus
from assent.rewards.reward_model import tokenizer_hash
from assent.runs.files import sha256_of, to_json, user_cache
from assent.stages.selecting import Select
from assent.types import PromptGroup

FORMAT = 1
BLOCK_ROWS = 2048
"""Rows in memory at a time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How rows become tokens: everything but the rows."""

    template: Template
    select: Select
    selection: str
    """What `select` depends on."""
    max_length: int
    tokenizing: Mapping[str, Any]

    def key(self, *, path: str, sha256: str, reading: Mapping[str, Any]) -> str:
        """The name of the store. `reading`: the options by which the rows were read."""
        template = self.template
        parts = {
            "format": FORMAT,
            "assent": __version__,
            "data": [path, sha256, dict(reading)],
            "tokenizer": tokenizer_hash(template.tokenizer),
            "template": [template.source, template.system, template.prompt_format, template.keep_template_tail],
            "kwargs": dict(template.chat_template_kwargs),
            "eos": sorted(template.eos_ids),
            "selection": self.selection,
            "max_length": self.max_length,
            "tokenizing": dict(self.tokenizing),
        }
        return hashlib.sha256(to_json(parts).encode()).hexdigest()[:32]


@dataclass(slots=True)
class Seen:
    """What is counted while the rows pass by."""

    report: TokenReport
    keys: KeyCensus
    census: Census = field(default_factory=Census)
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Rows that the stage cannot use, by reason."""
    labelled: bool = False


Told = Callable[[Dataset, Seen], list[str]]
"""The lines of the log about the rows. Raises DataError if they cannot be used."""


def stored_groups(
    path: str, asked: Asked, *, load: Callable[[], Dataset], reading: Mapping[str, Any], told: Told
) -> StoredGroups:
    """The tokens of the file `path`; its `facts` have `lines`, `shortened`, `labelled` and the data's `data_sha256`.

    They are tokenized if no store has them. Raises what `load` and tokenizing raise, and StorageError.
    """
    sha256 = _quick_hash(path)
    dataset = load() if sha256 is None else None
    key = asked.key(path=path, sha256=sha256 or (dataset.sha256 if dataset is not None else ""), reading=reading)
    folder = user_cache() / "tokens" / key
    facts = stored_facts(folder)
    if facts is None:
        rows = load() if dataset is None else dataset
        seen = Seen(TokenReport(max_length=asked.max_length), KeyCensus(asked.template))

        def known() -> dict[str, Any]:
            return {
                "lines": told(rows, seen),
                "shortened": seen.report.shortened,
                "labelled": seen.labelled,
                "data_sha256": rows.sha256,
            }

        StoreWriter(folder).write(blocks(rows, asked, seen), known)
        facts = stored_facts(folder)
        assert facts is not None, "the store was just written"
    return StoredGroups(folder, facts, unsaid=UNSAID)


def _quick_hash(path: str) -> str | None:
    """The hash that reading the file would find, for a plain file of lines; None for others, which have to be read."""
    file = Path(path).expanduser()
    return sha256_of(file) if file.is_file() and file.suffix in (".jsonl", ".ndjson") else None


def blocks(dataset: Sequence[PromptGroup], asked: Asked, seen: Seen) -> Iterator[Sequence[TokenGroup]]:
    """The tokens of the rows, a block at a time; `seen` counts them."""
    total = max(1, len(dataset))
    for start in range(0, len(dataset), BLOCK_ROWS):
        block = dataset[start : start + BLOCK_ROWS]
        kept, refused = asked.select(block)
        for reason, rows in refused.items():
            seen.refused.setdefault(reason, []).extend(rows)
        tokenized = tokenize_groups(
            kept,
            tokenizer=asked.template.tokenizer,
            template=asked.template,
            max_length=asked.max_length,
            compared=max(1, SAMPLE * len(block) // total),
            **asked.tokenizing,
        )
        seen.report.merge(tokenized.report)
        for group in kept:
            seen.census.add(group)
            seen.keys.add(group)
        seen.labelled |= any(kept[i].completions for i in tokenized.kept)
        yield tokenized.groups


def alike(dataset: Sequence[PromptGroup], select: Select, held_out: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The training rows that share a prompt or its first user turn with held-out ones, in their order."""
    roots = {conversation_root(group.prompt) for group in held_out}
    prompts = {prompt_key(group.prompt) for group in held_out}
    found: list[PromptGroup] = []
    for start in range(0, len(dataset), BLOCK_ROWS):
        kept, _ = select(dataset[start : start + BLOCK_ROWS])
        found += [g for g in kept if conversation_root(g.prompt) in roots or prompt_key(g.prompt) in prompts]
    return found
