"""What is learnt from the rows of the release: bins, and predictions that part one cause from another.

A third of the rows chooses (words, bins, weights); later rows are compared with the other two thirds. So nothing that
is compared has been chosen by looking at it. What a model does depends on what it is asked, and what people say on what
they read. So behaviour is compared among rows for which the prompt's words predict the same, and ratings among rows for
which prompt and answer do. Predictions only sort rows into strata: a ridge regression on the words, and for prompts a
small tree as well, since a kind of prompt is often one word.

Legend: N rows, S strata, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assent.diagnosis.drift.encoding import FORMATS, Rows
from assent.errors import DataError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LEAST_ROWS = 300
"""Rows of a baseline."""
LEAST_KNOWN = 60
"""Rows of the baseline that must have a field, so that it is compared."""
STRATA, CROSSED, BINS = 5, 3, 8
LEAVES, LEAST_IN_LEAF = 12, 15
"""Of a tree: most leaves, and fewest rows in one."""
RIDGE = 10.0
MOST_NAMES = 30
"""Slices and models that are told apart; the rest are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A regression tree on words that are there or not. Arrays by node; the root is node 0.

    feature   the word that is asked for, -1 at a leaf;  without, with_it: the next node
    leaf      the leaf's number, from 0
    """

    feature: Codes
    without: Codes
    with_it: Codes
    leaf: Codes

    @property
    def num_leaves(self) -> int:
        return int(self.leaf.max()) + 1

    def leaves(self, matrix: Any) -> Codes:
        """(N,) the leaf of each row of a sparse matrix of ones."""
        asked = np.unique(self.feature[self.feature >= 0])
        if not len(asked):
            return np.zeros(matrix.shape[0], dtype=np.int64)
        there = matrix[:, asked].toarray() > 0
        column, node = np.searchsorted(asked, np.maximum(self.feature, asked[0])), np.zeros(len(there), dtype=np.int64)
        for _ in range(LEAVES):
            found = there[np.arange(len(there)), column[node]]
            onward = np.where(found, self.with_it[node], self.without[node])
            node = np.where(self.feature[node] >= 0, onward, node)
        return self.leaf[node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A linear prediction from words, and the edges that cut it into strata.

    sees   prompt: the prompt's words and slice; text: those of the answer too, with its length, refusal and format
    """

    sees: str
    weights: Floats
    constant: float
    edges: Floats
    crossed: Floats
    """Edges of fewer strata, for tables with strata of two predictions."""
    tree: Tree | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a third of the baseline has chosen.

    predictions   by the name of the field that is predicted
    bins          inner edges of a number's categories, by field
    liked         from which label on people liked it; judged: the same of the judge
    agrees        from which score on the reward model says that people like it; text_agrees: of labels' prediction
    slices, models  hashes of the frequent names; anchors: hashes of anchors and whether the judge liked each
    """

    num_prompt_words: int
    num_completion_words: int
    predictions: Mapping[str, Prediction]
    bins: Mapping[str, Floats]
    liked: float = math.nan
    judged: float = math.nan
    agrees: float = math.nan
    text_agrees: float = math.nan
    slices: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    models: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    anchors: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    anchors_liked: Floats = field(default_factory=lambda: np.zeros(0))

    def predict(self, rows: Rows) -> dict[str, Floats]:
        """(N,) predictions by field, and leaves by `field/leaves`. Words are read once for all that see the same."""
        found: dict[str, Floats] = {}
        for sees in ("prompt", "text"):
            named = {name: one for name, one in self.predictions.items() if one.sees == sees}
            if not named:
                continue
            matrix = design(rows, self, sees)
            values = matrix @ np.column_stack([one.weights for one in named.values()])
            found |= {name: values[:, place] + one.constant for place, (name, one) in enumerate(named.items())}
            found |= {f"{name}/leaves": one.tree.leaves(matrix) for name, one in named.items() if one.tree is not None}
        return found


def design(rows: Rows, chosen: Chosen, sees: str) -> Any:
    """What a prediction reads, sparse: words of the prompt, its slice; for `text` also the answer's words and form."""
    from scipy.sparse import csr_array, hstack

    parts = [rows.prompt_words.matrix(chosen.num_prompt_words)]
    if len(chosen.slices):
        parts.append(_one_hot(place_of(rows.slice, chosen.slices), len(chosen.slices) + 1))
    if sees == "text":
        parts.append(rows.completion_words.matrix(chosen.num_completion_words))
        parts.append(_one_hot(rows.format.astype(np.int64), len(FORMATS)))
        form = np.column_stack([np.log1p(rows.length), rows.refusal]).astype(np.float32)
        parts.append(csr_array(form))
    return hstack(parts, format="csr") if len(parts) > 1 else parts[0]


def _one_hot(codes: Codes, size: int) -> Any:
    from scipy.sparse import csr_array

    rows = np.arange(len(codes) + 1)
    return csr_array((np.ones(len(codes), dtype=np.float32), codes, rows), shape=(len(codes), size))


def place_of(names: NDArray[np.uint64], known: NDArray[np.uint64]) -> Codes:
    """(N,) places in the sorted hashes `known`; len(known) for any other."""
    places = np.minimum(np.searchsorted(known, names), max(0, len(known) - 1))
    return np.where(known[places] == names, places, len(known)) if len(known) else np.zeros(len(names), dtype=np.int64)


def chooses(rows: Rows) -> NDArray[np.bool_]:
    """Whether a row is in the third that chooses. It follows from the row's content."""
    return rows.key % np.uint64(3) == 0


def choose(rows: Rows, *, num_prompt_words: int, num_completion_words: int) -> Chosen:
    """Learns from rows of the third that chooses. Raises DataError for too few."""
    if len(rows) < LEAST_ROWS // 4:
        raise DataError(
            "the baseline is too small", got=f"{len(rows)} rows in the third that chooses",
            expected=f"at least {LEAST_ROWS} rows in all", fix="give more of the release's logs",
        )  # fmt: skip
    anchors, rows = rows.take(rows.anchor != 0), rows.take(rows.anchor == 0)
    known: dict[str, object] = {"slices": _names(rows.slice), "models": _names(rows.model)}
    sizes = {"num_prompt_words": num_prompt_words, "num_completion_words": num_completion_words}
    start = Chosen(**sizes, predictions={}, bins={}, **known)  # type: ignore[arg-type]
    numbers = {name: getattr(rows, name) for name in ("prompt_length", "length", "score", "logprob")}
    bins = {name: _edges(values, BINS) for name, values in numbers.items() if _is_known(values)}
    predictions: dict[str, Prediction] = {}
    unusual = (rows.format != np.bincount(rows.format.astype(int)).argmax()).astype(float)
    targets = {"length": np.log1p(rows.length), "refusal": rows.refusal, "format": unusual, "ended": rows.ended,
               "score": rows.score}  # fmt: skip
    for name, target in targets.items():
        if _is_known(target):
            predictions[name] = _predict(rows, target, start, sees="prompt")
    texts: dict[str, Floats] = {"logprob": rows.logprob}
    for name, values, cut in (("label", rows.label, "liked"), ("judge", rows.judge, "judged")):
        if _is_known(values):
            known[cut] = _threshold(values)
            texts[name] = np.where(np.isnan(values), np.nan, (values >= known[cut]).astype(float))  # type: ignore[operator]
    for name, target in texts.items():
        if _is_known(target):
            predictions[name] = _predict(rows, target, start, sees="text")
    fitted = Chosen(**sizes, predictions=predictions, bins=bins, **known)  # type: ignore[arg-type]
    said = fitted.predict(rows)
    if "score" in bins:
        bins["score_strata"] = _edges(rows.score, STRATA)
    if "logprob" in predictions:
        bins["logprob"] = _edges(rows.logprob - said["logprob"], BINS)
    if "label" in predictions:
        rated = ~np.isnan(rows.label)
        share = 1 - float((rows.label[rated] >= fitted.liked).mean())
        known["text_agrees"] = float(np.quantile(said["label"][rated], share))
        bins["label"] = _edges(said["label"], BINS)
        both = rated & ~np.isnan(rows.score)
        if both.sum() >= LEAST_KNOWN // 3:
            known["agrees"] = float(np.quantile(rows.score[both], share))
    if "judge" in predictions:
        known["anchors"], known["anchors_liked"] = _anchors(anchors, fitted.judged)
    return Chosen(**sizes, predictions=predictions, bins=bins, **known)  # type: ignore[arg-type]


def _is_known(values: Floats) -> bool:
    """Whether enough rows have the number, and it varies."""
    there = values[~np.isnan(values)]
    return len(there) >= LEAST_KNOWN // 3 and bool(np.ptp(there) > 0)


def _names(names: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes of the most frequent names, sorted. Rows without a name have the name 0, if there are others."""
    found, counts = np.unique(names, return_counts=True)
    if not found.any():
        return np.zeros(0, dtype=np.uint64)
    return np.sort(found[np.argsort(-counts, kind="stable")[:MOST_NAMES]])


def _edges(values: Floats, categories: int) -> Floats:
    """Inner edges of at most so many categories with as many rows each; a value on an edge is below it. One at least,
    where the values differ."""
    there = values[~np.isnan(values)]
    inner = np.unique(np.quantile(there, np.arange(1, categories) / categories, method="inverted_cdf"))
    inner = inner[inner < there.max()]
    return inner if len(inner) else np.unique(there)[-2:-1]


def _strata_edges(values: Floats) -> Floats:
    """Edges with as many rows between them, and evenly spaced ones: a small group that stands apart has its own."""
    even = np.linspace(values.min(), values.max(), STRATA + 1)[1:-1]
    return np.unique(np.concatenate([_edges(values, STRATA), even]))


def _threshold(values: Floats) -> float:
    """The label from which on it counts as liked: the one that halves the rows best."""
    there = values[~np.isnan(values)]
    found = np.unique(there)[1:]
    shares = np.array([(there >= value).mean() for value in found])
    return float(found[np.argmin(np.abs(shares - 0.5))])


def _predict(rows: Rows, target: Floats, chosen: Chosen, *, sees: str) -> Prediction:
    """Ridge regression, with strata at its own quantiles."""
    from sklearn.linear_model import Ridge

    there = ~np.isnan(target)
    matrix = design(rows, chosen, sees)
    fitted = Ridge(alpha=RIDGE, solver="sparse_cg", tol=1e-4).fit(matrix[there], target[there])
    values = matrix @ fitted.coef_ + fitted.intercept_
    weights = np.asarray(fitted.coef_, dtype=np.float64)
    return Prediction(
        sees=sees,
        weights=weights,
        constant=float(fitted.intercept_),
        edges=_strata_edges(values),
        crossed=_edges(values, CROSSED),
        tree=_tree(matrix[there].toarray(), target[there]) if sees == "prompt" else None,
    )


def _tree(matrix: NDArray[np.float32], target: Floats) -> Tree:
    from sklearn.tree import DecisionTreeRegressor

    least = max(LEAST_IN_LEAF, len(target) // (4 * LEAVES))
    grown = (
        DecisionTreeRegressor(max_leaf_nodes=LEAVES, min_samples_leaf=least, random_state=0).fit(matrix, target).tree_
    )
    is_leaf = grown.children_left < 0
    return Tree(
        feature=np.where(is_leaf, -1, grown.feature).astype(np.int64),
        without=np.where(is_leaf, 0, grown.children_left).astype(np.int64),
        with_it=np.where(is_leaf, 0, grown.children_right).astype(np.int64),
        leaf=np.where(is_leaf, np.cumsum(is_leaf) - 1, 0).astype(np.int64),
    )


def _anchors(rows: Rows, judged: float) -> tuple[NDArray[np.uint64], Floats]:
    """Sorted hashes of the anchors, and whether the judge liked each of them more often than not."""
    inside = ~np.isnan(rows.judge)
    names, places = np.unique(rows.anchor[inside], return_inverse=True)
    liked = np.bincount(places, weights=(rows.judge[inside] >= judged).astype(float), minlength=len(names))
    return names, (liked * 2 >= np.bincount(places, minlength=len(names))).astype(float)
