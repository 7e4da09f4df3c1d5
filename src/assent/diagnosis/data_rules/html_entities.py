"""Answers with HTML entities (`&amp;`), which a model would learn to write."""

from __future__ import annotations

import re

from assent.data import texts
from assent.data.splitting import prompt_key
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, percent, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import NotChecked, Rule

ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE)
OFTEN = 0.01
"""Share of the answers from which the file was written so; fewer may be about HTML."""


def check(case: Case) -> Finding | None:
    seen = [(prompt_key(g.prompt), texts.visible(text)) for g in data_of(case).dataset for text in g.completions]
    if not seen:
        raise NotChecked("no answers")
    having, prompts = share((prompt, float(has_entity(text))) for prompt, text in seen)
    if having.low <= OFTEN:
        return None
    example = next(found[0] for _, text in seen if has_entity(text) and (found := ENTITY.search(text)))
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"{percent(having)} of the answers ({prompts:,} prompts) have HTML entities such as {example}",
        evidence=(Evidence(metric="share of answers with HTML entities", value=having.value, expected="0"),),
        cause="the texts were exported from a web page or a form, which wrote & as &amp; and < as &lt;",
        next_action="write the characters themselves (in Python: html.unescape), and look for HTML tags then; "
        "answers about HTML are meant so",
    )


def has_entity(text: str) -> bool:
    """Blocks of code are left out: there an entity is meant."""
    return "```" not in text and ENTITY.search(text) is not None


RULE = Rule(
    name="html_entities",
    title="HTML entities in answers",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("an export of a web page or form that was not decoded",),
    source="docs/data.md: what `data check` reports",
)

_ESCAPED = [sample_pair(n, worse=f"Salt &amp; pepper, &lt;b&gt;day {n}&lt;/b&gt;.") for n in range(10)]
FIRES = rows_example([*_ESCAPED, *sample_pairs(60)[10:]])
QUIET = rows_example([sample_pair(0, better="AT&T; write `&amp;` as ```&amp;```"), *sample_pairs(60)[1:]])
