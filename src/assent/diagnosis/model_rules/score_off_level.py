"""The level or the spread of the scores is far from what the other terms of a reward are scaled for."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import NotChecked, Rule
from assent.diagnosis.scored import FEWEST, scored_example, scored_in
from assent.statistics.small import SURE, mean_interval

FAR = 5.0
"""Spreads from 0 beyond which the level is called so. Comparisons leave it open: healthy models reach 2.5."""
SMALL, LARGE = 0.05, 20.0
"""Spreads beyond which the usual KL coefficients (0.01 to 0.2 a nat) do nothing, or all (failures P12)."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    scores = [*found.better, *found.worse]
    if len(scores) < 2 * FEWEST:
        raise NotChecked(f"too few scores: {len(scores)} of {2 * FEWEST}")
    mean, spread = mean_interval(scores, confidence=SURE), found.spread
    nearest = max(0.0, mean.low, -mean.high)
    level = nearest > FAR * spread
    if not level and SMALL <= spread <= LARGE:
        return None
    what = (
        f"its scores lie around {mean.value:.3g}, with a spread of only {spread:.2g}"
        if level
        else f"its scores have a spread of {spread:.2g}"
    )
    return Finding(
        severity="warning",
        confidence="likely" if found.given else "possible",
        verdict=what,
        evidence=(
            Evidence(metric="mean score", value=mean.value, expected=f"within ±{FAR * spread:.2g}, {FAR:g} spreads"),
            Evidence(metric="spread of the scores", value=spread, expected=f"{SMALL:g} to {LARGE:g}"),
        ),
        cause="comparisons leave the level of the scores open, and their scale follows how long it was trained",
        next_action="normalise its scores when it is trained (assent reward --normalize-rewards). As it is, a "
        "missing end token, "
        "a length penalty and kl_coef have to be scaled to this spread",
        fix={"normalize_rewards": to(True)},
    )


RULE = Rule(
    name="score_off_level",
    title="a reward model's scores lie far from 0, or have an unusual spread",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("no normalisation", "no centring term"),
    source="Eisenstein et al., arXiv:2312.09244 (failures R5, P12)",
)

FIRES = scored_example(level=50.0)
QUIET = scored_example()
