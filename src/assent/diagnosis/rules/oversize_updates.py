"""A round's updates go far beyond what its samples can tell: most ratios are clipped, or the policy moves too far."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import ROUNDS, Rule
from assent.statistics.small import median

CLIPPED, DISTANCE, RATIO = "policy/clipfrac_avg", "policy/approxkl_avg", "val/ratio"
LIMITS = {CLIPPED: 0.3, DISTANCE: 0.15, RATIO: 3.0}
"""Medians over the run. Of clipping, .2 is often called high; the distance is nats per token."""
LEAP = 1.0
"""Nats per token in a single round, after which the policy is another one. Healthy tiny runs stay below 0.03."""


def check(case: Case) -> Finding | None:
    over = [
        (name, median(case[name].values), limit)
        for name, limit in LIMITS.items()
        if name in case.series and median(case[name].values) > limit
    ]
    is_leap = not over and DISTANCE in case.series and max(case[DISTANCE].values) > LEAP
    if is_leap:
        over = [(DISTANCE, max(case[DISTANCE].values), LEAP)]
    if not over:
        return None
    epochs = case.option("num_ppo_epochs", 1)
    fewer, lower = "make a quarter of the passes (--num-ppo-epochs)", "lower --learning-rate to a third"
    untold = "" if case.tells("num_ppo_epochs") else f" (or {fewer}, if there are more than 4: the log does not tell)"
    return Finding(
        severity="fault",
        verdict="the updates of a round are too large: "
        + ", ".join(f"{name} is {value:.2g}" for name, value, _ in over)
        + (" in one round" if is_leap else " in the usual round"),
        evidence=tuple(
            Evidence(metric=name, steps=case[name].span, value=value, expected=f"at most {limit:g}")
            for name, value, limit in over
        ),
        cause="too many passes over the same samples, or a learning rate that is too high",
        next_action=(fewer if epochs > 4 else lower + untold) + ", or end a round early (--target-kl 0.05)",
        fix={"num_ppo_epochs": times(0.25)} if epochs > 4 else {"learning_rate": times(0.3)},
    )


RULE = Rule(
    name="oversize_updates",
    title="the updates of a round are too large",
    metrics=(f"{CLIPPED} or {DISTANCE}",),
    least=5,
    stages=ROUNDS,
    check=check,
    causes=("too many epochs a round", "learning rate"),
    source="TRL skips batches whose ratio exceeds 10 (failures P10)",
)

FIRES = example({CLIPPED: [0.4, 0.5, 0.45, 0.5, 0.55, 0.6], DISTANCE: [0.1, 0.2, 0.3, 0.3, 0.4, 0.5]}, stage="ppo",
                num_ppo_epochs=20)  # fmt: skip
QUIET = example({CLIPPED: [0.04, 0.08, 0.05, 0.06, 0.1, 0.08], DISTANCE: [0.002] * 6}, stage="ppo", num_ppo_epochs=4)
