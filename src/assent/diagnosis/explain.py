"""Explains a preference: from log-probabilities, ratios or scores to margin, probability, loss and gradient.

Bradley and Terry 1952: p(a beats b) = sigma(r_a - r_b). DPO (Rafailov et al., arXiv:2305.18290, eqs. 5 to 7) takes
r = beta * log(policy / reference) + beta * log Z; Z depends only on the prompt and cancels. All numbers are float64;
log-sigma and sigma are computed in forms that neither overflow nor lose small values. Torch-free.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assent.data.readers import file_suffix, read_rows
from assent.data.sources import missing_file
from assent.data.texts import RowError, shorten
from assent.errors import DataError

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Values of beta that are shown together with the one that was given."""
COLUMNS = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
"""Columns of a file of log-probabilities, by TRL's names: sums over each completion's tokens."""
QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
ROUNDING = 1e-3
"""How far a sum of log-probabilities may exceed 0 because of rounding."""
LISTED = 5
"""Number of rows with the lowest margins that are named."""


def log_sigmoid(x: float) -> float:
    """log(1 / (1 + exp(-x))), exact for every x."""
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One comparison. Rewards are beta * log-ratio, or a reward model's scores (then there is no beta).

    margin                   reward of the chosen completion minus that of the rejected one
    preference_probability   sigma(margin): the probability that the model prefers the chosen completion
    loss                     -log sigma(margin), nats
    gradient_weight          |d loss / d log-probability| = beta * sigma(-margin); for scores |d loss / d score|
    """

    log_ratio_chosen: float | None = None
    log_ratio_rejected: float | None = None
    beta: float | None = None
    reward_chosen: float
    reward_rejected: float
    margin: float
    preference_probability: float
    loss: float
    gradient_weight: float

    @property
    def prefers(self) -> str:
        return "chosen" if self.margin > 0 else "rejected" if self.margin < 0 else "neither"


def of_log_ratios(chosen: float, rejected: float, beta: float) -> Explanation:
    """Explains two values of log(policy / reference). Raises DataError if the rewards exceed the range of floats."""
    margin = beta * (chosen - rejected)
    rewards = _of_rewards(beta * chosen, beta * rejected, margin, scale=beta)
    return Explanation(log_ratio_chosen=chosen, log_ratio_rejected=rejected, beta=beta, **rewards)


def of_ratios(chosen: float, rejected: float, beta: float, *, unit: str) -> Explanation:
    """The same for values in the `unit` log_ratio or ratio (of probabilities, above 0)."""
    if unit == "ratio":
        chosen, rejected = math.log(chosen), math.log(rejected)
    return of_log_ratios(chosen, rejected, beta)


def of_scores(chosen: float, rejected: float) -> Explanation:
    """Explains two scores of a reward model."""
    return Explanation(**_of_rewards(chosen, rejected, chosen - rejected, scale=1.0))


def of_logps(logps: Sequence[float], beta: float) -> Explanation:
    """Explains four sums: policy chosen, policy rejected, reference chosen, reference rejected.

    Raises DataError if one is not finite or is above 0.
    """
    try:
        chosen, rejected, ref_chosen, ref_rejected = map(_logp, logps, COLUMNS)
    except RowError as error:
        raise DataError(error.what, got=error.got, expected=error.expected, fix=error.fix) from None
    return of_log_ratios(chosen - ref_chosen, rejected - ref_rejected, beta)


def _logp(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number <= ROUNDING):
        raise RowError(
            "bad number",
            f"{name} is not a log-probability",
            got=shorten(value),
            expected="a finite number, at most 0: the sum over a completion's tokens",
            fix="give a reward model's scores with --scores" if number > 0 else None,
        )
    return number


def _of_rewards(chosen: float, rejected: float, margin: float, *, scale: float) -> dict[str, float]:
    if not all(map(math.isfinite, (chosen, rejected, margin))):
        raise DataError("the rewards exceed the range of numbers", got=f"chosen {chosen:g}, rejected {rejected:g}")
    return {
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": margin,
        "preference_probability": sigmoid(margin),
        "loss": -log_sigmoid(margin),
        "gradient_weight": scale * sigmoid(-margin),
    }


def strengths(beta: float) -> list[float]:
    """The betas that are shown: the usual ones and the given one."""
    return sorted({*BETAS, beta})


def document(explained: Explanation, **more: Any) -> dict[str, Any]:
    """One comparison as a JSON-able document, with `betas` if there is a beta."""
    found = {name: value for name, value in asdict(explained).items() if value is not None}
    found["prefers"] = explained.prefers
    if explained.beta is not None:
        chosen, rejected = explained.log_ratio_chosen, explained.log_ratio_rejected
        assert chosen is not None
        assert rejected is not None
        found["betas"] = [_at(of_log_ratios(chosen, rejected, beta)) for beta in strengths(explained.beta)]
    return {**more, **found}


def _at(explained: Explanation) -> dict[str, float]:
    return {name: value for name, value in asdict(explained).items() if not name.startswith("log_ratio")}


@dataclass(frozen=True, slots=True)
class LoggedRow:
    source: str
    logps: tuple[float, float, float, float]


def read_logps(path: str) -> tuple[list[LoggedRow], list[str], str]:
    """The rows of a JSONL, JSON or CSV file, its other columns, and the SHA-256 of its content.

    Raises DataError if any row cannot be used, with the number of such rows and the first of them.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise missing_file(file)
    if file_suffix(file) in (None, ".parquet"):
        raise DataError(f"{path} has an unknown file type", got=file.suffix, expected=".jsonl, .json or .csv, also .gz")
    hasher = hashlib.sha256()
    rows: list[LoggedRow] = []
    bad: list[tuple[str, RowError]] = []
    others: dict[str, None] = {}
    for number, row in read_rows(file, hasher):
        source = f"{path}:{number}"
        try:
            if isinstance(row, RowError):
                raise row
            rows.append(LoggedRow(source, _four(row)))
            others |= dict.fromkeys(name for name in row if name not in COLUMNS)
        except RowError as error:
            bad.append((source, error))
    if bad:
        source, first = bad[0]
        count = f"{len(bad)} of {len(bad) + len(rows)} rows cannot be used; the first: " if len(bad) > 1 else ""
        raise DataError(f"{count}{source}: {first.what}", got=first.got, expected=first.expected, fix=first.fix)
    if not rows:
        raise DataError(f"{path} is empty: it has no rows", expected=f"rows with the columns {', '.join(COLUMNS)}")
    return rows, list(others), hasher.hexdigest()


def _four(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise RowError(
            "missing column",
            f"missing {', '.join(missing)}",
            got="columns " + (", ".join(row) or "(none)"),
            expected=", ".join(COLUMNS),
        )
    chosen, rejected, ref_chosen, ref_rejected = (_logp(row[name], name) for name in COLUMNS)
    return chosen, rejected, ref_chosen, ref_rejected


def document_of_rows(rows: Sequence[LoggedRow], beta: float) -> dict[str, Any]:
    """Many comparisons: every row, mean and quantiles over the rows, the share preferred, and the effect of beta."""
    explained = [of_logps(row.logps, beta) for row in rows]
    names = [name for name in asdict(explained[0]) if name != "beta"]
    columns = {name: np.array([getattr(one, name) for one in explained]) for name in names}
    lowest = np.argsort(columns["margin"], kind="stable")[:LISTED]
    return {
        "beta": beta,
        "num_rows": len(rows),
        "preferred": sum(one.prefers == "chosen" for one in explained),
        "ties": sum(one.prefers == "neither" for one in explained),
        "share_preferred": float(np.mean(0.5 * (1.0 + np.sign(columns["margin"])))),
        "summary": {name: _summary(values) for name, values in columns.items()},
        "betas": [_mean_at(explained, strength) for strength in strengths(beta)],
        "lowest_margins": [{"source": rows[i].source, "margin": float(columns["margin"][i])} for i in lowest],
        "rows": [
            {"source": row.source, **dict(zip(COLUMNS, row.logps, strict=True)), **asdict(one), "prefers": one.prefers}
            for row, one in zip(rows, explained, strict=True)
        ],
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return {"mean": float(values.mean()), **dict(zip(QUANTILES, map(float, quantiles), strict=True))}


def _mean_at(explained: Sequence[Explanation], beta: float) -> dict[str, float]:
    """Means over the rows at another beta."""
    at = [
        _at(of_log_ratios(one.log_ratio_chosen, one.log_ratio_rejected, beta))
        for one in explained
        if one.log_ratio_chosen is not None and one.log_ratio_rejected is not None
    ]
    return {name: float(np.mean([one[name] for one in at])) for name in at[0]}
