"""Rows of which two answers are the same text."""

from __future__ import annotations

from assent.data.texts import counted
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, rows_example
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    audit = data_of(case).audit
    same = audit.groups_with_identical_completions
    if not same:
        return None
    return Finding(
        severity="warning",
        confidence="certain",
        verdict=f"identical completions: {counted(same, 'group')} of {audit.groups:,}",
        evidence=(Evidence(metric="groups with identical completions", value=same, expected="0"),),
        cause="the sampler drew the same answer twice, or one column was copied from the other",
        next_action="keep each answer once: between two equal texts there is nothing to prefer",
    )


RULE = Rule(
    name="identical_answers",
    title="the same answer twice in a row",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("low temperature of the sampler", "a copied column"),
    source="failures D9",
)

_OTHER = [{"prompt": f"p {n}", "completions": [f"a {n}", f"b {n}", f"c {n}"], "ranking": [1, 2, 3]} for n in range(24)]
FIRES = rows_example([*_OTHER, {"prompt": "p", "completions": ["a", "a", "b"], "ranking": [1, 2, 3]}])
QUIET = rows_example(_OTHER)
