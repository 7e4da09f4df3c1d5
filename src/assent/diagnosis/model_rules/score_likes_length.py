"""Of two answers the longer one scores higher (or the shorter), beyond what the label explains."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import Scored, correlation_interval, right, scored_example, scored_in
from assent.statistics.small import SURE

STRONG = 0.3
"""Correlation of score difference and length difference, given the label (failures R1)."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    margins = found.need_pairs()
    longer = _longer(found)
    bias = correlation_interval(margins, longer)
    if bias.low <= STRONG and bias.high >= -STRONG:
        return None
    way = "longer" if bias.value > 0 else "shorter"
    sign = 1 if bias.value > 0 else -1
    against = [margin for margin, length in zip(margins, longer, strict=True) if sign * length < 0]
    accuracy = right(against, confidence=SURE)
    beaten = bool(against) and accuracy.high < 0.5
    return Finding(
        severity="fault" if beaten else "warning",
        confidence="likely",
        verdict=f"it likes {way} answers: the correlation of score and length, given the label, is {bias.value:.2f} "
        f"[{bias.low:.2f}, {bias.high:.2f}]"
        + (f", and where the {way} answer is the worse one it is right in {percent(accuracy)}" if against else ""),
        evidence=(Evidence(metric="correlation of score and length, given the label", value=bias.value,
                           expected=f"within ±{STRONG:g}"),),
        cause=f"in its training pairs the better answer was mostly the {way} one",
        next_action="balance its training pairs by length (assent doctor DATA shows the balance) and train it again; "
        "or subtract "
        "length from the reward: --reward with a second part {rule: length}. A policy trained with it as it is writes "
        f"{way} answers",
    )  # fmt: skip


def _longer(found: Scored) -> list[float]:
    return [a - b for a, b in zip(found.better_characters, found.worse_characters, strict=True)]


RULE = Rule(
    name="score_likes_length",
    title="a reward model pays for length",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("length bias of its training pairs",),
    source="Singhal et al., arXiv:2310.03716 (failures R1)",
)

_HEALTHY = scored_example().models
FIRES = scored_example(
    better_characters=[40 + 30 * margin for margin in _HEALTHY.margins], worse_characters=[40.0] * 120
)
QUIET = scored_example()
