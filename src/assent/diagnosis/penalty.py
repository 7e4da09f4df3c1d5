"""The weight of the KL penalty, as far as a run's options or its log tell it, and advice that hangs on it."""

from __future__ import annotations

from assent.diagnosis.advice import Advice
from assent.diagnosis.case import Case
from assent.diagnosis.finding import times, to

LOGGED = "objective/kl_coef"


def option_of(case: Case) -> str:
    """The option that weighs the pull to the reference: of online-dpo it is beta."""
    return "beta" if case.stage == "online-dpo" else "kl_coef"


def weight_of(case: Case) -> float | None:
    """As it was given, otherwise as it was logged last; None where neither is known, which is no 0."""
    given = case.objective.beta if case.stage == "online-dpo" else case.option("kl_coef")
    if given is not None:
        return float(given)
    logged = case.find(LOGGED)
    return None if logged is None else logged.last


def stronger(case: Case, *, factor: float, start: float) -> Advice:
    """Raise the penalty by a factor, or begin with `start` where there is none. No change where that is not known."""
    name, weight = option_of(case), weight_of(case)
    flag = f"--{name.replace('_', '-')}"
    if weight is None:
        return f"raise {flag} {factor:g} times, or give {start:g} if there is none (the log does not tell it)", {}
    if weight == 0:
        return f"give {flag} {start:g}", {name: to(start)}
    return f"raise {flag} {factor:g} times", {name: times(factor)}
