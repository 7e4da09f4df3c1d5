"""A mark of form that only the better answers have, or only the worse ones."""

from __future__ import annotations

import re
from collections.abc import Callable

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, percent, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import Rule


def _has(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    return lambda text: compiled.search(text) is not None


MARKERS: dict[str, Callable[[str], bool]] = {
    "a heading": _has(r"^#{1,6} \S"),
    "bold text": _has(r"\*\*\S"),
    "a list": _has(r"^\s*(?:[-*•]|\d+[.)]) \S"),
    "a code block": _has(r"```"),
    "a link": _has(r"https?://"),
    "an exclamation mark": _has(r"!"),
    "a question at the end": _has(r"\?\s*\Z"),
    "an apology": _has(r"\b(?:sorry|apologi[sz]e)\b"),
    "'As an AI'": _has(r"\bas an ai\b"),
    "an emoji": _has("[\U0001f300-\U0001faff]"),
    "white space at the beginning": _has(r"\A\s"),
    "white space at the end": _has(r"\s\Z"),
    "no end of sentence": _has(r"[A-Za-z,]\s*\Z"),
}
"""Forms that say nothing about what an answer is worth."""
SIDED = 0.85
"""Share, of the pairs in which one answer alone has the mark, in which it is the same side."""
PART = 0.15
"""Share of all pairs in which one answer alone has it: what is rarer cannot carry a loss."""


def check(case: Case) -> Finding | None:
    pairs = data_of(case).need_pairs()
    prompts = len({pair.prompt for pair in pairs})
    answers = {text for pair in pairs for text in (pair.better, pair.worse)}
    found = []
    for name, has in MARKERS.items():
        having = {text for text in answers if has(text)}
        sides = [(pair.prompt, pair.better in having, pair.worse in having) for pair in pairs]
        alone = [(prompt, float(better)) for prompt, better, worse in sides if better != worse]
        part, carrying = share(alone)
        if carrying >= PART * prompts and (part.low > SIDED or part.high < 1 - SIDED):
            found.append((carrying / prompts, name, part))
    if not found:
        return None
    reach, name, part = max(found)
    others = ", ".join(other for _, other, _ in sorted(found, reverse=True)[1:])
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"{name} tells better from worse: where one answer alone has it ({reach:.0%} of the "
        f"prompts), it is the "
        f"better one in {percent(part)}" + (f"; also {others}" if others else ""),
        evidence=(Evidence(metric=f"better, of answers with {name}", value=part.value, expected="0.15 to 0.85"),),
        cause="better and worse answers were made by two sources with different habits, or cleaned differently",
        next_action="give both sides the same form, or take both from one source: a loss learns the "
        "mark first, since it "
        "is easier than the content",
    )


RULE = Rule(
    name="one_sided_marker",
    title="a mark of form on one side alone",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("better and worse answers from different models", "one side was cleaned"),
    source="Zhang et al., arXiv:2409.11704 (format bias)",
)

FIRES = rows_example(
    sample_pair(number, better=f"**Note {number}.** Ask about it.", worse=f"Note {number}. Ask somebody.")
    for number in range(80)
)
QUIET = rows_example(sample_pairs(80))
