"""People like other answers than at the release: ratings moved at answers of which the same was expected."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    tested = moved(case, "taste_moved", needs="ratings or outcomes", beside=("prompts_moved", "behaviour_moved"))
    if not tested:
        return None
    scored = "reward_model/agrees" in drift_in(case).signals
    return Finding(
        severity="warning",
        confidence="likely" if scored else "possible",
        verdict="people rate comparable answers otherwise than at the release",
        evidence=evidence(tested),
        cause="the users' taste has moved, or other users rate"
        + ("" if scored else "; or the answers have become better or worse in a way that their words do not show"),
        next_action="have fresh comparisons labelled by these users, and train reward model and policy on them; old "
        "labels no longer say what people want",
    )


RULE = Rule(
    name="taste_moved",
    title="people's taste has moved",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("taste has moved", "other users rate", "quality that the text does not show"),
    source="Shen et al., arXiv:2403.03419; Casper et al., arXiv:2307.15217, 3.1",
)

FIRES = example("rating/words", quiet=("reward_model/agrees",))
QUIET = example(quiet=("rating/level", "rating/words"))
