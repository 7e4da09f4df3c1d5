"""Most sampled completions are cut at the length limit: they never end by themselves."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, times, to
from assent.diagnosis.rule import SAMPLED, Rule
from assent.statistics.small import ends, fmean

ENDED, LENGTH = "rollout/eos_rate", "rollout/completion_length"
MOST = 0.2
"""Share that ends, below which learning to stop is impossible: nothing stops."""
HALF = 0.5
NONE = 0.05
"""Share that ends, below which the limit may be far too short."""


def check(case: Case) -> Finding | None:
    ended = case[ENDED]
    first, last = (fmean(part) for part in ends(ended.values))
    if last > HALF:
        return None
    grew = first > last + 0.3
    penalty = case.option("missing_eos_penalty", 0.0)
    more = times(2.0) if penalty >= 1.0 else to(1.0)
    longer = 4.0 if last < NONE else 2.0
    length = case.find(LENGTH)
    where = "" if length is None else f" at {length.last:.0f} tokens on average"
    return Finding(
        severity="fault" if last < MOST else "warning",
        confidence="certain",
        verdict=f"{1 - last:.0%} of the completions are cut{where}: what they would have said does not count",
        evidence=(Evidence(metric=ENDED, steps=ended.span, value=last, expected="above 0.8"),),
        cause="answers have grown up to the limit, as the reward likes long ones"
        if grew
        else "the limit is shorter than the answers, or the policy was never taught to end (its SFT masked EOS, as "
        "when pad and EOS are one token)",
        next_action=f"penalise unfinished answers{' more' if penalty else ''} (--missing-eos-penalty "
        f"{more.applied(penalty):g}), and check the reward for a length bias"
        if grew
        else f"give {longer:g} times as many --max-new-tokens; if as many are cut still, train SFT again with EOS in "
        "the loss (assent data show FILE --model MODEL shows it in colour)",
        fix={"missing_eos_penalty": more} if grew else {"max_new_tokens": times(longer)},
    )


RULE = Rule(
    name="cut_completions",
    title="completions are cut at the length limit",
    metrics=(ENDED,),
    stages=SAMPLED,
    check=check,
    causes=("limit too short", "EOS masked in SFT (pad is EOS)", "length exploit"),
    source="a public GRPO log with 91% of its completions cut (failures P11)",
)

FIRES = example({ENDED: [0.1, 0.05, 0.08], LENGTH: [250.0] * 3}, stage="grpo", max_new_tokens=256)
QUIET = example({ENDED: [0.9, 0.95, 0.92], LENGTH: [120.0] * 3}, stage="grpo", max_new_tokens=256)
