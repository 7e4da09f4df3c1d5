"""In a padded batch, as other programs read it, the folder gives other scores than alone."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rule import NotChecked, Rule
from assent.diagnosis.scored import scored_example, scored_in

OFF = 0.01
"""In spreads of the scores. Rounding gives 1e-6 in float32."""


def check(case: Case) -> Finding | None:
    found = scored_in(case)
    if found.unreadable is not None:
        return Finding(
            severity="warning",
            confidence="certain",
            verdict=f"transformers cannot read a batch with it: {found.unreadable}",
            evidence=(),
            cause="its config.json names no pad id",
            next_action="set pad_token_id in its config.json to a token that is not the end token (assent reads it "
            "as it is)",
        )
    if not found.right_padded:
        raise NotChecked(found.unpadded)
    right, left = max(found.right_padded), max(found.left_padded)
    limit = OFF * found.spread
    if max(right, left) <= limit:
        return None
    side = "on either side" if min(right, left) > limit else "on the right" if right > limit else "on the left"
    return Finding(
        severity="fault" if right > limit else "warning",
        confidence="certain",
        verdict=f"padding {side} moves its scores by up to {max(right, left):.2g} (their spread is "
        f"{found.spread:.2g}): it is read "
        "at another token, or at another position",
        evidence=(
            Evidence(metric="change by padding on the right", value=right, expected=f"at most {limit:.1g}"),
            Evidence(metric="change by padding on the left", value=left, expected=f"at most {limit:.1g}"),
        ),
        cause="its pad id is its end token, so that the end is taken for padding" if right > limit
        else "positions are counted from the padding on, not from the text on",
        next_action="give config.json and tokenizer a pad token of their own, and compare again" if right > limit
        else "let other programs pad on the right (padding_side: right)",
    )  # fmt: skip


RULE = Rule(
    name="score_moves_with_padding",
    title="a reward model's scores depend on padding",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("pad id equal to the end token", "no pad id", "positions counted over padding"),
    source="transformers issues 35352, 35911, 46782 (failures R6)",
)

FIRES = scored_example(right_padded=[0.4] * 8, left_padded=[0.4] * 8)
QUIET = scored_example()
