"""The reward model is right less often about fresh ratings than at the release (O2 of the failures).

Where taste has moved, every model of the old taste is right less often, and a good one loses most. Then the reward
model has aged for itself only if it has become worse than the words alone, which were fitted to the old taste as well.
"""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import drift_in, evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule

EVEN = 0.5
"""Of the answers about which the reward model and the words disagree, the share in which an unaged one is right, and
more."""


def check(case: Case) -> Finding | None:
    tested = moved(case, "reward_model_aged", needs="both ratings and scores of the reward model (--reward-model)")
    drift = drift_in(case)
    if not drift.found("reward_model/agrees"):
        return None
    taste_moved, beyond = drift.has_moved("taste_moved"), drift.signals.get("reward_model/beyond")
    if taste_moved and not (beyond is not None and beyond.found and (beyond.share or 0.0) < EVEN):
        return None
    return Finding(
        severity="fault",
        confidence="likely",
        verdict="the reward model agrees with fresh ratings less often than at the release",
        evidence=evidence(tested),
        cause="what is talked about is new to it (products, facts, words)"
        + ("; people's taste has moved as well" if taste_moved else "")
        + ", or it is served otherwise",
        next_action="do not train or choose by it; label fresh answers and train it again",
    )


RULE = Rule(
    name="reward_model_aged",
    title="the reward model has aged",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("new products, facts or words", "served otherwise"),
    source="Gao, Schulman and Hilton, arXiv:2210.10760; failures O2",
)

FIRES = example("reward_model/agrees", quiet=("rating/level",), difference=-0.1, share=0.7)
QUIET = example("reward_model/beyond", quiet=("reward_model/agrees",), difference=-0.1, share=0.7)
