"""What annotators are asked: two answers to compare, a list to rank, one answer to rate, or a thumb.

A judgement's value is a mapping with one field of a `Preference`, over the item's completions in their stored order:
{"ranking": [2, 1]} (1 is best, equal ranks tie), {"scores": [4]} or {"thumbs": [true]}.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from assent.data.texts import as_plain, counted
from assent.errors import DataError
from assent.judging.collecting import columns_in_order
from assent.types import PromptGroup, Text

Task = Literal["compare", "rank", "rate", "thumbs"]
TASKS: tuple[str, ...] = get_args(Task)
Value = Mapping[str, Any]
LONGEST_RANKING = 9
"""Completions in one list to rank: each has a digit key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A completion and where it comes from."""

    text: Text
    model: str | None = None
    fingerprint: str | None = None
    sampling: Mapping[str, Any] | None = None
    logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """Something to judge. `extra` is what an export must give back: other columns, logps, steps."""

    prompt: Text
    completions: tuple[Candidate, ...]
    tools: Any = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    gold: Value | None = None
    extra: Mapping[str, Any] | None = None
    priority: float | None = None
    """Lower comes first. None: a random place."""
    value: Value | None = None
    """A judgement that somebody has made already."""
    comment: str | None = None
    """Of that judgement."""

    def canonical(self) -> NewItem:
        """The same with the completions in an order that depends on their texts alone, so that two files that hold
        them in different orders hold one item."""
        order = sorted(range(len(self.completions)), key=lambda i: digest(as_plain(self.completions[i].text)))
        extra = self.extra
        if extra and "logps" in extra:
            extra = {**extra, "logps": [extra["logps"][i] for i in order]}
        if extra and "columns" in extra:
            extra = {**extra, "columns": columns_in_order(extra["columns"], order)}
        return replace(
            self,
            completions=tuple(self.completions[i] for i in order),
            gold=permuted(self.gold, order),
            value=permuted(self.value, order),
            extra=extra,
        )


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def uniform(*name: object) -> float:
    """A number in [0, 1) that depends on the name alone (law 7)."""
    return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=7).digest()) / 2**56


def shuffled(count: int, *name: object) -> list[int]:
    """0 … count - 1 in an order that depends on the name alone."""
    return sorted(range(count), key=lambda place: uniform(*name, place))


@dataclass(slots=True)
class _Pool:
    group: PromptGroup
    candidates: dict[str, Candidate] = field(default_factory=dict)


def to_items(
    groups: Iterable[PromptGroup],
    task: Task,
    *,
    pairs_per_prompt: int = 0,
    seed: int = 0,
) -> tuple[list[NewItem], list[str]]:
    """Items to judge from rows with completions, and what to tell the user.

    Rows of the same prompt are put together, so a file of single completions works as a file of several. Equal
    completions of a prompt are one completion. What the rows say of preferences is not read.

    pairs_per_prompt   compare: how many of a prompt's pairs, chosen by `seed`; 0: all

    Raises DataError if nothing is left to judge.
    """
    pools, given, equal = _pools(groups)
    items: list[NewItem] = []
    lone = left_out = 0
    for pool in pools:
        candidates = list(pool.candidates.values())
        if task in ("rate", "thumbs"):
            items += [_item(pool.group, (one,)) for one in candidates]
        elif len(candidates) < 2:
            lone += 1
        elif task == "rank":
            if len(candidates) > LONGEST_RANKING:
                raise DataError(
                    f"a list to rank holds at most {LONGEST_RANKING} completions",
                    got=f"{len(candidates)} completions ({pool.group.source})",
                    fix="give fewer completions a prompt, or --task compare",
                )
            items.append(_item(pool.group, tuple(candidates)))
        else:
            pairs = list(itertools.combinations(candidates, 2))
            name = digest(as_plain(pool.group.prompt))
            chosen = sorted(shuffled(len(pairs), seed, "pairs", name)[: pairs_per_prompt or None])
            left_out += len(pairs) - len(chosen)
            items += [_item(pool.group, pairs[i]) for i in chosen]
    lines = [f"{counted(given, 'completion')} of {counted(len(pools), 'prompt')}: {counted(len(items), 'item')}"]
    if equal:
        lines.append(f"{counted(equal, 'completion')} equal to another one of the same prompt, and judged as one")
    if lone:
        lines.append(f"{counted(lone, 'prompt')} with fewer than two different completions left out")
    if left_out:
        lines.append(f"{counted(left_out, 'pair')} left out: --pairs-per-prompt {pairs_per_prompt}")
    if not items:
        raise DataError(
            "there is nothing to judge",
            got="\n".join(lines),
            expected="completions" if task in ("rate", "thumbs") else "two different completions of a prompt",
            fix="sample more completions of each prompt, or choose another --task",
        )
    return items, lines


def _pools(groups: Iterable[PromptGroup]) -> tuple[list[_Pool], int, int]:
    """The completions of each prompt; how many were given, and how many of them equal another one."""
    pools: dict[str, _Pool] = {}
    given = equal = 0
    for group in groups:
        context = (as_plain(group.prompt), group.tools and list(group.tools), dict(group.chat_template_kwargs))
        pool = pools.setdefault(digest(context), _Pool(group))
        for place, text in enumerate(group.completions):
            key = digest(as_plain(text))
            given += 1
            equal += key in pool.candidates
            pool.candidates.setdefault(key, _candidate(group, place, text))
    return list(pools.values()), given, equal


def _candidate(group: PromptGroup, place: int, text: Text) -> Candidate:
    """With the columns that say where the completion comes from: model, fingerprint, sampling, logprob."""
    columns = group.columns
    logprob = columns.get("logprob") if group.logps is None else group.logps[place]
    said = {name: columns.get(name) for name in ("model", "fingerprint", "sampling")}
    return Candidate(
        text=text,
        model=said["model"] if isinstance(said["model"], str) else None,
        fingerprint=said["fingerprint"] if isinstance(said["fingerprint"], str) else None,
        sampling=said["sampling"] if isinstance(said["sampling"], Mapping) else None,
        logprob=float(logprob) if isinstance(logprob, int | float) and not isinstance(logprob, bool) else None,
    )


def _item(group: PromptGroup, completions: tuple[Candidate, ...]) -> NewItem:
    return NewItem(
        prompt=group.prompt,
        completions=completions,
        tools=group.tools and list(group.tools),
        chat_template_kwargs=group.chat_template_kwargs,
    )


def gold_items(groups: Iterable[PromptGroup], task: Task) -> list[NewItem]:
    """Items whose answer is known: each row with its preference. Raises DataError for a row that fits no such task."""
    items = []
    for group in groups:
        value = value_of(group)
        kind = {"compare": "ranking", "rank": "ranking", "rate": "scores", "thumbs": "thumbs"}[task]
        fits = value is not None and kind in value and (task != "compare" or len(group.completions) == 2)
        if task in ("rate", "thumbs"):
            fits = fits and len(group.completions) == 1
        if not fits:
            raise DataError(
                f"a gold question for --task {task} needs a row with {kind} of its completions",
                got=f"{group.source}: {counted(len(group.completions), 'completion')}, "
                f"{group.preference.kind if group.preference else 'no preference'}",
            )
        own = tuple(Candidate(text=text) for text in group.completions)
        items.append(
            NewItem(
                prompt=group.prompt,
                completions=own,
                tools=group.tools and list(group.tools),
                chat_template_kwargs=group.chat_template_kwargs,
                gold=value,
            )
        )
    return items


def permuted(value: Value | None, order: Sequence[int]) -> Value | None:
    """A value whose entry i is that of completion order[i]."""
    if value is None:
        return None
    return {name: [entries[i] for i in order] if name in VALUE_FIELDS else entries for name, entries in value.items()}


VALUE_FIELDS = ("ranking", "scores", "thumbs", "step_labels")
MORE_FIELDS = ("margin", "chosen_probability", "weight")


def value_of(group: PromptGroup) -> dict[str, Any] | None:
    """A group's preference as a judgement's value; None if it has none."""
    preference = group.preference
    if preference is None or preference.kind == "no preference":
        return None
    value = {name: getattr(preference, name) for name in VALUE_FIELDS if getattr(preference, name) is not None}
    value |= {name: getattr(preference, name) for name in MORE_FIELDS if getattr(preference, name) is not None}
    if preference.weight == 1.0:
        del value["weight"]
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def normal(ranking: Sequence[int]) -> list[int]:
    """Ranks without gaps: 1, 3, 3 as 1, 2, 2."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranking)), start=1)}
    return [places[rank] for rank in ranking]


def same(a: Value, b: Value) -> bool:
    """Whether two judgements of one item say the same. Ratings agree within one point."""
    if "scores" in a and "scores" in b:
        return all(abs(x - y) <= 1 for x, y in zip(a["scores"], b["scores"], strict=True))
    return all(a.get(name) == b.get(name) for name in VALUE_FIELDS)


def disputed(values: Sequence[Value]) -> bool:
    """Whether an adjudicator is needed: some two of the judgements differ."""
    return any(not same(a, b) for a, b in itertools.combinations(values, 2))
