"""Changes that several rules advise, by what the run was given."""

from __future__ import annotations

from collections.abc import Mapping

from assent.config.loss_options import comparison_loss_declaration
from assent.config.losses import reward_loss_declaration
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Change, times, to
from assent.errors import AssentError

Advice = tuple[str, Mapping[str, Change]]
"""What to do, as a clause, and the change of the configuration that does it."""


def passes_of(case: Case) -> float | None:
    """Passes over the rows that the run was given, or has made; None where nothing tells."""
    if case.option("max_steps", 0) <= 0 and "num_train_epochs" in case.config:
        return float(case.option("num_train_epochs", 1.0))
    epochs = case.find("epoch")
    return None if epochs is None else epochs.last


def fit_less(case: Case, *, share: float | None = None, rate: float = 0.3) -> Advice:
    """For a run that fits its rows too closely: fewer passes over them, or at one pass a lower learning rate. Where
    nothing tells how many it made, both are said and no change is named.

    share   of the run's steps after which it was at its best; None: one pass
    rate    what to multiply the learning rate by where no pass can be left out
    """
    passes, steps = passes_of(case), int(case.option("max_steps", 0))
    if case.stage == "online-dpo" and passes is not None and passes > 1.0 and share != 0:  # given by its rounds
        fewer = max(1, round(case.steps / passes if share is None else case.steps * share))
        return f"stop after {fewer:,} rounds (--total-steps)", {"total_steps": to(fewer)}
    if passes is None and share != 0:
        return (
            "read the rows fewer times (--num-train-epochs), if they are read more than once; otherwise lower the "
            f"learning rate (to {rate:g} times what it was)",
            {},
        )
    if passes is None or passes <= 1.0 or share == 0:
        return f"lower the learning rate (to {rate:g} times what it was), or train on more rows", {
            "learning_rate": times(rate)
        }
    if steps > 0:
        fewer = max(1, round(case.steps / passes if share is None else steps * share))
        return f"stop after {fewer:,} steps (--max-steps)", {"max_steps": to(fewer)}
    epochs = 1.0 if share is None else max(1.0, float(f"{passes * share:.2g}"))
    return f"train for {epochs:g} epoch{'s' if epochs != 1 else ''} (--num-train-epochs)", {
        "num_train_epochs": to(epochs)
    }


def smoothed_labels(case: Case, smoothing: float) -> Mapping[str, Change]:
    """Sets label_smoothing, beside the loss's other hyperparameters; nothing for a loss that has none."""
    name, given = case.option("loss_type"), case.config.get("hyperparameters") or {}
    if not isinstance(name, str):
        return {}
    try:
        declared = reward_loss_declaration(name) if case.stage == "reward" else comparison_loss_declaration(name)
    except AssentError:
        return {}
    if "label_smoothing" not in declared.hyperparameters:
        return {}
    return {"hyperparameters": to({**given, "label_smoothing": smoothing})}
