"""Rewards do not differ, so that no answer is better than another: there is nothing to learn from."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import ends, fmean

SPREAD, SAME = "objective/scores_std", "frac_reward_zero_std"
NOTHING = 1e-6
MOST = 0.9
"""Share of prompts whose answers all score the same."""


def check(case: Case) -> Finding | None:
    name = case.named(f"{SAME} or {SPREAD}")
    values = case[name].values
    last = fmean(ends(values)[1])
    spread = case.find(SPREAD)
    is_constant = spread is not None and max(spread.values) < NOTHING
    if not is_constant and not (name == SAME and last > MOST):
        return None
    began = fmean(ends(values)[0])
    return Finding(
        severity="fault",
        confidence="certain",
        verdict="every answer has the same reward, so that all advantages are 0"
        if is_constant
        else f"{last:.0%} of the prompts have answers of one reward, and teach nothing",
        evidence=(
            Evidence(metric=SPREAD, steps=spread.span, value=spread.last, expected="above 0")
            if is_constant and spread
            else Evidence(metric=name, steps=case[name].span, value=last, expected=f"below {MOST:g}"),
        ),
        cause="the reward is constant: it does not read the answer, or its rule never matches"
        if is_constant
        else "the prompts are too hard or too easy by now" if began < MOST else "the prompts are too hard or too easy",
        next_action="read a few answers (a run of Assent keeps them in samples.jsonl) beside the reward's rule, and "
        "widen the rule until it pays for some of them and not for others"
        if is_constant
        else "sample twice as many answers a prompt (--num-completions), and choose prompts that some answers solve "
        "and others do not",
        fix={} if is_constant else {"num_completions": times(2.0)},
    )  # fmt: skip


RULE = Rule(
    name="zero_advantage",
    title="rewards do not differ",
    metrics=(f"{SAME} or {SPREAD}",),
    least=3,
    stages=SAMPLED,
    check=check,
    causes=("constant reward", "prompts too hard or too easy", "a rule that never matches"),
    source="failures P13; DAPO's dynamic sampling, arXiv:2503.14476",
)

FIRES = example({SPREAD: [0.0] * 5, "grad_norm": [0.0] * 5}, stage="grpo")
QUIET = example({SPREAD: [0.3] * 5, SAME: [0.4] * 5}, stage="grpo")
