"""Rows that training would refuse."""

from __future__ import annotations

from assent.data.texts import counted
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Rows, data_of, place, sample_pairs
from assent.diagnosis.rule import Rule

SHOWN = 3


def check(case: Case) -> Finding | None:
    rows = data_of(case)
    refused = rows.dataset.refused_by_reason()
    if not refused:
        return None
    reasons = [f"{counted(len(sources), 'row')} refused: {reason}" for reason, sources in refused.items()]
    first = [place(source) for sources in refused.values() for source in sources[:SHOWN]]
    more = " …" if any(len(sources) > SHOWN for sources in refused.values()) else ""
    return Finding(
        severity="fault",
        confidence="certain",
        verdict="; ".join(reasons),
        evidence=tuple(
            Evidence(metric=f"rows: {reason}", value=len(sources), expected="0") for reason, sources in refused.items()
        ),
        cause="the rows do not hold what their layout needs",
        next_action=f"mend or remove these rows ({', '.join(first)}{more}): assent data show FILE --model MODEL "
        "--row N says why one is refused (with the same --columns, if any)",
        drop=tuple(source for sources in refused.values() for source in sources),
    )


RULE = Rule(
    name="refused_rows",
    title="rows that training would refuse",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("an export that lost a column", "chosen and rejected copied from one column"),
    source="docs/data.md: rows with faults",
)


def _case(*extra: dict[str, str]) -> Case:
    from assent.data.loading import Dataset, RefusedRow, groups_of_rows

    groups = groups_of_rows(sample_pairs(24))
    refused = [RefusedRow("row 25", "chosen and rejected are identical")] if extra else []
    return Case(data=Rows(Dataset(list(groups), layout=groups.layout, path="rows", refused=refused)), source="data")


FIRES = _case({"prompt": "a"})
QUIET = _case()
