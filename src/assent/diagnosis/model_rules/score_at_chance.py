"""On held-out pairs the reward model is no better than a coin, or ranks them the wrong way round."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import right, scored_example, scored_in
from assent.statistics.small import SURE


def check(case: Case) -> Finding | None:
    margins = scored_in(case).need_pairs()
    accuracy, sure = right(margins), right(margins, confidence=SURE)
    if accuracy.low > 0.5:
        return None
    if sure.high < 0.5:
        return Finding(
            severity="fault",
            confidence="likely",
            verdict=f"it ranks held-out pairs the wrong way round: {percent(accuracy)} of {len(margins)} are right",
            evidence=(Evidence(metric="held-out accuracy", value=accuracy.value, expected="above 0.5"),),
            cause="chosen and rejected were exchanged, in its training data or in this file",
            next_action="read ten rows (assent data show): if the better answer stands in `rejected`, exchange the "
            "columns "
            "(--columns) and train it again",
        )
    return Finding(
        severity="fault",
        confidence="likely" if accuracy.high < 0.6 else "possible",
        verdict=f"it ranks held-out pairs no better than chance: {percent(accuracy)} of {len(margins)} are right",
        evidence=(Evidence(metric="held-out accuracy", value=accuracy.value, expected="above 0.5"),),
        cause="it did not learn (labels without information, a rate too low), or these pairs are of another kind",
        next_action="do not train a policy with it. Ask assent doctor about its run and about its training data; if "
        "both are "
        "healthy, measure it on rows split off from that data (assent data split)",
    )


RULE = Rule(
    name="score_at_chance",
    title="a reward model ranks held-out pairs at chance, or the wrong way round",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("labels without information", "exchanged columns", "pairs of another kind"),
    source="failures R2",
)

FIRES = scored_example(worse=scored_example().models.better[1:] + scored_example().models.better[:1])
QUIET = scored_example()
