"""A loss, a gradient or a log-probability was NaN or infinite: from then on the weights may be too.

Where the same figure is a number again later, single rows overflowed, and the weights did not.
"""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times, to
from assent.diagnosis.rule import Rule

LOOKED_AT = ("loss", "grad_norm", "logps/", "logits/", "rewards/", "margin", "objective/", "policy/", "critic/loss")
SPREADS = ("_low", "_high", "_se", "_std", "/std")
"""Ends of an interval, which may be infinite where too few values give it."""


def check(case: Case) -> Finding | None:
    steps = {
        name: found
        for name, found in case.not_finite.items()
        if name.removeprefix("eval_").startswith(LOOKED_AT) and not name.endswith(SPREADS)
    }
    if not steps:
        return None
    name, first = min(((name, found[0]) for name, found in steps.items()), key=lambda item: item[1])
    last = max(found[-1] for found in steps.values())
    recovers = all(one in case.series and case[one].steps[-1] > steps[one][-1] for one in steps)
    fix = {"learning_rate": times(0.3 if recovers else 0.1)}
    if case.option("dtype") == "bfloat16" and not case.option("master_weights"):
        fix |= {"dtype": to("float32")}
    return Finding(
        severity="warning" if recovers else "fatal",
        confidence="certain",
        verdict=f"{name} is not a number at some steps from {first} to {last}: single rows overflow"
        if recovers
        else f"{name} is not a number from step {first} on, so that the weights behind it cannot be trusted",
        evidence=(Evidence(metric=name, steps=(first, steps[name][-1]), value=float("nan"), expected="a number"),),
        cause="the learning rate is too high, or numbers overflow at half precision",
        next_action="lower the learning rate to a third, and look at the longest rows (assent data check FILE --model "
        "MODEL)"
        if recovers
        else f"go back to a checkpoint before step {first}, and continue with a tenth of the learning rate",
        fix=fix,
    )


RULE = Rule(
    name="not_finite",
    title="a loss or gradient is NaN or infinite",
    metrics=(),
    check=check,
    causes=("learning rate", "overflow at half precision", "a row whose labels are all masked"),
    source="public trainer states with a gradient norm of NaN beside a loss of 0.0 (failures P19)",
)

FIRES = example({"loss": [0.69, 0.7, 0.0, 0.0], "grad_norm": [1.0, 40.0, float("nan"), float("nan")]}, stage="dpo")
QUIET = example({"loss": [0.69, 0.68], "eval_accuracy_high": [float("inf"), 0.7]}, stage="dpo")
