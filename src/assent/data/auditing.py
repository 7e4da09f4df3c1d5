"""Statistics of a dataset that need only its text: counts, lengths, duplicates, contradictions, ties, overlap."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from assent.data import texts
from assent.data.loading import Dataset
from assent.data.splitting import Overlap, conversation_root, overlap, prompt_key
from assent.data.unread import Census, in_rows, repetition
from assent.statistics.small import median, quantile, wilson
from assent.types import PromptGroup, Text


@dataclass(frozen=True)
class Lengths:
    """The distribution of a length. The unit is in the name under which it is stored."""

    minimum: int
    median: float
    p95: float
    maximum: int

    @classmethod
    def of(cls, values: list[int]) -> Lengths:
        return cls(min(values), float(median(values)), quantile(values, 0.95), max(values))


@dataclass(frozen=True)
class Share:
    """A proportion, its 95% interval, and the number of prompts it was computed from."""

    value: float
    low: float
    high: float
    prompts: int


@dataclass(frozen=True, kw_only=True)
class TextAudit:
    """The result of `audit`. A pair is two completions of one prompt. `refused` counts the refused rows by reason."""

    path: str
    sha256: str
    layout: str
    notes: list[str]
    """How the file was read: its split, columns and layouts that were recognised."""
    groups: int
    completions: int
    refused: dict[str, int]
    distinct_prompts: int
    distinct_roots: int
    lengths: dict[str, Lengths]
    """By `prompt_characters`, `prompt_words`, `completion_characters`, `completion_words`."""
    duplicate_groups: int
    """Groups that repeat an earlier group's prompt, completions, preference and annotator."""
    pairs: int
    tied_pairs: int
    """Pairs with equal ranks or scores, or with chosen_probability 1/2."""
    contradictory_pairs: int
    """Pairs of texts that the data orders both ways; for thumbs, completions with a thumb up and a thumb down."""
    groups_with_identical_completions: int
    empty_completions: int
    """Blank completions, those of refused rows included."""
    chosen_longer: Share | None
    """Share of ordered pairs whose better completion has more characters. Equal lengths count half. The mean is taken
    over the pairs of each prompt first, then over prompts."""
    annotators: int
    unread_columns: dict[str, int]
    """Columns that no layout reads, by the number of rows in which they are not empty."""
    message_keys: dict[str, int]
    """Keys of messages beside role and content, by the number of rows. Only a chat template can read them."""
    repeated_prompt: str | None
    """What to say of raw completions that begin with the whole prompt; None where none does."""
    overlap: Overlap | None

    def as_dict(self) -> dict[str, Any]:
        """Values that JSON can hold, one key for each attribute."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The audit as text for people, 80 columns wide."""
        rows = [
            ("layout", self.layout),
            *(row for note in self.notes for row in _wrapped("read as", note)),
            ("groups", f"{self.groups:,} ({texts.counted(self.completions, 'completion')})"),
            ("refused", texts.counted(sum(self.refused.values()), "row")),
            *((f"  {count:,}", reason) for reason, count in self.refused.items()),
            (
                "distinct prompts",
                f"{self.distinct_prompts:,} (from {texts.counted(self.distinct_roots, 'first user turn')})",
            ),
            ("exact duplicates", texts.counted(self.duplicate_groups, "group")),
            ("empty completions", f"{self.empty_completions:,}"),
        ]
        if self.pairs:
            rows += [
                ("pairs", f"{self.pairs:,} ({self.tied_pairs:,} tied)"),
                ("contradictory pairs", f"{self.contradictory_pairs:,}"),
                ("identical completions", texts.counted(self.groups_with_identical_completions, "group")),
            ]
        elif self.layout == "thumbs":
            rows.append(("contradictory thumbs", f"{self.contradictory_pairs:,}"))
        if self.chosen_longer is not None:
            share = self.chosen_longer
            rows.append(("better one is longer", f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"))
        if self.annotators:
            rows.append(("annotators", f"{self.annotators:,}"))
        if self.unread_columns:
            rows += _wrapped("not read", in_rows(self.unread_columns))
        if self.message_keys:
            rows += _wrapped("keys of messages", f"{in_rows(self.message_keys)}; only a template can read them")
        if self.overlap is not None:
            shared, groups = self.overlap, texts.counted(self.overlap.groups, "group")
            rows.append(("overlap, first turn", f"{shared.groups_with_shared_root:,} of {groups}"))
            rows.append(("overlap, prompt", f"{shared.groups_with_shared_prompt:,} of {groups}"))
        lines = [f"{name:<22}{value}" for name, value in rows]
        lines += ["", f"{'lengths':<22}{'min':>10}{'median':>12}{'95%':>12}{'max':>12}"]
        for name, length in self.lengths.items():
            lines.append(
                f"{name.replace('_', ', '):<22}{length.minimum:>10,}{length.median:>12,.0f}"
                f"{length.p95:>12,.0f}{length.maximum:>12,}"
            )
        return lines


def audit(dataset: Dataset, second: Iterable[PromptGroup] | None = None) -> TextAudit:
    """Reads every group once. `second` is another dataset, such as the test split; its prompts are compared."""
    counter = _Counter()
    for group in dataset:
        counter.add(group)
    refused = {reason: len(sources) for reason, sources in dataset.refused_by_reason().items()}
    return TextAudit(
        path=dataset.path,
        sha256=dataset.sha256,
        layout=dataset.layout,
        notes=dataset.notes,
        groups=len(dataset),
        completions=len(counter.lengths["completion_characters"]),
        refused=refused,
        distinct_prompts=len(counter.prompts),
        distinct_roots=len(counter.roots),
        lengths={name: Lengths.of(values) for name, values in counter.lengths.items() if values},
        duplicate_groups=counter.duplicates,
        pairs=counter.pairs,
        tied_pairs=counter.tied,
        contradictory_pairs=sum(len(directions) > 1 for directions in counter.orders.values()),
        groups_with_identical_completions=counter.identical,
        empty_completions=counter.blank + refused.get(texts.EMPTY_COMPLETION, 0),
        chosen_longer=_share(counter.longer),
        annotators=len(counter.annotators),
        unread_columns=dict(counter.census.columns),
        message_keys=dict(counter.census.keys),
        repeated_prompt=repetition(counter.census),
        overlap=None if second is None else overlap(dataset, second),
    )


def _wrapped(name: str, text: str) -> list[tuple[str, str]]:
    """Rows of the report, of which the first has the name."""
    lines = textwrap.wrap(text, 80 - 22, break_on_hyphens=False)
    return [(name if i == 0 else "", line) for i, line in enumerate(lines)]


class _Counter:
    """Counts in one pass. Texts are kept as 16-byte digests, so memory does not grow with their length."""

    def __init__(self) -> None:
        self.prompts: set[bytes] = set()
        self.roots: set[bytes] = set()
        self.groups: set[bytes] = set()
        self.annotators: set[str] = set()
        self.census = Census()
        self.orders: dict[bytes, set[bool]] = {}
        self.longer: dict[bytes, list[float]] = {}
        self.duplicates = self.pairs = self.tied = self.identical = self.blank = 0
        names = ("prompt_characters", "prompt_words", "completion_characters", "completion_words")
        self.lengths: dict[str, list[int]] = {name: [] for name in names}

    def add(self, group: PromptGroup) -> None:
        keys = [texts.key(completion) for completion in group.completions]
        prompt = texts.key(group.prompt)
        self.census.add(group)
        self.prompts.add(_digest(prompt_key(group.prompt)))
        self.roots.add(_digest(conversation_root(group.prompt)))
        whole = _digest(prompt, *keys, repr(group.preference))
        self.duplicates += whole in self.groups
        self.groups.add(whole)
        self.identical += len(set(keys)) < len(keys)
        if group.preference is not None and group.preference.annotator is not None:
            self.annotators.add(group.preference.annotator)
        self._measure("prompt", group.prompt)
        for completion in group.completions:
            self._measure("completion", completion)
            self.blank += not texts.visible(completion).strip()
        self._compare(group, prompt, keys)

    def _measure(self, name: str, text: Text) -> None:
        shown = texts.visible(text)
        self.lengths[f"{name}_characters"].append(len(shown))
        self.lengths[f"{name}_words"].append(len(shown.split()))

    def _compare(self, group: PromptGroup, prompt: str, keys: list[str]) -> None:
        if group.preference is not None and group.preference.thumbs is not None:
            for key, thumb in zip(keys, group.preference.thumbs, strict=True):
                self.orders.setdefault(_digest(prompt, key), set()).add(thumb)
        sizes = [len(texts.visible(completion)) for completion in group.completions]
        for better, worse, tied in ordered_pairs(group):
            self.pairs += 1
            self.tied += tied
            if tied or keys[better] == keys[worse]:
                continue
            first, last = sorted((keys[better], keys[worse]))
            self.orders.setdefault(_digest(prompt, first, last), set()).add(keys[better] == first)
            longer = 0.5 if sizes[better] == sizes[worse] else float(sizes[better] > sizes[worse])
            self.longer.setdefault(_digest(prompt), []).append(longer)


def _digest(*parts: str) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.digest()


def ordered_pairs(group: PromptGroup) -> Iterator[tuple[int, int, bool]]:
    """(better, worse, tied) for every pair of completions that the preference orders or ties."""
    preference = group.preference
    if preference is None:
        return
    if preference.ranking is not None:
        values = [-float(rank) for rank in preference.ranking]
    elif preference.scores is not None:
        values = list(preference.scores)
    else:
        return
    for i, j in combinations(range(len(values)), 2):
        better, worse = (i, j) if values[i] >= values[j] else (j, i)
        yield better, worse, values[i] == values[j] or preference.chosen_probability == 0.5


def _share(by_prompt: dict[bytes, list[float]]) -> Share | None:
    """The mean over prompts with Wilson's interval. The prompt is the unit because its pairs share completions, or at
    least the question. A mean of values in [0, 1] varies no more than a proportion, so the interval is conservative.
    """
    if not by_prompt:
        return None
    total = sum(sum(values) / len(values) for values in by_prompt.values())
    return Share(*wilson(total, len(by_prompt)), len(by_prompt))
