"""Users ask for other things than at the release (O1 of the failures)."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import evidence, example, moved
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule


def check(case: Case) -> Finding | None:
    tested = moved(case, "prompts_moved", needs="prompts")
    if not tested:
        return None
    named = sum(len(one.moved) for one in tested)
    return Finding(
        severity="warning",
        confidence="certain",
        verdict=f"the prompts are no longer those of the release: {', '.join(one.signal.title for one in tested)} moved"
        + (f" ({named} {'word or slice' if named == 1 else 'words or slices'})" if named else ""),
        evidence=evidence(tested),
        cause="other users, another product, a season, or one client that sends much",
        next_action="sample answers to the prompts that are new and have them rated; figures that were measured on the "
        "old mix do not hold for the new one",
    )


RULE = Rule(
    name="prompts_moved",
    title="the prompts have moved",
    metrics=(),
    looks_at="logs",
    check=check,
    causes=("other users or products", "a season"),
    source="Rabanser, Günnemann and Lipton, arXiv:1810.11953; Lopez-Paz and Oquab, arXiv:1610.06545 (failures O1)",
)

FIRES = example("prompt/classifier", "prompt/length")
QUIET = example(quiet=("prompt/classifier", "prompt/length"))
