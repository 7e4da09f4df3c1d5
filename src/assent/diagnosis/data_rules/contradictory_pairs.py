"""The same answers to the same prompt, ordered both ways."""

from __future__ import annotations

from assent.data.texts import counted
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, rows_example, sample_pairs
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    audit = data_of(case).audit
    both_ways = audit.contradictory_pairs
    if not both_ways:
        return None
    what = "thumb" if audit.layout == "thumbs" else "pair"
    raters = f" by {audit.annotators} annotators" if audit.annotators > 1 else ""
    return Finding(
        severity="warning",
        confidence="certain",
        verdict=f"ordered both ways: {counted(both_ways, what)} of {audit.pairs or audit.completions:,}{raters}",
        evidence=(Evidence(metric="ordered both ways", value=both_ways, expected="0"),),
        cause="people disagree about these answers" if raters else "rows were copied with their columns swapped, or "
        "the labels are noisy",
        next_action="keep one row for each pair, with the share of its votes in `chosen_probability`: a row each way "
        "pulls both ways and teaches nothing",
    )  # fmt: skip


RULE = Rule(
    name="contradictory_pairs",
    title="pairs ordered both ways",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("annotators disagree", "columns swapped in a part of the file"),
    source="failures D9",
)

_ROWS = sample_pairs(24)
_SWAPPED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in _ROWS[:2]]
FIRES = rows_example([*_ROWS, *_SWAPPED])
QUIET = rows_example(_ROWS)
