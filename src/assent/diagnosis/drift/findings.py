"""What the rules of logs share: the signals of a rule, those of them that moved, and both as evidence."""

from __future__ import annotations

from collections.abc import Sequence

from assent.diagnosis.case import Case
from assent.diagnosis.drift.signals import SIGNALS, Drift, Tested
from assent.diagnosis.finding import Evidence
from assent.diagnosis.rule import NotChecked


def drift_in(case: Case) -> Drift:
    """Raises NotChecked where the subject is no log of a deployed model."""
    if not isinstance(case.logs, Drift):
        raise NotChecked("needs logs of a deployed model: assent monitor")
    return case.logs


STRATA_LEAVE = 0.5
"""A difference that another cause's move may explain counts from this share on: of what it is without strata, and of
that other move."""


def moved(case: Case, rule: str, *, needs: str, beside: Sequence[str] = ()) -> list[Tested]:
    """The signals of the rule that moved. Raises NotChecked where none of them could be read.

    needs    which field the logs would have to have
    beside   rules of causes that may show in these signals too. Where one of them has moved, strata take that part
             away, but never all of it: a signal counts if they leave at least half of the difference, and if it is at
             least half as large as that of the other cause
    """
    drift = drift_in(case)
    tested = drift.of_rule(rule)
    if not tested:
        raise NotChecked(f"neither logs nor baseline have {needs}")
    others = [
        abs(one.difference) for rule in beside for one in drift.of_rule(rule) if one.found and one.share is not None
    ]
    if not others:
        return [one for one in tested if one.found]
    return [
        one for one in tested if one.found and abs(one.difference) >= STRATA_LEAVE * max(*others, abs(one.raw or 0.0))
    ]


def evidence(tested: Sequence[Tested]) -> tuple[Evidence, ...]:
    """Each signal with its share now, expected as before; of one without shares, the difference."""
    return tuple(_one(one) for one in tested)


def _one(one: Tested) -> Evidence:
    days = "day" if one.window == 1 else f"{one.window} days"
    words = one.signal.kind in ("words", "rated words")  # a word of somebody's text is not named here
    name = f"{one.signal.title}{'' if words else f', {one.cut}'} (last {days})"
    if one.share is None or one.before is None:
        return Evidence(metric=name, value=one.difference, expected="0")
    return Evidence(metric=name, value=one.share, expected=f"{one.before:.4g} as at the release")


def example(
    *found: str,
    quiet: Sequence[str] = (),
    difference: float = 0.2,
    share: float | None = 0.5,
    policy: dict[str, float] | None = None,
) -> Case:
    """A case for a rule's FIRES and QUIET: these signals have moved, and those of `quiet` were read and have not."""
    tested = {}
    for signal in SIGNALS:
        if signal.name in found or signal.name in quiet:
            tested[signal.name] = Tested(
                signal=signal, window=7, first=1, last=7, rows=700.0, base_rows=2000.0,
                p_value=1e-9 if signal.name in found else 0.5, level=1e-6, difference=difference, share=share,
                smallest=0.1, psi=0.1, cut="at most 14",
            )  # fmt: skip
    absent = tuple(signal.name for signal in SIGNALS if signal.name not in tested)
    return Case(logs=Drift(day=7, days_tested=7, signals=tested, not_logged=absent, policy=policy), source="logs")
