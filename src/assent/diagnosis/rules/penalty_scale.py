"""The KL penalty and the reward's spread are orders of magnitude apart: one of them does not count."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times, to
from assent.diagnosis.penalty import weight_of
from assent.diagnosis.rule import ROUNDS, Rule
from assent.statistics.small import ends, fmean

PENALTY, SPREAD, KL = "objective/non_score_reward", "objective/scores_std", "objective/kl"
HIGH, LOW = 10.0, 0.01
SMALL, LARGE = 0.05, 20.0
"""Spreads of rewards that kl_coef is usually chosen for."""
FAR = 3.0
"""Nats of KL from which a penalty should be felt."""


def check(case: Case) -> Finding | None:
    penalty, spread = (fmean([abs(value) for value in ends(case[name].values)[1]]) for name in (PENALTY, SPREAD))
    if spread < 1e-6 or penalty == 0:
        return None  # zero_advantage; a penalty that is part of the loss
    if case.option("scale_scores"):  # the log holds the scores as they were; what the penalty meets has a spread of 1
        spread = 1.0
    ratio = penalty / spread
    kl = case.find(KL)
    # what was subtracted is not 0, so that the penalty's weight is not either, whether or not the log tells it
    is_idle = ratio < LOW and weight_of(case) != 0 and kl is not None and fmean(ends(kl.values)[1]) > FAR
    if ratio <= HIGH and not is_idle:
        return None
    usual = SMALL <= spread <= LARGE
    is_told = case.tells("scale_scores")
    return Finding(
        severity="fault" if ratio > HIGH else "warning",
        confidence="likely" if is_told else "possible",
        verdict=f"the KL penalty is {ratio:.2g} times the spread of the rewards: "
        + ("the reward hardly counts" if ratio > HIGH else "the penalty hardly counts"),
        evidence=(
            Evidence(metric=PENALTY, steps=case[PENALTY].span, value=penalty, expected=f"{LOW * spread:.2g} to "
                     f"{HIGH * spread:.2g}"),
            Evidence(metric=SPREAD, steps=case[SPREAD].span, value=spread),
        ),
        cause=("kl_coef does not fit the reward" if usual else "the reward has another scale than kl_coef suits")
        + ("" if is_told else "; or the scores are scaled after they are logged, which the log does not tell"),
        next_action="divide the scores by their spread (--scale-scores, which leaves their mean)"
        if not usual
        else "lower kl_coef tenfold"
        if ratio > HIGH
        else "raise kl_coef tenfold",
        fix={"kl_coef": times(0.1 if ratio > HIGH else 10.0)} if usual else {"scale_scores": to(True)},
    )  # fmt: skip


RULE = Rule(
    name="penalty_scale",
    title="KL penalty and reward have different scales",
    metrics=(PENALTY, SPREAD),
    least=5,
    stages=ROUNDS,
    check=check,
    causes=("rewards multiplied by a constant", "kl_coef from another reward"),
    source="failures P12",
)

_PENALTIES, _KL = [-0.1, -0.2, -0.3, -0.3, -0.3, -0.4], [2.0, 4.0, 6.0, 6.0, 7.0, 8.0]
FIRES = example({PENALTY: _PENALTIES, SPREAD: [100.0] * 6, KL: _KL}, stage="ppo", kl_coef=0.05)
QUIET = example({PENALTY: _PENALTIES, SPREAD: [0.6] * 6, KL: _KL}, stage="ppo", kl_coef=0.05)
QUIET_ALSO = (
    example({PENALTY: _PENALTIES, SPREAD: [100.0] * 6, KL: _KL}, stage="ppo", kl_coef=0.05, scale_scores=True),
)
"""Scores that are divided by their spread before they are used."""
