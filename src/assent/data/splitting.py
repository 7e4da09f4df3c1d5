"""Splits datasets by conversation, and counts what two datasets have in common.

Rows from one conversation share its first user turn, the root. If a split separates them, training data leaks into the
test, which then measures memory. So a split keeps them together, and overlap is counted by root and by whole prompt.
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
    "`assent data split FILE` writes two files that share no conversation; "
    "or train with --eval-fraction instead of --eval-data"
)
"""The fix for a prompt that is in training and held-out data."""

_FIRST_HUMAN_TURN = re.compile(r"\s*Human:(.*?)(?=\n\nAssistant:|\Z)", re.DOTALL)


def normalise(text: str) -> str:
    """The text without differences of case, white space or Unicode composition."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def conversation_root(prompt: Text) -> str:
    """The first user turn, normalised. In raw text it is the first "Human:" turn (hh-rlhf), or else the whole text."""
    if isinstance(prompt, str):
        match = _FIRST_HUMAN_TURN.match(prompt)
        return normalise(match.group(1) if match else prompt)
    first = next((message.content for message in prompt if message.role == "user"), None)
    return normalise(first if first is not None else texts.visible(prompt))


def prompt_key(prompt: Text) -> str:
    """A key that prompts share if their normalised turns are equal. A raw string and a message list never share one."""
    if isinstance(prompt, str):
        return normalise(prompt)
    return "\x1e".join(f"{message.role}\x1f{normalise(message.content)}" for message in prompt)


def split_by_conversation_root(
    groups: Sequence[PromptGroup], *, fractions: Mapping[str, float], seed: int
) -> dict[str, list[PromptGroup]]:
    """Distributes whole conversations so that the numbers of groups are close to `fractions`, which sum to 1.

    Conversations are ordered by a hash of (seed, root), which depends neither on the order of the groups nor on
    Python's random state. Within a split the groups keep their order. Raises UsageError if a fraction is not positive
    or they do not sum to 1, and DataError if a split would be empty.
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
        # The middle of its groups decides, so that a large conversation goes to the split that covers most of it.
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
    """What a second dataset shares with a first: distinct roots and prompts, and the second dataset's groups that have
    one of them. A prompt is the whole prompt, a root its first user turn; both are normalised."""

    shared_roots: int
    shared_prompts: int
    groups_with_shared_root: int
    groups_with_shared_prompt: int
    groups: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shared_prompts(first: Iterable[PromptGroup], second: Iterable[PromptGroup]) -> list[tuple[str, str]]:
    """(source in the first, source in the second) of every group in the second whose prompt is also in the first.

    Whole, normalised prompts are compared. Empty prompts are left out: there is nothing in them to remember.
    """
    known: dict[str, str] = {}
    for group in first:
        known.setdefault(prompt_key(group.prompt), group.source)
    found = [(known.get(prompt_key(group.prompt)), group) for group in second]
    return [(source, group.source) for source, group in found if source is not None and texts.visible(group.prompt)]


def overlap(first: Iterable[PromptGroup], second: Iterable[PromptGroup]) -> Overlap:
    """How many groups in `second` have a conversation root, or a prompt, that is also in `first`."""
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
