"""The better answer is the longer one, or the shorter one, more often than a judge of content would make it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import Pair, data_of, percent, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import Rule
from assent.statistics.small import Interval, fmean, student_quantile, variance

BIASED = 0.6
"""Share of pairs whose better answer is the longer one (failures D8)."""


def check(case: Case) -> Finding | None:
    pairs = data_of(case).need_pairs()
    longer, prompts = share((pair.prompt, _is_longer(pair)) for pair in pairs)
    if longer.low <= BIASED and longer.high >= 1 - BIASED:
        return None
    way = "longer" if longer.value > 0.5 else "shorter"
    ratio, size = effect(pairs)
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"the better answer is the longer one in {percent(longer)} of {prompts:,} prompts; its length is "
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times the other's (effect size {size:+.2f})",
        evidence=(
            Evidence(metric="share of longer better answers", value=longer.value, expected="0.4 to 0.6"),
            Evidence(metric="effect size (Cohen's d of log length)", value=size, expected="about 0"),
        ),
        cause=f"whoever judged liked {way} answers, or the better ones came from a {way}-winded writer",
        next_action=f"balance the pairs by length, or correct for it: a policy trained on them writes "
        f"{way} answers, and "
        f"a reward model pays for them. In DPO: --loss-type simpo or ld_dpo. Where {way} is what people "
        f"want, accept it",
    )  # fmt: skip


def _is_longer(pair: Pair) -> float:
    return 0.5 if len(pair.better) == len(pair.worse) else float(len(pair.better) > len(pair.worse))


def effect(pairs: Sequence[Pair]) -> tuple[Interval, float]:
    """How many times as long the better answer is, with its 95% interval; and Cohen's d, over pairs.

    The ratio is a geometric mean: first over the pairs of a prompt, then over prompts.
    """
    logs = [(pair.prompt, math.log((len(pair.better) + 1) / (len(pair.worse) + 1))) for pair in pairs]
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for prompt, value in logs:
        by_prompt[prompt].append(value)
    means = [fmean(values) for values in by_prompt.values()]
    reach = student_quantile(0.975, len(means) - 1) * math.sqrt(variance(means) / len(means))
    ratio = [math.exp(fmean(means) + end) for end in (0.0, -reach, reach)]
    deviation = math.sqrt(variance([value for _, value in logs]))
    return Interval(*ratio), fmean(value for _, value in logs) / deviation if deviation > 0 else 0.0


RULE = Rule(
    name="length_bias",
    title="the better answer is mostly the longer one, or the shorter",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("judges who reward length", "better answers from another writer"),
    source="Singhal et al., arXiv:2310.03716; Park et al., arXiv:2403.19159 (failures D8)",
)


def _long(number: int) -> dict[str, str]:
    row = sample_pair(number)
    better, worse = sorted((row["chosen"], row["rejected"]), key=len, reverse=number % 10 != 0)
    return sample_pair(number, better=better, worse=worse)


FIRES = rows_example(_long(number) for number in range(200))
QUIET = rows_example(sample_pairs(200))
