"""What the data can support: how much of which kind, and how far its labels can be believed.

A fact has one name here, in the rules (rules.yaml) and in what `assent plan` prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from assent.data import texts
from assent.data.loading import Dataset
from assent.diagnosis.data_rules.label_noise import flip_rate
from assent.diagnosis.rows import Rows
from assent.diagnosis.rule import NotChecked
from assent.errors import DataError
from assent.statistics.agreement import order_agreement
from assent.statistics.intervals import Estimate

Start = Literal["base", "instruct"]
Reward = Literal["none", "function", "model"]
RATIOS = ("thumbs_odds", "thumbs_odds_down")
"""Facts that follow from others, and are no shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts, each with its unit. None: the data does not tell.

    A row is counted once: under the kind that it is, and under `prompts` only if it has no answer.
    """

    demonstrations: int = 0
    """Prompts with one answer and no judgement."""
    pairs: int = 0
    """Prompts with two ordered answers."""
    rankings: int = 0
    """Prompts with three ordered answers or more."""
    thumbs: int = 0
    """Single answers, each desirable or not."""
    scores: int = 0
    """Single answers, each with a number."""
    steps: int = 0
    """Answers with a label for each step."""
    prompts: int = 0
    """Prompts alone."""
    largest_group: int = 0
    """Most answers to one prompt."""
    thumbs_up: float | None = None
    """Share of thumbs that are up."""
    tied: float | None = None
    """Share of ordered answers that tie."""
    contradictory: float | None = None
    """Share of pairs of texts that the data orders both ways."""
    raters: int = 0
    """Annotators who are named."""
    agreement: float | None = None
    """How often two labels of one thing agree; for scores, how often two raters order two answers alike."""
    noise: float | None = None
    """Share of wrong labels that this agreement means, if labels err independently."""
    longer_wins: float | None = None
    """Share of pairs whose better answer has more characters. 0.5: length says nothing."""
    logged: float | None = None
    """Share of groups that hold the log-probabilities of whoever wrote the answers."""
    start: Start = "instruct"
    """base: the model continues text. instruct: it follows instructions."""
    feedback: Literal["fixed", "fresh"] = "fixed"
    """Whether new answers can be labelled."""
    reward: Reward = "none"
    """A reward that exists already: none, a function that checks an answer, or a model."""

    @property
    def thumbs_odds(self) -> float | None:
        """Thumbs up for each thumb down; None without one of either."""
        up = self.thumbs_up
        return None if up is None or up in (0.0, 1.0) else up / (1 - up)

    @property
    def thumbs_odds_down(self) -> float | None:
        """Thumbs down for each thumb up."""
        return None if self.thumbs_odds is None else 1 / self.thumbs_odds

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return (*(field.name for field in fields(cls)), *RATIOS)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


KINDS = ("demonstrations", "pairs", "rankings", "thumbs", "scores", "steps", "prompts")
"""Facts that count rows."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the data: its kind, its rows of that kind, and what the doctor's rules and the audit read."""

    path: str
    kind: str
    count: int
    rows: Rows
    refused: int = 0
    """Rows that no command can use."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the file that have other names -> ours."""
    split: str | None = None
    """Split of `path` that was read, if it was named."""

    @property
    def name(self) -> str:
        """The path, with the split that was named."""
        return self.path if self.split is None else f"{self.path}[{self.split}]"


def source_of(dataset: Dataset, *, path: str | None = None, split: str | None = None) -> Source:
    """What one file holds. Raises DataError for a file without a row that can be used.

    path, split   the name that was given, and the split of it; without them those of the dataset, which is one file
    """
    if not len(dataset):
        raise DataError(f"{dataset.path} holds no row that can be used", fix="see assent data check")
    kinds = Counter(_kind(group) for group in dataset)
    if len(kinds) > 1 and set(kinds) != {"pairs", "rankings"}:
        raise DataError(f"{dataset.path} mixes kinds of rows", got=dict(kinds), fix="give a file for each kind")
    kind = "rankings" if "rankings" in kinds else next(iter(kinds))
    used = dataset.renaming.used
    return Source(path or dataset.path, kind, len(dataset), Rows(dataset), len(dataset.refused), used, split)


def _kind(group: Any) -> str:
    judged = group.preference
    if not group.completions:
        return "prompts"
    if judged is None or judged.kind == "no preference":
        return "demonstrations"
    if judged.thumbs is not None:
        return "thumbs"
    if judged.step_labels is not None:
        return "steps"
    if len(group.completions) == 1:
        return "scores"
    return "pairs" if len(group.completions) == 2 else "rankings"


def audited(sources: Sequence[Source], *, start: Start, feedback: str = "fixed", reward: Reward = "none") -> Facts:
    """The facts of all files together. Shares are over the rows of all files that have them."""
    counts = {kind: sum(s.count for s in sources if s.kind == kind) for kind in KINDS}
    audits = [source.rows.audit for source in sources]
    groups = [group for source in sources for group in source.rows.dataset]
    pairs = sum(audit.pairs for audit in audits)
    thumbs = [up for g in groups if g.preference and g.preference.thumbs is not None for up in g.preference.thumbs]
    logged = [g.logps is not None for g in groups if len(g.completions) > 1 or (g.preference and g.preference.thumbs)]
    raters = {g.preference.annotator for g in groups if g.preference and g.preference.annotator is not None}
    agreement, noise = _agreement(sources)
    return Facts(
        **counts,
        largest_group=max((len(g.completions) for g in groups), default=0),
        thumbs_up=sum(thumbs) / len(thumbs) if thumbs else None,
        tied=sum(audit.tied_pairs for audit in audits) / pairs if pairs else None,
        contradictory=sum(audit.contradictory_pairs for audit in audits) / pairs if pairs else None,
        raters=len(raters),
        agreement=agreement,
        noise=noise,
        longer_wins=_mean((a.chosen_longer.value, a.chosen_longer.prompts) for a in audits if a.chosen_longer),
        logged=sum(logged) / len(logged) if logged else None,
        start=start,
        feedback=feedback,  # type: ignore[arg-type]  # PlanConfig has checked it
        reward=reward,
    )


def _mean(weighted: Iterable[tuple[float, int]]) -> float | None:
    listed = list(weighted)
    total = sum(weight for _, weight in listed)
    return sum(value * weight for value, weight in listed) / total if total else None


def _agreement(sources: Sequence[Source]) -> tuple[float | None, float | None]:
    """Of the file with most repeated labels: agreement, and the share of wrong labels behind it.

    Two labels of one pair differ with probability 2 ε (1 - ε) if each is wrong independently with probability ε.
    """
    found: list[tuple[int, float, float]] = []
    for source in sources:
        if source.kind in ("pairs", "rankings"):
            try:
                noise, repeated = flip_rate(source.rows)
            except NotChecked:
                continue
            found.append((repeated, 1 - 2 * noise.value * (1 - noise.value), noise.value))
        elif source.kind == "scores" and (estimate := score_agreement(source.rows.dataset)) is not None:
            found.append((estimate.n, estimate.value, flip_of(estimate.value)))
    if not found:
        return None, None
    _, agreement, noise_value = max(found)
    return agreement, noise_value


def flip_of(agreement: float) -> float:
    """ε of 1 - 2 ε (1 - ε) = agreement, at most ½."""
    return (1 - max(0.0, 2 * agreement - 1) ** 0.5) / 2


def score_agreement(dataset: Dataset) -> Estimate | None:
    """How often two raters order two answers alike that both have scored."""
    by_rater: dict[Hashable, dict[Hashable, float]] = {}
    for group in dataset:
        judged = group.preference
        if judged is not None and judged.scores is not None and judged.annotator is not None:
            key = (texts.key(group.prompt), texts.key(group.completions[0]))
            by_rater.setdefault(judged.annotator, {})[key] = judged.scores[0]
    return order_agreement(by_rater)


def shown(facts: Facts | Mapping[str, Any], name: str) -> str:
    """A fact as text: counts with commas, shares in percent."""
    value = facts[name]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return "unknown" if value is None else str(value)
    if name in RATIOS:
        return f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.0%}"
