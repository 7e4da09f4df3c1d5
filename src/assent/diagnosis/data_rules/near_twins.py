"""Chosen and rejected answers that differ in a few words: DPO may push both down."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, percent, place, rows_example, sample_pair, sample_pairs, share, words
from assent.diagnosis.rule import Rule

TWIN = 0.9
"""Share of the words that two answers have in common, in the same order."""
MANY = 0.05
"""Share of twins among the pairs."""
SHORT = 4
"""Words below which an answer is a choice, not a text: `Yes` and `No` are no twins."""


def check(case: Case) -> Finding | None:
    pairs = data_of(case).need_pairs()
    found = [(pair, is_twin(pair.better, pair.worse)) for pair in pairs]
    part, prompts = share((pair.prompt, float(twin)) for pair, twin in found)
    if part.low <= MANY:
        return None
    first = place(next(pair.source for pair, twin in found if twin))
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"chosen and rejected have over {TWIN:.0%} of their words in common in {percent(part)} of {prompts:,} "
        f"prompts (such as {first})",
        evidence=(Evidence(metric="share of near-twins", value=part.value, expected=f"at most {MANY}"),),
        cause="the rejected answers were made by small edits of the chosen ones, or both were sampled at a low "
        "temperature",
        next_action="watch logps/chosen in DPO: where the pair differs in few tokens, pushing the rejected answer down "
        "takes the chosen one with it. Take pairs that differ more, or add a term that holds the chosen "
        "one up (--loss-type dpop)",
    )


def is_twin(better: str, worse: str) -> bool:
    """By word order. The cheap bounds come first: most pairs fail them."""
    if min(len(better), len(worse)) < 0.7 * max(len(better), len(worse)):
        return False
    one, other = words(better), words(worse)
    whole = len(one) + len(other)
    if min(len(one), len(other)) < SHORT or 2 * min(len(one), len(other)) < TWIN * whole:
        return False
    if 2 * (Counter(one) & Counter(other)).total() < TWIN * whole:
        return False
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= TWIN


RULE = Rule(
    name="near_twins",
    title="chosen and rejected nearly equal",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("rejected answers made by edits", "samples at a low temperature"),
    source="Pal et al., arXiv:2402.13228; Razin et al., arXiv:2410.08847 (failures D5)",
)


def _twin(number: int) -> dict[str, str]:
    text = (
        f"To mend the {number}th part you clean it first, then you glue it, and at last you leave it to dry for a day"
    )
    return sample_pair(number, better=text, worse=text.replace("glue", "nail"))


FIRES = rows_example([*sample_pairs(60), *(_twin(number) for number in range(60, 90))])
QUIET = rows_example(sample_pairs(90))
