"""A change that means nothing (blanks, the last mark) moves the score as far as the better answer is from the worse."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import moved, scored_example, scored_in
from assent.statistics.small import SURE, difference, fmean

MUCH = 0.5
"""Of the mean distance between a pair's scores."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    found.need("retouched")
    moves = [abs(move) for move in moved(found, "retouched")]
    apart = [MUCH * abs(margin) for margin in found.margins]
    if difference(moves, apart, confidence=SURE).low <= 0:
        return None
    return Finding(
        severity="warning",
        confidence="likely" if found.given else "possible",
        verdict=f"twins do not agree: an answer with other blanks and another last mark scores {fmean(moves):.2g} "
        f"apart, where better "
        f"and worse answers are {fmean(apart) / MUCH:.2g} apart",
        evidence=(
            Evidence(
                metric="distance between twins' scores", value=fmean(moves), expected=f"at most {fmean(apart):.2g}"
            ),
        ),
        cause="it has learned surface marks of the better answers, or nearly nothing",
        next_action="clean blanks and end marks in its training data the same way in chosen and rejected (assent "
        "doctor DATA finds "
        "marks of one side), and train it again",
    )


RULE = Rule(
    name="score_follows_surface",
    title="a reward model tells twins apart that mean the same",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("surface marks in its training data", "little training"),
    source="Wu et al., reWordBench, arXiv:2503.11751",
)

FIRES = scored_example(retouched=[score + 2.0 * (-1) ** i for i, score in enumerate(scored_example().models.better)])
QUIET = scored_example()
