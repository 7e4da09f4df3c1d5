"""Which loss a run trains with: as its configuration says, or inferred from the value it starts at or settles at.

The same curve is healthy under one loss and broken under another: a floor of 0.2 is a fault of the plain sigmoid and
the optimum of a smoothed one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from assent.config.loss_declaration import LossDeclaration
from assent.config.loss_options import comparison_loss_declaration
from assent.config.losses import PREFERENCE_LOSSES, RANKING_LOSSES, SCORE_LOSSES, THUMBS_LOSSES
from assent.errors import AssentError
from assent.runs.reading import Series
from assent.statistics.small import slope

LN2 = math.log(2.0)
AT_REFERENCE = 1e-3
"""A first margin below this is that of a policy which is still its reference: the first loss is that of the start."""
AWAY = 0.1
"""Smallest implicit reward that is none of a policy at its reference: some rounding of bfloat16 is less."""
MOST_COMPLETIONS = 64
EQUAL_SCORES = "loss_at_equal_scores"
How = Literal["configuration", "start value", "floor", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss, as far as it is known.

    loss      its name; `several`: a sum of losses of a policy; of a reward model's sum, the names with ` + ` between
    start     its value where policy and reference agree, or where all scores are equal; None: unknown, or the loss has
              no such value (a likelihood is added; rankings of several sizes; ties, margins or soft labels move it)
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
        return math.log((1 - eps) / eps) if self.is_logistic and 0 < eps < 1 else None


UNKNOWN = Objective()


def infer_objective(config: Mapping[str, Any], stage: str | None, series: Mapping[str, Series]) -> Objective:
    if stage == "reward":
        return _with_logged_start(_of_scores(config), series)
    if stage == "kto":
        return _at_its_start(_of_thumbs(config), series)
    if stage not in ("dpo", "online-dpo"):
        return UNKNOWN
    stated = _stated(config, series)
    if stated is not None:
        return _at_its_start(stated, series)
    if has_no_reference(series):
        return Objective(needs_reference=False, beta=_beta(series), how="start value")
    found = _from_floor(series) or _from_start(series) or UNKNOWN
    return found if found.beta is not None else replace(found, beta=_beta(series))


def _at_its_start(stated: Objective, series: Mapping[str, Series]) -> Objective:
    """The objective, with the start that the log shows.

    The first step's loss is computed before the first update. Where its margin is 0, it is the loss of the start: of
    n ranked completions ln n! under Plackett–Luce, and not the declared value where margins, soft labels or ties of
    the data move it from batch to batch.
    """
    losses, margins = series.get("loss"), series.get("rewards/margins")
    if losses is None or margins is None or not losses.steps[0] == margins.steps[0] == 1:
        return stated
    if abs(margins.values[0]) > AT_REFERENCE:
        return stated
    first = losses.values[0]
    if stated.loss == "plackett_luce":
        starts = (math.lgamma(number + 1) for number in range(2, MOST_COMPLETIONS))
        return replace(stated, start=next((one for one in starts if abs(first - one) < 0.002 * one), None))
    if stated.start is None or abs(first - stated.start) <= 0.01 * stated.start:
        return stated
    return replace(stated, start=None)


def has_no_reference(series: Mapping[str, Series]) -> bool:
    """Whether the implicit rewards are a constant times the log-probabilities: nothing was subtracted from these."""
    return _are_multiples(series, "") or _are_multiples(series, "eval_")


def _are_multiples(series: Mapping[str, Series], start: str) -> bool:
    ratios: list[float] = []
    for side in ("chosen", "rejected"):
        rewards, logps = series.get(f"{start}rewards/{side}"), series.get(f"{start}logps/{side}")
        if rewards is None or logps is None or abs(rewards.values[0]) < 1e-3:
            return False
        at = dict(zip(logps.steps, logps.values, strict=True))  # a figure that was NaN has no value there
        both = [(reward, at[step]) for step, reward in zip(rewards.steps, rewards.values, strict=True) if step in at]
        if any(logp == 0 for _, logp in both):
            return False
        ratios += [reward / logp for reward, logp in both]
    return len(ratios) >= 4 and min(ratios) > 0 and max(ratios) < 1.02 * min(ratios)


def may_lack_reference(series: Mapping[str, Series]) -> bool:
    """Whether implicit rewards may be log-probabilities themselves, as SimPO's, CPO's and ORPO's are: away from 0 where
    the log begins, and never above 0, which β log π cannot be. A single one above 0 shows that a reference was
    subtracted."""
    names = (f"{start}rewards/{side}" for start in ("", "eval_") for side in ("chosen", "rejected"))
    rewards = [series[name].values for name in names if name in series]
    return bool(rewards) and max(map(max, rewards)) <= 0 and min(values[0] for values in rewards) <= -AWAY


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


def _stated(config: Mapping[str, Any], series: Mapping[str, Series]) -> Objective | None:
    if config.get("losses"):
        return _of_several(_entries(config))
    name = config.get("loss_type")
    if isinstance(name, list):
        name = name[0] if len(name) == 1 else None
    if not isinstance(name, str) or not _is_known(name):
        return None
    options = {
        **config.get("hyperparameters", {}),
        **{k: config[k] for k in ("beta", "label_smoothing") if k in config},
    }
    found = objective(name, **options)
    if "beta" not in found.options or options.get("beta") is not None:
        return found
    # beta is not told: the declaration's own would be a guess, and so would a start that depends on it
    other = objective(name, **{**options, "beta": 2 * float(found.options["beta"])})
    return replace(found, beta=_beta(series), start=found.start if found.start == other.start else None)


def _is_known(name: str) -> bool:
    return name in PREFERENCE_LOSSES or (name in RANKING_LOSSES and "many" in RANKING_LOSSES[name].accepts)


def _entries(config: Mapping[str, Any]) -> list[tuple[str, float, dict[str, Any]]]:
    """(name, weight, hyperparameters) of each loss of a sum, as far as they can be read."""
    losses = config.get("losses")
    found = []
    for entry in losses if isinstance(losses, list) else []:
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping):
            continue
        weight, given = entry.get("weight", 1.0), entry.get("hyperparameters")
        weight = float(weight) if isinstance(weight, int | float) and abs(weight) < 1e9 else math.nan
        found.append((str(entry.get("name")), weight, dict(given) if isinstance(given, Mapping) else {}))
    return found


def _of_several(entries: list[tuple[str, float, dict[str, Any]]]) -> Objective:
    """A sum of losses: the margin of none of them is the loss's. The logged margins are those of the first one."""
    parts = [(weight, objective(name, **given)) for name, weight, given in entries if _is_known(name)]
    start = math.fsum(weight * part.start if part.start is not None else math.nan for weight, part in parts)
    known = parts and len(parts) == len(entries) and math.isfinite(start)
    return Objective(
        loss="several",
        needs_reference=parts[0][1].needs_reference if parts and _is_known(entries[0][0]) else None,
        start=start if known else None,
        how="configuration",
    )


def objective(name: str, /, **options: Any) -> Objective:
    """A declared loss of comparisons or rankings with these hyperparameters; those that it does not declare are left
    out."""
    declared = comparison_loss_declaration(name)
    known, start = _start_of(declared, options)
    smoothing = float(known.get("label_smoothing", 0.0) or 0.0)
    return Objective(
        loss=name,
        beta=known.get("beta"),
        label_smoothing=smoothing,
        needs_reference=declared.needs_reference,
        start=start if declared.needs_reference else None,
        floor=entropy(smoothing) if name == "sigmoid" else None,
        how="configuration",
        options=known,
    )


def _start_of(declared: LossDeclaration, options: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """The loss's hyperparameters, and its one value at a margin of zero; None where it depends on the row."""
    known = {key: value for key, value in options.items() if key in declared.hyperparameters and value is not None}
    try:
        known = declared.resolve(known)
        if declared.nll_weight(**known) > 0:
            return known, None  # the likelihood that is added is the model's own
        two, three = (declared.zero_margin_value(**known, num_completions=number) for number in (2, 3))
    except (AssentError, ArithmeticError, TypeError, ValueError):
        return {}, None
    return known, two if math.isfinite(two) and two == three else None


def _of_scores(config: Mapping[str, Any]) -> Objective:
    """Of a reward model. Its new head has margins of its own, so that its first loss is near the start, not at it."""
    given = config.get("hyperparameters")
    single = (str(config.get("loss_type") or "bradley_terry"), 1.0, given if isinstance(given, Mapping) else {})
    entries = _entries(config) if config.get("losses") else [single]
    parts = {name: (weight, options) for name, weight, options in entries}
    declared = {name: {**RANKING_LOSSES, **SCORE_LOSSES}.get(name) for name in parts}
    starts: list[float] = []
    smoothing = 0.0
    for name, (weight, options) in parts.items():
        found = declared[name]
        known, start = ({}, None) if found is None or name == "mse" else _start_of(found, options)
        smoothing = max(smoothing, float(known.get("label_smoothing", 0.0) or 0.0))
        starts.append(math.nan if start is None else weight * start)
    total = math.fsum(starts)
    is_stated = bool(config.get("losses") or config.get("loss_type")) and bool(parts) and all(declared.values())
    return Objective(
        loss=" + ".join(parts) if is_stated else None,
        label_smoothing=smoothing,
        start=total if parts and math.isfinite(total) else None,
        how="configuration" if is_stated else "unknown",
    )


def _with_logged_start(found: Objective, series: Mapping[str, Series]) -> Objective:
    """Rankings of n completions begin at ln n!, which a run logs, as n differs from ranking to ranking."""
    logged = series.get(EQUAL_SCORES) or series.get(f"eval_{EQUAL_SCORES}")
    if found.start is not None or logged is None:
        return found
    return replace(found, start=math.fsum(logged.values) / len(logged))


def _of_thumbs(config: Mapping[str, Any]) -> Objective:
    """KTO's own where none is stated. Each row gives half its weight, so that two weights give no single start."""
    stated = config.get("loss_type")
    declared = THUMBS_LOSSES.get(stated or "kto") if isinstance(stated, str | None) else None
    if declared is None:
        return UNKNOWN
    known, start = _start_of(declared, {key: config.get(key) for key in declared.hyperparameters})
    alike = known.get("desirable_weight") == known.get("undesirable_weight")
    return Objective(
        loss=stated,
        beta=config.get("beta"),
        needs_reference=declared.needs_reference,
        start=start if alike else None,
        how="configuration" if stated else "unknown",
        options=known,
    )


def entropy(p: float) -> float:
    """Of a coin, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def _from_start(series: Mapping[str, Series]) -> Objective | None:
    """The first logged losses, where the margin is still next to nothing."""
    losses, margins = series.get("loss"), series.get("rewards/margins")
    if losses is None or (margins is not None and abs(margins.values[0]) > 0.1) or may_lack_reference(series):
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
