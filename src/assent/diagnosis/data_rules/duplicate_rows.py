"""Rows that stand in the file more than once, exactly or nearly."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

from assent.data import texts
from assent.data.splitting import normalise
from assent.data.texts import counted
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Rows, data_of, place, rows_example, sample_pairs
from assent.diagnosis.rule import Rule
from assent.types import PromptGroup

ALIKE = 0.8
"""Jaccard index of two texts' word triples from which they are nearly the same: Lee et al.'s, arXiv:2107.06499."""
SKETCH = 8
"""Smallest hashes of a row's triples. Rows that share none are not compared: for two at 0.8 a chance of 3e-6."""
MOST = 20_000
"""Rows compared for near duplicates; in a longer file the first ones."""
SOME = 0.005
"""Share of near duplicates that any large file has: short questions that several models answered alike."""
CROWD = 50
"""Rows under one hash, from which it tells nothing: a phrase that everybody uses."""


def check(case: Case) -> Finding | None:
    rows = data_of(case)
    again, near = exact_duplicates(rows), near_duplicates(rows)
    exact = len(again)
    if not exact and len(near) <= SOME * len(rows):
        return None
    found = [f"exact duplicates of an earlier group: {counted(exact, 'group')}"] if exact else []
    first = f" (of the first {MOST:,} rows)" if len(rows) > MOST else ""
    found += [f"nearly the same as an earlier group: {counted(len(near), 'group')}{first}"] if near else []
    example = f" ({place(near[0][1])} is nearly {place(near[0][0])})" if near else ""
    part = (exact + len(near)) / len(rows)
    return Finding(
        severity="warning",
        confidence="certain" if exact else "likely",
        verdict="; ".join(found) + f", {part:.1%} of {len(rows):,}" + example,
        evidence=(
            Evidence(metric="exact duplicates", value=exact, expected="0"),
            Evidence(metric="near duplicates", value=len(near), expected="0"),
        ),
        cause="files were joined that overlap, or one template made the rows",
        next_action="keep each row once: what stands twice weighs twice, and what stands in both parts of a split "
        "makes the held-out figures too good",
        drop=(*again, *(later for _, later in near)),
    )


def exact_duplicates(rows: Rows) -> list[str]:
    """Sources of rows that repeat an earlier one's prompt, answers, labels and annotator."""
    seen: set[tuple[object, ...]] = set()
    found: list[str] = []
    for group in rows.dataset:
        answers = tuple(texts.key(completion) for completion in group.completions)
        key = (texts.key(group.prompt), answers, repr(group.preference))
        if key in seen:
            found.append(group.source)
        seen.add(key)
    return found


def near_duplicates(rows: Rows) -> list[tuple[str, str]]:
    """(source of the earlier row, source) of rows that are alike in prompt and in answers, and not the same."""
    kept: list[tuple[PromptGroup, set[int], set[int]]] = []
    by_hash: dict[int, list[int]] = defaultdict(list)
    found: list[tuple[str, str]] = []
    for group in rows.dataset[:MOST]:
        prompt = _triples([texts.visible(group.prompt)])
        answers = _triples([texts.visible(completion) for completion in group.completions])
        sketch = sorted(answers or prompt)[:SKETCH]
        near = {i for value in sketch if len(by_hash[value]) <= CROWD for i in by_hash[value]}
        for i in sorted(near):
            earlier, its_prompt, its_answers = kept[i]
            if jaccard(answers, its_answers) >= ALIKE and jaccard(prompt, its_prompt) >= ALIKE:
                if _content(earlier) != _content(group):
                    found.append((earlier.source, group.source))
                break
        for value in sketch:
            by_hash[value].append(len(kept))
        kept.append((group, prompt, answers))
    return found


def _content(group: PromptGroup) -> tuple[object, ...]:
    """What exact duplicates, and the same answers in another order or by another annotator, have in common."""
    return texts.key(group.prompt), frozenset(texts.key(completion) for completion in group.completions)


def _triples(parts: Sequence[str]) -> set[int]:
    """Hashes of three words that follow each other; of a shorter text, of the whole."""
    found: set[int] = set()
    for part in parts:
        split = normalise(part).split()
        found.update(zlib.crc32(" ".join(split[i : i + 3]).encode()) for i in range(max(1, len(split) - 2)))
    return found


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0


RULE = Rule(
    name="duplicate_rows",
    title="rows that repeat earlier ones",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("overlapping files joined", "rows made from one template"),
    source="failures D9; Lee et al., arXiv:2107.06499",
)

_ROWS = sample_pairs(24)
_NEAR = {**_ROWS[3], "prompt": _ROWS[3]["prompt"].upper() + "!"}
FIRES = rows_example([*_ROWS, _NEAR, _ROWS[5]])
QUIET = rows_example(_ROWS)
