"""The reward model ranks held-out pairs no better than a coin after enough steps, or has not moved in them.

Where steps or pairs are too few to say why, it still says that the held-out accuracy does not exclude a coin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assent.diagnosis.advice import passes_of
from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Change, Evidence, Finding, factor_to, times
from assent.diagnosis.rule import REWARD, NotChecked, Rule
from assent.statistics.small import ends, fmean, mean_interval, wilson

TRAIN, HELD_OUT, MARGIN, RATE = "accuracy", "eval_accuracy", "margin", "learning_rate"
STEPS = 20
PAIRS = 100
"""Comparisons below which a coin cannot be told from a weak model."""
CHANCE = 0.55
SCORES = ("eval_margin", "eval_mean_reward")
"""Held-out figures of the same rows, measured again: they stand still where the weights do."""
NOTHING, STILL = 0.003, 0.05
"""Moves of these below which the weights stand still, and above which they do not."""
LEARNED = 1.0
"""A margin that a reward model which has learned something reaches."""
UNSEEN, LARGEST = 10.0, 1e5


def check(case: Case) -> Finding | None:
    rates = case.find(RATE)
    if rates is not None and not any(rates.values):
        return None  # learning_rate_zero
    not_shown = _not_shown(case)
    try:
        return _fault(case) or not_shown
    except NotChecked:
        if not_shown is None:
            raise
        return not_shown


def _not_shown(case: Case) -> Finding | None:
    """The held-out accuracy's interval reaches one half: said of any number of steps and pairs; proves no fault.

    A warning once the run has ended with at most one half, which nobody should train or choose with.
    """
    held_out, low, high = (case.find(f"{HELD_OUT}{end}") for end in ("", "_low", "_high"))
    if held_out is None or low is None or high is None or low.last > 0.5:
        return None
    value = held_out.last
    has_ended = case.status != "running" or (case.planned_steps is not None and case.steps >= case.planned_steps)
    interval = f"{value:.0%} of the held-out pairs (95% interval {low.last:.0%} to {high.last:.0%})"
    return Finding(
        severity="warning" if value <= 0.5 and has_ended else "info",
        confidence="possible",
        verdict=f"the reward model is right on {interval}: not shown to be better than a coin",
        evidence=(Evidence(metric=HELD_OUT, steps=held_out.span, value=value, expected="an interval above 0.5"),),
        cause="too few updates, too few held-out pairs to tell, or labels that do not depend on what the model reads",
        next_action="do not train a policy or choose answers with it yet: train it for more steps, and measure it on "
        "more held-out pairs",
    )


def _fault(case: Case) -> Finding | None:
    train, moved = case[TRAIN], _moved(case)
    if len(train) < STEPS:
        raise NotChecked(f"too few steps: {len(train)} of {STEPS}")
    stands_still = moved is not None and moved < NOTHING
    name, value, is_chance = _against_chance(case)
    if not is_chance and not stands_still:
        return None
    learns = fmean(ends(train.values)[1]) > 0.65 and not stands_still
    moves = moved is not None and moved > STILL
    cause, next_action, fix = _why(moved, learns=learns, moves=moves)
    return Finding(
        severity="fault",
        verdict=f"the reward model stands still: after {case.steps} steps its held-out scores have moved by {moved:.1g}"
        if stands_still
        else f"the reward model is right on {value:.0%} of the pairs, as a coin would be"
        + (", although its scores have moved" if moves or learns else ""),
        evidence=(
            Evidence(metric=name, steps=case[name].span, value=value, expected=f"above {CHANCE:g}"),
            Evidence(metric=TRAIN, steps=train.span, value=fmean(ends(train.values)[1])),
        ),
        cause=cause,
        next_action=next_action,
        fix=fix,
    )


def _why(moved: float | None, *, learns: bool, moves: bool) -> tuple[str, str, dict[str, Change]]:
    """The cause, what to do, and the change."""
    people = "let two people label fifty pairs again: where they do not agree, no model can"
    if learns:
        rows = "where they do, look at rows as the model reads them (assent data show FILE --model MODEL)"
        return "the labels are random, or do not depend on what the model reads", f"{people}; {rows}", {}
    if moves:
        return (
            "the learning rate is so high that nothing learned lasts, or the labels are random",
            f"lower the learning rate to a tenth; if the accuracy stays at one half then, {people}",
            {"learning_rate": times(0.1)},
        )
    raised = UNSEEN if moved is None else factor_to(LEARNED, moved, least=UNSEEN, most=LARGEST)
    return (
        "the learning rate is too low" + ("" if moved is not None else ", or the labels are random"),
        f"raise the learning rate {raised:g} times; if the training accuracy stays at one half then, {people}",
        {"learning_rate": times(raised)},
    )


def _against_chance(case: Case) -> tuple[str, float, bool]:
    """The accuracy's metric, its value, and whether a coin would do as well."""
    train = case[TRAIN]
    held_out, low = case.find(HELD_OUT), case.find(f"{HELD_OUT}_low")
    if held_out is not None and low is not None:
        name, value, lowest = HELD_OUT, held_out.last, low.last
        if held_out.last - low.last > 0.2:
            raise NotChecked("too few held-out comparisons to tell chance from a weak model")
    else:
        last = ends(train.values)[1]
        count = len(last) * float(case.option("batch_size", 0))
        if count < PAIRS:
            raise NotChecked(f"too few comparisons: {count:.0f} of {PAIRS} in the last quarter (batch_size)")
        name, value, lowest = TRAIN, fmean(last), wilson(fmean(last) * count, count, confidence=0.99).low
    # new rows say nothing for a model that broke afterwards and is wrong as often as right
    is_chance = lowest <= 0.5 and value <= CHANCE + 0.03 and (value <= 0.5 or not _ranks_new_rows(case))
    return name, value, is_chance


def _ranks_new_rows(case: Case) -> bool:
    """Whether a coin is excluded by the second half of the first pass, whose rows were new when they were ranked.

    Either by how many of them are right, or by their mean margin beside its noise from step to step, which sees more.
    """
    if "num_train_epochs" not in case.config and case.find("epoch") is None:
        return False
    end = (case.planned_steps or case.steps) / max(1.0, passes_of(case) or 1.0)
    new = [value for step, value in zip(case[TRAIN].steps, case[TRAIN].values, strict=True) if end / 2 < step <= end]
    count = len(new) * float(case.option("batch_size", 0))
    if count < PAIRS:
        return False
    margin = case.find(MARGIN)
    margins = (
        () if margin is None else [v for s, v in zip(margin.steps, margin.values, strict=True) if end / 2 < s <= end]
    )
    return wilson(fmean(new) * count, count).low > 0.5 or (bool(margins) and mean_interval(margins).low > 0)


def _moved(case: Case) -> float | None:
    """How far the held-out scores have moved since before training; None: that was not logged."""
    series = [case[name] for name in SCORES if name in case.series and case[name].steps[0] == 0 < case[name].steps[-1]]
    return max((abs(one.last - one.first) for one in series), default=None)


RULE = Rule(
    name="ranks_at_chance",
    title="the reward model is at chance, or stands still",
    metrics=(TRAIN,),
    also=(*SCORES, MARGIN, RATE),
    stages=REWARD,
    check=check,
    causes=("random labels", "learning rate too low", "columns that are equal after the cut"),
    source="failures R2",
)

FIRES = example({TRAIN: [0.5, 0.55, 0.45, 0.5] * 8}, stage="reward", batch_size=32, learning_rate=1e-6)
QUIET = example({TRAIN: [0.5, 0.55, 0.6, 0.6, *[0.68, 0.72] * 14]}, stage="reward", batch_size=32)
_COIN = [0.5, 0.55, 0.45, 0.5] * 8
_WEAK: dict[str, Sequence[float] | Mapping[int, float]] = {
    TRAIN: [*[0.5] * 30, *[0.6] * 30],
    HELD_OUT: {60: 0.57},
    f"{HELD_OUT}_low": {60: 0.45},
}
"""The rows of its second half were new if it was one pass, and 0.6 of 240 is no coin."""
FIRES_ALSO = (
    example({TRAIN: _COIN, "eval_margin": {0: 0.0123, 32: 0.012301}}, stage="reward", batch_size=32),
    example({TRAIN: _COIN, "eval_margin": {0: 0.0123, 32: -0.3}}, stage="reward", batch_size=32),
    example({TRAIN: [0.7, 0.6] * 16, "eval_margin": {0: 0.0123, 32: 0.012301}}, stage="reward", batch_size=32),
    example(
        {TRAIN: [0.25, 0.0], HELD_OUT: {2: 0.425}, f"{HELD_OUT}_low": {2: 0.267}, f"{HELD_OUT}_high": {2: 0.6}},
        stage="reward",
        batch_size=4,
    ),
    example(
        {TRAIN: [0.7, 0.6] * 16, HELD_OUT: {32: 0.7}, f"{HELD_OUT}_low": {32: 0.4}, f"{HELD_OUT}_high": {32: 0.9}},
        stage="reward",
        batch_size=4,
    ),
    example(_WEAK, stage="reward", batch_size=8, num_train_epochs=2.0),
    example(_WEAK, stage="reward", batch_size=8),
    example(
        {**_WEAK, TRAIN: [0.5] * 60, MARGIN: [*[0.0] * 30, *[0.1, -0.09] * 15]},
        stage="reward",
        batch_size=8,
        num_train_epochs=1.0,
    ),
)
QUIET_ALSO = (
    example(_WEAK, stage="reward", batch_size=8, num_train_epochs=1.0),
    example(
        {**_WEAK, TRAIN: [0.5] * 60, MARGIN: [*[0.0] * 30, *[0.1, -0.02] * 15]},
        stage="reward",
        batch_size=8,
        num_train_epochs=1.0,
    ),
    example({TRAIN: [0.7, 0.6] * 16, "eval_margin": {30: 0.0123, 32: 0.0123}}, stage="reward", batch_size=32),
    example({TRAIN: [0.7, 0.6] * 16, "eval_margin": {0: 0.0123, 32: 0.2}}, stage="reward", batch_size=32),
    example({TRAIN: [0.7, 0.6] * 16, "eval_margin": {0: 0.0123, 32: 0.0123}, RATE: [0.0] * 32}, stage="reward"),
    example(
        {TRAIN: [0.25, 0.0], HELD_OUT: {2: 0.7}, f"{HELD_OUT}_low": {2: 0.52}, f"{HELD_OUT}_high": {2: 0.85}},
        stage="reward",
        batch_size=4,
    ),
)
"""New rows that are right, or whose margin is above its noise; a new head that is right by luck, weights that move or
cannot, and an interval above one half."""
