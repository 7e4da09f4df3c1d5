"""Which loss a run trains with: as its configuration says, or inferred from the value it starts at or settles at.

The same curve is healthy under one loss and broken under another: a floor of 0.2 is a fault of the plain sigmoid and
the optimum of a smoothed one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from assent.config.losses import PREFERENCE_LOSSES
from assent.errors import AssentError
from assent.runs.reading import Series
from assent.statistics.small import slope

LN2 = math.log(2.0)
How = Literal["configuration", "start value", "floor", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss, as far as it is known.

    start     its value where policy and reference agree; None: unknown, or the loss has no such value
    floor     the smallest value that it can reach; None: unknown
    how       how it is known
    """

    loss: str | None = None
    beta: float | None = None
    label_smoothing: float = 0.0
    needs_reference: bool | None = None
    start: float | None = None
    floor: float | None = None
    how: How = "unknown"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_logistic(self) -> bool:
        """Whether its value is −log σ of the logged margin (per sum of log-probabilities), smoothed or not."""
        return self.loss == "sigmoid"

    @property
    def settled_margin(self) -> float | None:
        """The margin at which a smoothed logistic loss has its minimum; None: there is none."""
        eps = self.label_smoothing
        return math.log((1 - eps) / eps) if self.is_logistic and eps > 0 else None


UNKNOWN = Objective()


def infer_objective(config: Mapping[str, Any], stage: str | None, series: Mapping[str, Series]) -> Objective:
    if stage not in ("dpo", "online-dpo"):
        return UNKNOWN
    stated = _stated(config)
    if stated is not None:
        return stated
    if has_no_reference(series):
        return Objective(needs_reference=False, beta=_beta(series), how="start value")
    found = _from_floor(series) or _from_start(series) or UNKNOWN
    return found if found.beta is not None else replace(found, beta=_beta(series))


def has_no_reference(series: Mapping[str, Series]) -> bool:
    """Whether the implicit rewards are a constant times the log-probabilities: nothing was subtracted from these."""
    ratios: list[float] = []
    for side in ("chosen", "rejected"):
        rewards, logps = series.get(f"rewards/{side}"), series.get(f"logps/{side}")
        if rewards is None or logps is None or rewards.steps != logps.steps:
            return False
        if any(value == 0 for value in logps.values) or abs(rewards.values[0]) < 1e-3:
            return False
        ratios += [reward / logp for reward, logp in zip(rewards.values, logps.values, strict=True)]
    return len(ratios) >= 4 and min(ratios) > 0 and max(ratios) < 1.02 * min(ratios)


def _beta(series: Mapping[str, Series]) -> float | None:
    """From the same held-out rows, measured again: implicit rewards move β times as far as log-probabilities."""
    found: list[float] = []
    for side in ("chosen", "rejected"):
        rewards, logps = series.get(f"eval_rewards/{side}"), series.get(f"eval_logps/{side}")
        if rewards is None or logps is None or rewards.steps != logps.steps or len(logps) < 3:
            return None
        low, high = min(logps.values), max(logps.values)
        if high - low < 1e-3:
            return None
        fitted = slope(logps.values, rewards.values)
        if fitted.low <= 0 or fitted.high > 1.1 * fitted.low:
            return None
        found.append(fitted.value)
    return float(f"{sum(found) / 2:.2g}")


def _stated(config: Mapping[str, Any]) -> Objective | None:
    if config.get("losses"):  # several terms: the margin of none of them is the loss's
        return Objective(loss="several", how="configuration")
    name = config.get("loss_type")
    if isinstance(name, list):
        name = name[0] if len(name) == 1 else None
    if name not in PREFERENCE_LOSSES:
        return None
    options = {
        **config.get("hyperparameters", {}),
        **{k: config[k] for k in ("beta", "label_smoothing") if k in config},
    }
    return objective(name, **options)


def objective(name: str, **options: Any) -> Objective:
    """A declared loss with these hyperparameters; those that it does not declare are left out."""
    declared = PREFERENCE_LOSSES[name]
    known = {key: value for key, value in options.items() if key in declared.hyperparameters and value is not None}
    try:
        known = declared.resolve(known)
        start = declared.zero_margin_value(**known)
    except (AssentError, ArithmeticError, TypeError, ValueError):
        start = math.nan
    smoothing = float(known.get("label_smoothing", 0.0) or 0.0)
    return Objective(
        loss=name,
        beta=known.get("beta"),
        label_smoothing=smoothing,
        needs_reference=declared.needs_reference,
        start=start if math.isfinite(start) and declared.needs_reference else None,
        floor=entropy(smoothing) if name == "sigmoid" else None,
        how="configuration",
        options=known,
    )


def entropy(p: float) -> float:
    """Of a coin, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def _from_start(series: Mapping[str, Series]) -> Objective | None:
    """The first logged losses, where the margin is still next to nothing."""
    losses, margins = series.get("loss"), series.get("rewards/margins")
    if losses is None or (margins is not None and abs(margins.values[0]) > 0.1):
        return None
    first = losses.values[0]
    for name, value, reach in (("sigmoid", LN2, 0.03), ("hinge", 1.0, 0.02)):
        if abs(first - value) <= reach:
            return Objective(loss=name, needs_reference=True, start=value, how="start value")
    for beta in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        value = 1 / (4 * beta**2)
        if abs(first - value) <= 0.03 * value:
            return Objective(loss="ipo", beta=beta, needs_reference=True, start=value, floor=0.0, how="start value")
    return None


def _from_floor(series: Mapping[str, Series]) -> Objective | None:
    """Label smoothing: the loss settles at the entropy of ε while the margin settles at log((1 − ε) / ε)."""
    losses, margins = series.get("loss"), series.get("rewards/margins")
    if losses is None or margins is None or min(len(losses.values), len(margins.values)) < 8:
        return None
    tail = max(4, len(losses.values) // 4)
    loss, margin = (sum(values[-tail:]) / tail for values in (losses.values, margins.values))
    spread = max(margins.values[-tail:]) - min(margins.values[-tail:])
    if not 1.0 < margin < 7.0 or spread > 0.25 * margin:
        return None
    eps = 1 / (1 + math.exp(margin))
    if abs(loss - entropy(eps)) > 0.1 * entropy(eps) or loss < 3 * math.log1p(math.exp(-margin)):
        return None
    return Objective(
        loss="sigmoid", label_smoothing=eps, needs_reference=True, start=LN2, floor=entropy(eps), how="floor"
    )
