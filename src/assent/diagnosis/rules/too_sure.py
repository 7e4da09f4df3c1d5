"""The held-out loss is above that of a coin although the ranking is better than one: the scores are too sure.

A coin's loss is ln 2 for pairs, ln n! for rankings of n answers under Plackett–Luce, and what the run itself measured
before its first update where the data move it (margins, ties, rankings of several sizes).
"""

from __future__ import annotations

import math

from assent.diagnosis.advice import fit_less
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.objective import EQUAL_SCORES
from assent.diagnosis.rule import DPO, REWARD, NotChecked, Rule
from assent.diagnosis.rules import held_out_rises, memorises_epochs

LOSS, ACCURACY = "eval_loss", "eval_accuracy or eval_rewards/accuracies"
LIKELIHOODS = frozenset({"bradley_terry", "sigmoid", "all_pairs", "plackett_luce", "davidson", "rao_kupper"})
"""Losses that are the surprise of a label, so that a coin's value bounds what they may be."""


ABOVE, FAR_ABOVE = 1.15, 2.0
"""Held-out losses in a coin's from which on scores are too sure: where pairs show a ranking, and where they do not."""


def check(case: Case) -> Finding | None:
    coin = _coin(case)
    for other in (memorises_epochs, held_out_rises):
        if other.RULE.finds(case):
            raise NotChecked(f"{other.RULE.name} has found the same")
    loss, accuracy = case[LOSS].last, case[ACCURACY].last
    low = case.find(f"{case.named(ACCURACY)}_low")
    is_shown = low is None or low.last > 0.5
    if loss < (ABOVE if is_shown else FAR_ABOVE) * coin or accuracy < 0.6:
        return None
    what_to_do, fix = fit_less(case)
    return Finding(
        severity="fault",
        confidence="certain" if case.objective.loss is not None else "likely",
        verdict=f"the scores are too sure: {accuracy:.0%} of the held-out pairs are right, and the loss of {loss:.3g} "
        "is above a coin's",
        evidence=(
            Evidence(metric=LOSS, steps=(case[LOSS].steps[-1],) * 2, value=loss, expected=f"below {coin:.4g}"),
            Evidence(metric=case.named(ACCURACY), steps=(case[ACCURACY].steps[-1],) * 2, value=accuracy),
        ),
        cause="too many passes over the pairs, or too high a learning rate: differences grow beyond what they mean",
        next_action=f"{what_to_do}; or smooth the labels (label_smoothing 0.1), or divide the scores by a temperature "
        "fitted on held-out pairs",
        fix=fix,
    )


def _coin(case: Case) -> float:
    """The loss of answers that are all alike."""
    objective, held_out = case.objective, case[LOSS]
    losses = set((objective.loss or "").split(" + "))
    is_assumed = objective.loss is None and case.stage == "reward" and objective.start is not None
    if not is_assumed and not losses <= LIKELIHOODS:
        raise NotChecked("only the likelihood of a label has a coin's value to compare with (loss_type)")
    of_rows = case.find(f"eval_{EQUAL_SCORES}")  # of the held-out rows themselves, where it depends on them
    start = objective.start if of_rows is None else of_rows.last
    known = [] if start is None else [start]
    known += [held_out.first] if held_out.steps[0] == 0 and len(held_out) > 1 else []
    if not known:
        raise NotChecked("the loss of equal answers is not known: measure held-out rows before training (--eval-steps)")
    return max(known)


RULE = Rule(
    name="too_sure",
    title="the scores are too sure of themselves",
    metrics=(LOSS, ACCURACY),
    stages=REWARD | DPO,
    check=check,
    causes=("overfitting", "scores scaled up"),
    source="calibration errors of .086 to .183 are published: arXiv:2409.09603 (failures R4)",
)

FIRES = example({LOSS: {50: 1.4}, "eval_accuracy": {50: 0.72}}, stage="reward", num_train_epochs=8.0)
QUIET = example({LOSS: {50: 0.6}, "eval_accuracy": {50: 0.72}}, stage="reward")
_RANKED = {LOSS: {0: math.log(24), 50: 2.5}, "eval_accuracy": {0: 0.5, 50: 0.72}}
_OF_FOUR = {"eval_loss_at_equal_scores": {50: math.log(24)}, "eval_accuracy": {50: 0.72}}
FIRES_ALSO = (
    example({LOSS: {50: 3.9}, **_OF_FOUR}, stage="reward", loss_type="plackett_luce"),
    example({**_RANKED, LOSS: {0: math.log(24), 50: 3.9}}, stage="reward", loss_type="plackett_luce"),
    example({LOSS: {50: 1.6}, "eval_accuracy": {50: 0.72}}, stage="reward", loss_type="davidson"),
)
QUIET_ALSO = (
    example({LOSS: {50: 0.76}, "eval_accuracy": {50: 0.7}}, stage="reward"),
    example({LOSS: {50: 0.89}, "eval_accuracy": {50: 0.62}, "eval_accuracy_low": {50: 0.499}}, stage="reward"),
    example(_RANKED, stage="reward", loss_type="plackett_luce"),
    example({LOSS: {50: 3.3}, **_OF_FOUR}, stage="reward", loss_type="plackett_luce"),
    example({**_RANKED, LOSS: {50: 2.5}}, stage="reward", loss_type="plackett_luce"),
    example({LOSS: {0: 1.35, 50: 1.1}, "eval_accuracy": {0: 0.5, 50: 0.72}}, stage="reward", loss_type="bradley_terry"),
    example({LOSS: {50: 1.0}, "eval_accuracy": {50: 0.72}}, stage="reward", loss_type="davidson"),
    example({LOSS: {50: 1.2}, "eval_accuracy": {50: 0.72}}, stage="reward",
            losses=[{"name": "bradley_terry", "weight": 2.0}]),
    example({LOSS: {50: 1.2}, "eval_rewards/accuracies": {50: 0.72}}, stage="dpo", loss_type=None,
            losses=[{"name": "sigmoid"}, {"name": "sft", "weight": 0.1}]),
    example({LOSS: {50: 20.0}, "eval_rewards/accuracies": {50: 0.72}, "loss": [25.0, 24.0],
             "rewards/margins": [0.0, 0.1]}, stage="dpo"),
)  # fmt: skip
"""Up and down; no ranking to be sure of; rankings of four; a margin column, which moves a coin's loss;
ties as an outcome; sums; IPO that nothing names."""
