"""Losses of scores: of rankings of K completions (a comparison has K = 2), and of single completions with a label.

Each is declared under the same name in `config/losses.py`; a test compares the two.
Legend: N completions, G groups (prompts), K completions of the largest group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from assent.objectives.reduce import as_rows


@dataclass(frozen=True, slots=True)
class Rankings:
    """G rankings, one row each. A row of fewer than K completions is padded.

    scores               (G, K); is_real (G, K): False for padding
    better               (G, K, K): completion i is ranked above completion j
    tied                 (G, K, K): i and j have the same rank, i = j included
    margin               (G,) or None; chosen_probability (G,) or None: see `bradley_terry`
    """

    scores: Tensor
    is_real: Tensor
    better: Tensor
    tied: Tensor
    margin: Tensor | None = None
    chosen_probability: Tensor | None = None

    @property
    def differences(self) -> Tensor:
        """(G, K, K) score of i minus score of j."""
        return self.scores[:, :, None] - self.scores[:, None, :]

    @staticmethod
    def of(scores: Tensor, ranks: Tensor, group: Tensor, **fields: Tensor | None) -> Rankings:
        """(N,) each. `group` holds 0 … G-1, in any order."""
        rows, is_real = _as_rows(scores, group)
        rank, _ = _as_rows(ranks, group)
        both = is_real[:, :, None] & is_real[:, None, :]
        return Rankings(
            rows,
            is_real,
            both & (rank[:, :, None] < rank[:, None, :]),
            both & (rank[:, :, None] == rank[:, None, :]),
            **fields,
        )


def _mean_over(pairs: Tensor, values: Tensor) -> Tensor:
    """(G, K, K) -> (G,): mean of the values where `pairs` is True; 0 if `pairs` has no True."""
    total = torch.where(pairs, values, torch.zeros_like(values)).sum((1, 2))
    return total / pairs.sum((1, 2)).clamp(min=1)


def _bradley_terry(rankings: Rankings, *, label_smoothing: float = 0.0) -> Tensor:
    """For comparisons only. A smoothed label is p (1 - ε) + (1 - p) ε (Mitchell 2023, conservative DPO, for p = 1)."""
    if len(rankings.scores) and not (rankings.is_real.shape[1] == 2 and bool(rankings.is_real.all())):
        raise ValueError("loss 'bradley_terry' compares two completions: use all_pairs or plackett_luce for more")
    if not len(rankings.scores):
        return rankings.scores.sum(1)
    first_is_better = rankings.better[:, 0, 1]
    difference = rankings.differences[:, 0, 1]
    difference = torch.where(first_is_better, difference, -difference)
    probability = rankings.chosen_probability
    if label_smoothing:
        given = torch.ones_like(difference) if probability is None else probability
        probability = given * (1.0 - label_smoothing) + (1.0 - given) * label_smoothing
    values = bradley_terry(difference, torch.zeros_like(difference), rankings.margin, chosen_probability=probability)
    return torch.where(rankings.tied[:, 0, 1], torch.zeros_like(values), values)


def _all_pairs(rankings: Rankings, *, label_smoothing: float = 0.0) -> Tensor:
    """Ouyang et al., arXiv:2203.02155, eq. 1: the mean over a ranking's ordered pairs; tied pairs are left out."""
    smoothed = torch.full_like(rankings.differences, 1.0 - label_smoothing) if label_smoothing else None
    return _mean_over(rankings.better, soft_label_cross_entropy(rankings.differences, smoothed))


def _plackett_luce(rankings: Rankings) -> Tensor:
    """Σ_i (log Σ_{j not yet placed} e^{s_j}) - s_i (Plackett 1975; DPO's appendix A.3, arXiv:2305.18290).

    Ties as in Efron (JASA 72, 1977): the l-th of m tied completions (l = 0 … m-1) competes with those ranked below and
    with the share (m - l)/m of the tied ones. Without ties this is exact. Equal scores give ln K! in either case.
    """
    s, is_real, tied = rankings.scores, rankings.is_real, rankings.tied
    itself = torch.eye(s.shape[1], dtype=torch.bool, device=s.device)
    waiting = rankings.better | tied | itself  # padding competes with itself: its term is 0, with a finite gradient
    num_tied = tied.sum(2).clamp(min=1)
    placed = tied.tril(-1).sum(2)  # how many of its tie come before it
    log_share = torch.log1p(-placed.to(s.dtype) / num_tied.to(s.dtype))[:, :, None]
    of_j = s[:, None, :] + torch.where(tied, log_share, torch.zeros_like(log_share))
    normaliser = torch.where(waiting, of_j, torch.full_like(of_j, -math.inf)).logsumexp(2)
    return torch.where(is_real, normaliser - s, torch.zeros_like(s)).sum(1)


def _davidson(rankings: Rankings, *, tie_strength: float = 1.0) -> Tensor:
    """Davidson (JASA 65, 1970): P(i > j) = π_i / (π_i + π_j + ν √(π_i π_j)), π = e^s. Mean over all pairs, ties too."""
    half = 0.5 * rankings.differences
    log_tie = torch.full_like(half, math.log(tie_strength))
    normaliser = torch.stack([half, -half, log_tie]).logsumexp(0)
    return _with_ties(rankings, normaliser - half, normaliser - log_tie)


def _rao_kupper(rankings: Rankings, *, tie_threshold: float = 1.5) -> Tensor:
    """Rao and Kupper (JASA 62, 1967): P(i > j) = π_i / (π_i + θ π_j), P(tie) = (θ² - 1) P(i > j) P(j > i)."""
    log_threshold = math.log(tie_threshold)
    win = -logsigmoid(rankings.differences - log_threshold)
    tie = win + win.transpose(1, 2) - math.log(math.expm1(2.0 * log_threshold))
    return _with_ties(rankings, win, tie)


def _with_ties(rankings: Rankings, win: Tensor, tie: Tensor) -> Tensor:
    """Mean over a ranking's pairs of `win` (i above j) or `tie`, (G, K, K) each. (i, j) and (j, i) are one pair."""
    return _mean_over(rankings.better | rankings.tied.triu(1), torch.where(rankings.better, win, tie))


RANKING_LOSSES: dict[str, Callable[..., Tensor]] = {
    "bradley_terry": _bradley_terry,
    "all_pairs": _all_pairs,
    "plackett_luce": _plackett_luce,
    "davidson": _davidson,
    "rao_kupper": _rao_kupper,
}
"""Name -> (rankings, **hyperparameters) -> values (G,). To add one: write it here, declare it in `config/losses.py`."""


def ranking_loss(
    name: str,
    *,
    scores: Tensor,
    ranks: Tensor,
    group: Tensor,
    margin: Tensor | None = None,
    chosen_probability: Tensor | None = None,
    **hyperparameters: Any,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss `name` of G rankings of N completions -> values (G,) and metrics (G,) each.

    scores              (N,) rewards, or β log-ratios (Plackett–Luce DPO)
    ranks               (N,) 1 is best, equal ranks tie; only their order counts
    group               (N,) the ranking that each completion belongs to, 0 … G-1; groups may differ in size
    margin              (G,) by how much the better score must exceed the other; for bradley_terry
    chosen_probability  (G,) in [0, 1], probability that the better-ranked wins; for bradley_terry

    Metrics over a ranking's ordered pairs: `accuracy` (equal scores count half), `margin` (mean difference of scores),
    and `ordered`: 1 if there is such a pair, else 0 (and the other two are 0).
    Raises ValueError for an unknown name or an input that the loss cannot use, TypeError for an unknown hyperparameter.
    """
    if name not in RANKING_LOSSES:
        raise ValueError(f"no ranking loss {name!r}; there are {', '.join(sorted(RANKING_LOSSES))}")
    if name != "bradley_terry" and not (margin is None and chosen_probability is None):
        raise ValueError(f"loss {name!r} uses no margin and no chosen_probability; bradley_terry does")
    rankings = Rankings.of(scores, ranks, group, margin=margin, chosen_probability=chosen_probability)
    values = RANKING_LOSSES[name](rankings, **hyperparameters)
    with torch.no_grad():
        differences, better = rankings.differences, rankings.better
        metrics = {
            "accuracy": _mean_over(better, 0.5 * (1.0 + torch.sign(differences))),
            "margin": _mean_over(better, differences),
            "ordered": better.any(2).any(1).to(values.dtype),
        }
    return values, metrics


def centring_penalty(scores: Tensor, group: Tensor) -> Tensor:
    """(N,), (N,) -> (G,) (2/K Σ_k r_k)²: (r_a + r_b)² for a comparison, to be ADDED to its loss with a coefficient.

    Eisenstein et al., arXiv:2312.09244: it keeps the mean score at zero, which comparisons do not determine. (Some
    sources print a minus. Minimising that drives the scores apart without bound.)
    """
    rows, is_real = _as_rows(scores, group)
    return (2.0 * rows.sum(1) / is_real.sum(1).clamp(min=1)) ** 2


def _as_rows(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """(N,), (N,) -> (G, K) and its mask. The order within a group is kept."""
    order = torch.argsort(group, stable=True)
    return as_rows(values[order], group[order], int(group.max()) + 1 if len(group) else 0)


def score_loss(name: str, *, scores: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The pointwise loss `name` of N scores against their labels, (N,) each -> values (N,) and metrics (N,) each.

    mse   (score - target)², targets any numbers
    bce   cross-entropy of σ(score) to a target in [0, 1] (0 and 1: thumbs, wrong and right steps)

    Metrics: `label_error` (mse) or `label_accuracy` (bce: score and target - ½ have the same sign; a tie counts half).
    Raises ValueError for an unknown name.
    """
    if name not in SCORE_LOSSES:
        raise ValueError(f"no score loss {name!r}; there are {', '.join(sorted(SCORE_LOSSES))}")
    return SCORE_LOSSES[name](scores, targets)


def _mse(scores: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    values = (scores - targets) ** 2
    return values, {"label_error": values.detach()}


def _bce(scores: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    values = binary_cross_entropy_with_logits(scores, targets, reduction="none")
    right = 0.5 * (1.0 + torch.sign(scores.detach()) * torch.sign(targets - 0.5))
    return values, {"label_accuracy": right}


SCORE_LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Mapping[str, Tensor]]]] = {"mse": _mse, "bce": _bce}
"""Name -> (scores, targets) -> values and metrics."""


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    margin: Tensor | None = None,
    *,
    chosen_probability: Tensor | None = None,
) -> Tensor:
    """(B,) scores of each -> (B,) -log sigma(chosen - rejected - margin).

    Bradley and Terry 1952; Ouyang et al., arXiv:2203.02155, eq. 1; the margin is Llama 2's (arXiv:2307.09288, eq. 2).
    chosen_probability (B,) in [0, 1]: the label of a soft cross-entropy; None: 1 for all.
    """
    logits = chosen_scores - rejected_scores
    if margin is not None:
        logits = logits - margin
    return soft_label_cross_entropy(logits, chosen_probability)


def soft_label_cross_entropy(logits: Tensor, probability: Tensor | None) -> Tensor:
    """-p log sigma(x) - (1 - p) log sigma(-x), exact and finite for every finite x. None: p = 1."""
    if probability is None:
        return -logsigmoid(logits)
    return -probability * logsigmoid(logits) - (1.0 - probability) * logsigmoid(-logits)
