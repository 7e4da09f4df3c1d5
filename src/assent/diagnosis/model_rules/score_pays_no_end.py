"""An answer that is cut before its end token scores higher than the same answer with it."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import higher, moved, scored_example, scored_in
from assent.statistics.small import fmean

MUCH = 0.25
"""Gain from leaving the end out, in spreads of the scores."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    found.need("open_ended")
    share, gain = higher(found, "open_ended"), fmean(moved(found, "open_ended"))
    if share.low <= 0.5 or gain <= MUCH * found.spread:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"without its end token an answer scores {gain:.2g} higher ({percent(share)} of "
        f"{len(found.open_ended)} prompts; "
        f"the spread of its scores is {found.spread:.2g}): in RLHF, answers that are cut win",
        evidence=(Evidence(metric="score without the end token minus score with it", value=gain,
                           expected=f"at most {MUCH * found.spread:.2g}"),),
        cause="its training answers all end, so that any other last token is read by chance",
        next_action="charge for a missing end in the policy's run: missing_eos_penalty of twice the gain",
        fix={"missing_eos_penalty": to(float(f"{2 * gain:.2g}"))},
    )  # fmt: skip


RULE = Rule(
    name="score_pays_no_end",
    title="a reward model scores answers higher that do not end",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("only finished answers in its training data",),
    source="Huang et al., arXiv:2403.17031 (failures P11)",
)

FIRES = scored_example(open_ended=[score + 0.9 for score in scored_example().models.better])
QUIET = scored_example()
