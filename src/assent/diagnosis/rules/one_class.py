"""KTO: most batches, or all of them, hold thumbs of one kind alone."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import THUMBS, Rule

LOSS, UP, DOWN = "loss", "rewards/chosen", "rewards/rejected"
OFTEN = 0.5


def check(case: Case) -> Finding | None:
    steps = set(case[LOSS].steps)
    counts = {name: len(steps & set(case.series[name].steps)) if name in case.series else 0 for name in (UP, DOWN)}
    # a figure of no rows is NaN in some trainers, and absent in others
    scarce = min(counts, key=lambda name: counts[name])
    seen = [set(case.series[name].steps) for name in (UP, DOWN) if name in case.series]
    both = len(steps.intersection(*seen)) if len(seen) == 2 else 0
    share = 1 - both / len(steps)
    if sum(counts.values()) < 0.9 * len(steps) or share < OFTEN:
        return None
    return Finding(
        severity="fault",
        confidence="certain" if len(seen) == 2 else "possible",  # a kind that never appears may have another name
        verdict=f"{share:.0%} of the steps saw thumbs of one kind alone: the loss pushes one way there",
        evidence=(
            Evidence(metric=LOSS, steps=case[LOSS].span, value=len(steps)),
            *_counted(case, scarce, counts[scarce], len(steps)),
        ),
        cause="the data are sorted by label, or so lopsided that small batches miss the rarer kind",
        next_action="shuffle the data, enlarge the batch, and weigh the rarer kind (--desirable-weight, "
        "--undesirable-weight) so that both weigh about the same",
        fix={"shuffle": to(True)},
    )


def _counted(case: Case, name: str, count: int, steps: int) -> list[Evidence]:
    """The steps at which the rarer kind was logged; nothing where it never was."""
    return [Evidence(metric=name, value=count, expected=f"{steps} steps")] if name in case.series else []


RULE = Rule(
    name="one_class",
    title="batches hold thumbs of one kind alone",
    metrics=(LOSS,),
    least=8,
    stages=THUMBS,
    check=check,
    causes=("data sorted by label, unshuffled", "one kind is rare", "small batches"),
    source="people's threads on KTO; arXiv:2402.01306, section 4.3",
)

FIRES = example({LOSS: [0.5] * 12, UP: [0.1] * 12, DOWN: {3: 0.1, 7: 0.2}}, stage="kto", shuffle=False)
QUIET = example({LOSS: [0.5] * 12, UP: [0.1] * 12, DOWN: [-0.1] * 12}, stage="kto")
