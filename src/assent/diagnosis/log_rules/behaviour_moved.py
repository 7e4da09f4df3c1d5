"""The model answers otherwise than at the release, at prompts of which the same was expected (O3 of the failures)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    tested = moved(case, "behaviour_moved", needs="answers that vary", beside=("prompts_moved",))
    if not tested:
        return None
    return Finding(
        severity="fault",
        confidence="certain",
        verdict="the model behaves otherwise than at the release at comparable prompts: "
        f"{', '.join(one.signal.title for one in tested)} moved",
        evidence=evidence(tested),
        cause="another model, another system prompt, or other sampling settings behind the same name",
        next_action="compare what is deployed with what was released (model, system prompt, temperature, limits); if "
        "nobody changed it on purpose, roll back",
    )


RULE = Rule(
    name="behaviour_moved",
    title="the model's behaviour has moved",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("another model or system prompt", "other sampling settings"),
    source="Chen, Zaharia and Zou, arXiv:2307.09009 (failures O3)",
)

FIRES = example("completion/length")
QUIET = example(quiet=("completion/length", "completion/refusal"))
