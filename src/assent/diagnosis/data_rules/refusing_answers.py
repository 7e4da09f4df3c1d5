"""Many of the answers to be learnt are refusals."""

from __future__ import annotations

import re

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import LEAST, data_of, percent, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import NotChecked, Rule

REFUSAL = re.compile(
    r"\s*(?:i['’]?m (?:so |very |really )?sorry\b[^.!?]{0,40}\b(?:but )?"
    r"i (?:can(?:no|['’])t|am (?:not able|unable)|won['’]t)"
    r"|(?:sorry|unfortunately|i apologi[sz]e)\b[^.!?]{0,30}\bi (?:can(?:no|['’])t|am (?:not able|unable)|won['’]t)"
    r"|i (?:cannot|can['’]t|won['’]t|will not|am (?:not able|unable) to|['’]m (?:not able|unable) to) "
    r"(?:help|assist|provide|do that|fulfil|comply|answer|support|engage|discuss|generate|create)"
    r"|as an ai\b[^.!?]{0,60}\bi (?:can(?:no|['’])t|do not|don['’]t))",
    re.IGNORECASE,
)
MANY = 0.15


def is_refusal(text: str) -> bool:
    return REFUSAL.match(text) is not None


def check(case: Case) -> Finding | None:
    answers = data_of(case).answers
    refusing, prompts = share((prompt, float(is_refusal(text))) for prompt, text in answers)
    if prompts < LEAST:
        raise NotChecked(f"too few answers to be learnt: {prompts} of {LEAST}")
    if refusing.low <= MANY:
        return None
    return Finding(
        severity="warning",
        confidence="possible",
        verdict=f"{percent(refusing)} of the answers to be learnt ({prompts:,} prompts) begin as a refusal",
        evidence=(Evidence(metric="share of refusals", value=refusing.value, expected=f"at most {MANY}"),),
        cause="the answers come from a model that refuses much, or the prompts are all about safety",
        next_action="mix prompts in that should be answered: a policy that sees refusals alone refuses "
        "everything. Where "
        "the file is the safety part of a mixture, accept it",
    )


RULE = Rule(
    name="refusing_answers",
    title="many answers to be learnt are refusals",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("answers of a model that refuses much", "a file of safety prompts alone"),
    source="Röttger et al., arXiv:2308.01263 (over-refusal)",
)

_REFUSAL = "I'm sorry, but I can't help with that."
FIRES = rows_example([*sample_pairs(40), *(sample_pair(number, better=_REFUSAL) for number in range(40, 70))])
QUIET = rows_example(sample_pairs(70))
