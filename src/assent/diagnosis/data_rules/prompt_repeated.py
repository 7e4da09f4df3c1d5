"""Raw answers that begin with the whole prompt."""

from __future__ import annotations

from assent.data.unread import REPETITION_FIX
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding
from assent.diagnosis.rows import data_of, rows_example, sample_pairs
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    repeated = data_of(case).audit.repeated_prompt
    if repeated is None:
        return None
    return Finding(
        severity="fault",
        confidence="certain",
        verdict=repeated,
        evidence=(),
        cause="the file holds whole conversations in the columns of answers",
        next_action=REPETITION_FIX,
    )


RULE = Rule(
    name="prompt_repeated",
    title="answers that begin with the prompt",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("chosen and rejected hold prompt and answer together",),
    source="docs/data.md",
)

_ROWS = sample_pairs(24)
FIRES = rows_example(
    {**row, "chosen": f"{row['prompt']} {row['chosen']}", "rejected": f"{row['prompt']} {row['rejected']}"}
    for row in _ROWS
)
QUIET = rows_example(_ROWS)
