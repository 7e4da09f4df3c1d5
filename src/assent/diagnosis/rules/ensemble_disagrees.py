"""The reward models of an ensemble come to disagree: the policy writes what they were not trained on."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.penalty import LOGGED, stronger
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import ends, fmean, shift

DISAGREEMENT = "ensemble_std or rewards/ensemble/std"
GROWTH = 2.0


def check(case: Case) -> Finding | None:
    spread = case[DISAGREEMENT]
    first, last = (fmean(part) for part in ends(spread.values))
    if last < GROWTH * first or shift(spread.values).low <= 0:
        return None
    what_to_do, fix = stronger(case, factor=2.0, start=0.05)
    return Finding(
        severity="warning",
        verdict=f"the ensemble's members disagree {last / max(first, 1e-12):.1f} times as much as at the start: the "
        "policy writes what the reward models do not know",
        evidence=(
            Evidence(metric=case.named(DISAGREEMENT), steps=spread.span, value=last, expected=f"about {first:.3g}"),
        ),
        cause="the policy has left the answers that the reward models were trained on",
        next_action="label what the policy writes now and train the reward models again; until then hold the policy "
        f"closer ({what_to_do}), or count the members' disagreement against an answer (--reward-ensemble mean-std:1)",
        fix=fix,
    )


RULE = Rule(
    name="ensemble_disagrees",
    title="the ensemble's members come to disagree",
    metrics=(DISAGREEMENT,),
    also=(LOGGED,),
    least=10,
    stages=SAMPLED,
    check=check,
    causes=("reward models out of their data",),
    source="failures P14",
)

FIRES = example({"ensemble_std": [0.1 + 0.02 * i for i in range(16)]}, stage="ppo", kl_coef=0.05)
QUIET = example({"ensemble_std": [0.1 + 0.01 * (i % 3) for i in range(16)]}, stage="ppo")
