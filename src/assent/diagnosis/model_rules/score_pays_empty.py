"""An answer without a word scores higher than the better answer of most prompts."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import higher, scored_example, scored_in


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    found.need("empty")
    share = higher(found, "empty")
    if share.low <= 0.5:
        return None
    return Finding(
        severity="fault",
        confidence="certain" if found.given else "likely",
        verdict=f"an empty answer scores higher than the better answer for {percent(share)} of {len(found.empty)} "
        f"prompts",
        evidence=(
            Evidence(metric="share of prompts that an empty answer wins", value=share.value, expected="below 0.5"),
        ),
        cause="it has seen no empty answer, and reads the end of the prompt as a good end",
        next_action="add pairs whose rejected answer is a single word or mark to its training data (rows with an empty "
        "answer are refused) and train it again. In RLHF a policy finds this: until then add a part to the reward that "
        "pays for a least length ({rule: length})",
    )


RULE = Rule(
    name="score_pays_empty",
    title="a reward model prefers an empty answer",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("no empty answers in its training data",),
    source="Gao et al., arXiv:2210.10760; Zheng et al., arXiv:2410.07137",
)

FIRES = scored_example(empty=[score + 1 for score in scored_example().models.better])
QUIET = scored_example()
