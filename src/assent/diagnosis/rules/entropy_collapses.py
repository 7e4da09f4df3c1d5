"""The policy has hardly any entropy left: it answers every prompt in one way."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Change, Evidence, Finding, times, to
from assent.diagnosis.rule import ROUNDS, SAMPLED, NotChecked, Rule
from assent.statistics.small import ends, fmean

PER_TOKEN, SUMS, LENGTH = "policy/entropy_avg", "objective/entropy", "rollout/completion_length"
SHARE, FALLEN = 0.15, 0.34
"""Of the entropy at the start: collapsed, and on its way there. Healthy tiny runs end at 0.35 and more."""

LEAST = 8


def check(case: Case) -> Finding | None:
    name, values = _per_token(case)
    is_per_token = name == PER_TOKEN or LENGTH in case.series
    if len(values) < LEAST:
        raise NotChecked(f"too few steps with entropy and length: {len(values)} of {LEAST}")
    first, last = (fmean(part) for part in ends(values))
    if first <= 0 or last > FALLEN * first:
        return None
    is_collapsed = last <= SHARE * first
    spread = case.find("objective/scores_std")
    unique = case.find("rollout/unique")
    return Finding(
        severity="fault" if is_collapsed else "warning",
        confidence="likely" if is_collapsed else "possible",
        verdict=f"the policy's entropy collapsed to {max(last, 0) / first:.0%} of its start: it answers in one way"
        if is_collapsed
        else f"the policy's entropy fell to {last / first:.0%} of its start: it tries ever fewer answers",
        evidence=(
            Evidence(
                metric=name,
                steps=case[name].span,
                value=last,
                expected=f"above {FALLEN * first:.2g}" + " per token" * is_per_token,
            ),
            *([Evidence(metric="rollout/unique", steps=unique.span, value=unique.last)] if unique else []),
            *([Evidence(metric="objective/scores_std", steps=spread.span, value=spread.last)] if spread else []),
        ),
        cause="updates are too large, or advantages are not normalised, so that one kind of answer takes everything",
        next_action="lower --learning-rate to a third and start again; if it still collapses, add an entropy bonus "
        "(--entropy-coef 0.01) or clip less above (--cliprange-high 0.28)",
        fix={"learning_rate": times(0.3), **_bonus(case)},
    )


def _bonus(case: Case) -> dict[str, Change]:
    """An entropy bonus, where the command has one and the run's is not as large already."""
    return {"entropy_coef": to(0.01)} if case.stage in ROUNDS and case.option("entropy_coef", 0.0) < 0.01 else {}


def _per_token(case: Case) -> tuple[str, list[float]]:
    """The entropy per token; where only its sum over a completion was logged, divided by the mean length."""
    if PER_TOKEN in case.series or LENGTH not in case.series:
        name = case.named(f"{PER_TOKEN} or {SUMS}")
        return name, list(case[name].values)
    at = dict(zip(case[LENGTH].steps, case[LENGTH].values, strict=True))
    sums = zip(case[SUMS].steps, case[SUMS].values, strict=True)
    return SUMS, [value / max(at[step], 1.0) for step, value in sums if step in at]


RULE = Rule(
    name="entropy_collapses",
    title="the policy's entropy collapses, or is on its way there",
    metrics=(f"{PER_TOKEN} or {SUMS}",),
    least=LEAST,
    stages=SAMPLED,
    check=check,
    causes=("learning rate", "unnormalised advantages", "a reward that one answer wins"),
    source="failures P7; DAPO's clip-higher, arXiv:2503.14476",
)

FIRES = example({PER_TOKEN: [2.0, 1.9, 1.7, 1.2, 0.7, 0.3, 0.1, 0.05, 0.03, 0.02]}, stage="grpo", learning_rate=1e-4)
FIRES_ALSO = (example({PER_TOKEN: [2.0, 1.9, 1.7, 1.4, 1.1, 0.8, 0.6, 0.6, 0.6]}, stage="ppo", learning_rate=1e-2),)
QUIET = example({PER_TOKEN: [2.0, 1.9, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.2, 1.1]}, stage="grpo")
