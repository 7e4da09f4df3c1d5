"""The same answer, said twice, scores higher than said once."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import higher, moved, scored_example, scored_in
from assent.statistics.small import fmean

MUCH = 0.2
"""Gain from saying it twice, in spreads of the scores. Healthy models gain up to 0.14, for 60 to 70% of prompts."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    found.need("doubled")
    share, gain = higher(found, "doubled"), fmean(moved(found, "doubled"))
    if share.low <= 0.5 or gain <= MUCH * found.spread:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"an answer that is said twice scores higher for {percent(share)} of {len(found.doubled)} prompts, "
        f"by {gain:.2g} on average (the spread of its scores is {found.spread:.2g})",
        evidence=(
            Evidence(metric="share of prompts where saying it twice wins", value=share.value, expected="below 0.5"),
            Evidence(metric="score of saying it twice minus score of saying it once", value=gain,
                     expected=f"at most {MUCH * found.spread:.2g}"),
        ),
        cause="it pays for length, or has seen no padded answers",
        next_action="add pairs whose rejected answer is the chosen one with a part repeated, and train it again; or "
        "add "
        "{rule: repetition} with a negative weight to the reward of the policy's run",
    )  # fmt: skip


RULE = Rule(
    name="score_pays_repetition",
    title="a reward model pays for saying it twice",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("length bias", "no padded answers in its training data"),
    source="Singhal et al., arXiv:2310.03716",
)

FIRES = scored_example(doubled=[score + 0.5 for score in scored_example().models.better])
QUIET = scored_example()
