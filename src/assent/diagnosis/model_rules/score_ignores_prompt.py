"""The margin of two answers is the same after another prompt: the score judges the text, not the answer."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import correlation_interval, scored_example, scored_in

SAME = 0.85
"""Correlation. Healthy models reach 0.6; one that was trained with prompts of other rows has 0.91 to 0.96."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    margins = found.need_pairs()
    found.need("other_better")
    others = [better - worse for better, worse in zip(found.other_better, found.other_worse, strict=True)]
    same = correlation_interval(margins, others)
    if same.low <= SAME:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"it hardly reads the prompt: the margins of {len(margins)} pairs after another row's prompt correlate "
        f"{same.value:.3f} [{same.low:.3f}, {same.high:.3f}] with their own",
        evidence=(
            Evidence(
                metric="correlation of margins after another prompt", value=same.value, expected=f"below {SAME:g}"
            ),
        ),
        cause="in its training pairs style tells the better answer, or the prompt is cut away by max_length",
        next_action="look how many prompts lose tokens (assent data check --model RM --max-length N), and add pairs "
        "whose rejected "
        "answer is a good one to another prompt",
    )


RULE = Rule(
    name="score_ignores_prompt",
    title="a reward model scores answers alike after any prompt",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("style tells the better answer", "prompts that are cut away"),
    source="Singhal et al., arXiv:2310.03716",
)

_HEALTHY = scored_example().models
FIRES = scored_example(other_better=_HEALTHY.better, other_worse=_HEALTHY.worse)
QUIET = scored_example()
