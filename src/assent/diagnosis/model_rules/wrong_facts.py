"""The policy finds wrong answers to simple questions likelier than right ones."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.probes import Behaviour, behaviour_in, wins
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import NotChecked, Rule

KNOWS = 0.75


def check(case: Case) -> Finding | None:
    found = behaviour_in(case)
    if not found.knows_english:
        raise NotChecked("the built-in questions are English, and the model is not")
    right = wins(found.facts)
    if right.value >= KNOWS:
        return None
    return Finding(
        severity="warning",
        confidence="likely",
        verdict=f"the right answer to simple questions is the likelier one in {percent(right)} of "
        f"{len(found.facts)}: it "
        "does not know them, and neither instruction tuning nor preferences will mend that",
        evidence=(Evidence(metric="right answers that are likelier", value=right.value, expected="above 0.75"),),
        cause="the model is too small, or its pretraining did not hold these facts",
        next_action="take a larger pretrained model, or give the facts in the prompt (retrieval). "
        "Comparisons that reward "
        "facts a model does not know teach it to guess",
    )


RULE = Rule(
    name="wrong_facts",
    title="does not know simple facts",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("a small model", "little pretraining"),
    source="Gekhman et al., arXiv:2405.05904",
)

FIRES = Case(models=Behaviour(has_template=True, answers=(), facts=[(-2.0, -1.0)] * 6 + [(-1.0, -2.0)] * 6))
QUIET = Case(models=Behaviour(has_template=True, answers=(), facts=[(-1.0, -2.0)] * 12))
