"""Of several answers the one in first place is the best too often: whoever judged saw them in this order."""

from __future__ import annotations

from assent.data.splitting import prompt_key
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import LEAST, data_of, percent, rows_example, share
from assent.diagnosis.rule import NotChecked, Rule
from assent.types import PromptGroup

SORTED = 0.98
"""Share from which the file is sorted by rank, which tells nothing about who judged."""
OFTEN = 0.15
"""Above an even share."""


def check(case: Case) -> Finding | None:
    rows = data_of(case)
    if rows.audit.layout not in ("rankings", "scores"):
        raise NotChecked("only rankings and scores have an order of answers")
    groups = [group for group in rows.dataset if best_of(group) is not None]
    first, prompts = share((prompt_key(group.prompt), float(best_of(group) == 0)) for group in groups)
    if prompts < LEAST:
        raise NotChecked(f"too few prompts with a best answer: {prompts} of {LEAST}")
    even = sum(1 / len(group.completions) for group in groups) / len(groups)
    if first.value >= SORTED or first.low <= even + OFTEN:
        return None
    return Finding(
        severity="warning",
        confidence="possible",
        verdict=f"the answer in first place is the best in {percent(first)} of {prompts:,} prompts, "
        f"where {even:.0%} would "
        "be even",
        evidence=(Evidence(metric="share of first places that are best", value=first.value, expected=f"{even:.2f}"),),
        cause="whoever judged saw the answers in this order and leans to the first, or the first place is always the "
        "same, better model's",
        next_action="if a model judged, let it judge in both orders (as assent eval does); training itself "
        "does not read the "
        "order",
    )


def best_of(group: PromptGroup) -> int | None:
    """The place of the best answer; None where two share it."""
    judged = group.preference
    if judged is None or len(group.completions) < 2:
        return None
    values = [-float(rank) for rank in judged.ranking] if judged.ranking else list(judged.scores or ())
    return values.index(max(values)) if values.count(max(values, default=0.0)) == 1 else None


RULE = Rule(
    name="first_is_best",
    title="the first place is the best too often",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("position bias of the judge", "one model always in first place"),
    source="Zheng et al., arXiv:2306.05685 (position bias)",
)


def _ranked(number: int, *, often: int) -> dict[str, object]:
    ranking = [1, 2, 3] if number % 10 < often else [3, 1, 2]
    return {"prompt": f"p {number}", "completions": [f"a {number}", f"b {number}", f"c {number}"], "ranking": ranking}


FIRES = rows_example(_ranked(number, often=8) for number in range(100))
QUIET = rows_example(_ranked(number, often=3) for number in range(100))
