"""Splits by conversation, and what two datasets have in common.

Rows that grew from one conversation share its first user turn. Split between train and test they leak: the test then
measures memory. So a split keeps them together, and overlap is counted at that root and at the whole prompt.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assent.data import texts
from assent.errors import DataError, UsageError
from assent.types import PromptGroup, Text

REMEDY = (
    "`assent data split FILE` writes two files without a common conversation; "
    "or train with --eval-fraction in the place of --eval-data"
)
"""Of a prompt that training and held-out data have in common."""

_FIRST_HUMAN_TURN = re.compile(r"\s*Human:(.*?)(?=\n\nAssistant:|\Z)", re.DOTALL)


def normalise(text: str) -> str:
    """Equal for texts that differ only in case, white space or the composition of their characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def conversation_root(prompt: Text) -> str:
    """The first user turn, normalised; of raw text its first "Human:" turn (hh-rlhf transcripts), else the whole."""
    if isinstance(prompt, str):
        match = _FIRST_HUMAN_TURN.match(prompt)
        return normalise(match.group(1) if match else prompt)
    first = next((message.content for message in prompt if message.role == "user"), None)
    return normalise(first if first is not None else texts.visible(prompt))


def prompt_key(prompt: Text) -> str:
    """Equal for prompts whose turns are equal when normalised. A raw string and a message list never are."""
    if isinstance(prompt, str):
        return normalise(prompt)
    return "\x1e".join(f"{message.role}\x1f{normalise(message.content)}" for message in prompt)


def split_by_conversation_root(
    groups: Sequence[PromptGroup], *, fractions: Mapping[str, float], seed: int
) -> dict[str, list[PromptGroup]]:
    """Shares out whole conversations, by number of groups, close to `fractions` (which sum to 1).

    The order of conversations is that of a hash of (seed, root): it depends neither on the order of the groups nor on
    Python's random state. Within a split the groups keep their order. Raises UsageError for fractions that are not
    positive or do not sum to 1, DataError where a split would be empty.
    """
    bad = [name for name, share in fractions.items() if not share > 0]
    if not fractions or bad or not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-9):
        raise UsageError("bad fractions for a split", got=dict(fractions), expected="positive numbers that sum to 1")
    roots = [conversation_root(group.prompt) for group in groups]
    sizes: dict[str, int] = {}
    for root in roots:
        sizes[root] = sizes.get(root, 0) + 1
    names, shares = list(fractions), list(fractions.values())
    bounds = [sum(shares[: k + 1]) * len(groups) for k in range(len(shares))]
    where: dict[str, str] = {}
    seen = 0
    for root in sorted(sizes, key=lambda root: hashlib.sha256(f"{seed}\0{root}".encode()).digest()):
        # By the middle of its groups, so that a large conversation falls to the split that holds most of it.
        middle = seen + sizes[root] / 2
        where[root] = next((name for name, bound in zip(names, bounds, strict=True) if middle < bound), names[-1])
        seen += sizes[root]
    splits: dict[str, list[PromptGroup]] = {name: [] for name in names}
    for group, root in zip(groups, roots, strict=True):
        splits[where[root]].append(group)
    for name, members in splits.items():
        if not members:
            raise DataError(
                f"the split {name!r} would be empty",
                got=f"{len(groups)} groups from {len(sizes)} conversations, fractions {dict(fractions)}",
                fix="give it a larger fraction, or more conversations",
            )
    return splits


@dataclass(frozen=True)
class Overlap:
    """What a second dataset shares with a first: distinct roots and prompts, and the second one's groups that have
    one of them. `prompts` are whole prompts, `roots` their first user turns; both normalised."""

    shared_roots: int
    shared_prompts: int
    groups_with_shared_root: int
    groups_with_shared_prompt: int
    groups: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shared_prompts(first: Iterable[PromptGroup], second: Iterable[PromptGroup]) -> list[tuple[str, str]]:
    """(source in the first, source in the second) of every group of the second whose prompt the first has too.

    Prompts are compared whole and normalised. An empty prompt is none: it asks nothing that could be remembered.
    """
    known: dict[str, str] = {}
    for group in first:
        known.setdefault(prompt_key(group.prompt), group.source)
    found = [(known.get(prompt_key(group.prompt)), group) for group in second]
    return [(source, group.source) for source, group in found if source is not None and texts.visible(group.prompt)]


def overlap(first: Iterable[PromptGroup], second: Iterable[PromptGroup]) -> Overlap:
    """How many of `second`'s groups have a conversation root, or a prompt, that `first` has too."""
    known_roots: set[str] = set()
    known_prompts: set[str] = set()
    for group in first:
        known_roots.add(conversation_root(group.prompt))
        known_prompts.add(prompt_key(group.prompt))
    kept = list(second)
    roots = [conversation_root(group.prompt) for group in kept]
    prompts = [prompt_key(group.prompt) for group in kept]
    return Overlap(
        shared_roots=len(known_roots.intersection(roots)),
        shared_prompts=len(known_prompts.intersection(prompts)),
        groups_with_shared_root=sum(root in known_roots for root in roots),
        groups_with_shared_prompt=sum(prompt in known_prompts for prompt in prompts),
        groups=len(kept),
    )
