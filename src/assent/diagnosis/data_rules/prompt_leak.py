"""The file to train on and the file to test on have prompts or conversations in common."""

from __future__ import annotations

from assent.data.splitting import REMEDY, conversation_root
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Rows, data_of, rows_example, sample_pairs
from assent.diagnosis.rule import NotChecked, Rule


def check(case: Case) -> Finding | None:
    shared = data_of(case).audit.overlap
    if shared is None:
        raise NotChecked("needs a second file (assent data check FILE --against HELD_OUT)")
    if not shared.groups_with_shared_root:
        return None
    return Finding(
        severity="fault" if shared.groups_with_shared_prompt else "warning",
        confidence="certain",
        verdict=f"{shared.groups_with_shared_root} of {shared.groups} groups of the second dataset share their first "
        f"user turn with the first dataset; {shared.groups_with_shared_prompt} share the whole prompt",
        evidence=(
            Evidence(metric="groups with a shared first turn", value=shared.groups_with_shared_root, expected="0"),
            Evidence(metric="groups with a shared prompt", value=shared.groups_with_shared_prompt, expected="0"),
        ),
        cause="the rows were split one by one, not by conversation",
        next_action=REMEDY,
        drop=shared_sources(data_of(case)),
    )


def shared_sources(rows: Rows) -> tuple[str, ...]:
    """Rows of the first file whose conversation begins as one of the second does."""
    assert rows.against is not None
    second = {conversation_root(group.prompt) for group in rows.against}
    return tuple(group.source for group in rows.dataset if conversation_root(group.prompt) in second)


RULE = Rule(
    name="prompt_leak",
    title="prompts in both files",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("a random split of rows", "two exports of one source"),
    source="failures R7",
)

FIRES = rows_example(sample_pairs(24), against=sample_pairs(4))
QUIET = rows_example(sample_pairs(24), against=sample_pairs(30)[24:])
