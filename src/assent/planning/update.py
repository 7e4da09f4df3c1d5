"""How a deployed model's logs can update it: facts, and verdicts with reasons. The rules are data (rules.yaml)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from assent.diagnosis.drift.served import Served
from assent.planning.logged import Logged, effective_share, pairs_of
from assent.planning.rules import meets, quoted, rules

Move = Literal["moved", "same", "unknown"]
MOVES: Mapping[str, str] = {
    "prompts": "prompts_moved",
    "taste": "taste_moved",
    "behaviour": "behaviour_moved",
    "feedback": "feedback_selected",
    "serving": "serving_differs",
    "reward_model": "reward_model_aged",
    "judge": "judge_changed",
}
"""Facts about moves since the release, and the monitor's rules that find them."""
LEAST_PAIRS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """What the logs hold and what has moved. A fact has one name here, in the rules and in what is printed.

    rows        rows of the logs that can be used, doubled ones once
    rated       of them with a rating or an outcome; where taste moved, since then
    since       the day from which ratings are used; all, or unknown where rows have no times
    pairs       prompts with answers that were rated differently
    up, down    ratings above and not above the border
    logged      share of the answers to train on with a logged sum of log-probabilities
    read_back   share of them whose text is as many tokens of the model's, its end included, as the log counts
    policies    models that are named in the rows to train on
    propensity  share of the pairs whose probability of being rated is known
    effective   what the pairs are worth when weighted by it, as a share of their number; None: not known
    rated_propensity, rated_effective  the same of the ratings
    trainer     whether logged log-probabilities were compared with the trainer's
    """

    rows: int
    rated: int
    since: str
    pairs: int
    up: int
    down: int
    logged: float
    read_back: float | None
    policies: int
    propensity: float
    effective: float | None
    rated_propensity: float
    rated_effective: float | None
    trainer: Literal["compared", "not compared"]
    prompts: Move
    taste: Move
    behaviour: Move
    feedback: Move
    serving: Move
    reward_model: Move
    judge: Move

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say of one way to use the logs."""

    question: str
    title: str
    verdict: str
    reason: str
    source: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The update that the verdicts allow.

    kind       pairs (DPO), thumbs (KTO) or prompts (new samples are rated, then DPO)
    logged     whether the logged log-probabilities are the reference's; otherwise the release is the reference
    weighted   whether rows count by one over the probability of their rating
    """

    kind: Literal["pairs", "thumbs", "prompts"]
    logged: bool
    weighted: bool

    @property
    def title(self) -> str:
        titles = {"pairs": "DPO on the logged pairs", "thumbs": "KTO on the logged ratings",
                  "prompts": "new samples of the release, rated again, then DPO on them"}  # fmt: skip
        return titles[self.kind]

    @property
    def reference(self) -> str:
        if self.logged:
            return "the logged log-probabilities"
        why = ", as KTO also reads answers under other prompts, for which nothing is logged"
        return "the release, whose folder computes its log-probabilities" + (why if self.kind == "thumbs" else "")

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "title": self.title, "reference": self.reference}


def moves_of(monitor: Mapping[str, Any]) -> dict[str, Move]:
    """Each fact about a move, from the monitor's document. Nothing is known where no day was over."""
    found = {*monitor["causes"], *(alert["rule"] for alert in monitor["open"])}
    unread = {entry["rule"] for entry in monitor["not_checked"]}
    is_tested = monitor["moved"] is not None
    return {
        name: "moved" if rule in found else "same" if is_tested and rule not in unread else "unknown"
        for name, rule in MOVES.items()
    }


def since_of(monitor: Mapping[str, Any], moves: Mapping[str, Move]) -> str | None:
    """The day on which taste was first found to have moved; None where it has not, or where rows have no times."""
    days = [alert["since"] for alert in monitor["open"] if alert["rule"] == MOVES["taste"]]
    return days[0] if moves["taste"] == "moved" and days and not days[0].startswith("call") else None


def answers_to_train_on(rated: Sequence[Served]) -> list[Served]:
    """The answers of the pairs, weighted where that can be; where pairs are too few, all rated ones."""
    pairs = pairs_of(rated)
    if len(pairs) < LEAST_PAIRS:
        return list(rated)
    every = pairs_of(rated, every=True)
    is_known = all(pair.propensity is not None for pair in every)
    return [one for pair in (every if is_known else pairs) for one in (pair.best, pair.worst)]


def facts_of(
    recent: Logged,
    moves: Mapping[str, Move],
    *,
    since: str | None,
    up_above: float,
    is_compared: bool,
    read_back: float | None = None,
) -> LogFacts:
    """The facts. `recent`: with the ratings from `since` on alone."""
    pairs, answers = pairs_of(recent.rated), answers_to_train_on(recent.rated)
    up = sum(one.label is not None and one.label > up_above for one in recent.rated)
    known = [one.propensity for one in pairs_of(recent.rated, every=True)]
    of_ratings = [one.propensity for one in recent.rated]
    return LogFacts(
        rows=recent.rows,
        rated=len(recent.rated),
        since=since or ("unknown" if moves["taste"] == "moved" else "all"),
        pairs=len(pairs),
        up=up,
        down=len(recent.rated) - up,
        logged=_share([one.logprob_sum is not None for one in answers]),
        read_back=read_back,
        policies=len({one.model for one in answers if one.model is not None}),
        propensity=_share([one is not None for one in known]),
        effective=effective_share(known),
        rated_propensity=_share([one is not None for one in of_ratings]),
        rated_effective=effective_share(of_ratings),
        trainer="compared" if is_compared else "not compared",
        **{name: moves[name] for name in MOVES},
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def verdicts_of(facts: LogFacts) -> list[Verdict]:
    """Of each question, the first rule that holds. Later questions see the verdicts of earlier ones."""
    known: dict[str, Any] = facts.as_dict()
    found = []
    for name, question in rules()["update"]["questions"].items():
        rule = next(one for one in question["rules"] if holds(one["when"], known))
        known[name] = rule["verdict"]
        found.append(Verdict(question=name, title=question["title"], verdict=rule["verdict"],
                             reason=quoted(rule["reason"], known), source=rule["source"]))  # fmt: skip
    return found


def holds(when: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return all(
        any(holds(one, known) for one in wanted) if name == "any" else meets(known[name], wanted)
        for name, wanted in when.items()
    )


def way_of(verdicts: Sequence[Verdict]) -> Way:
    """Pairs before thumbs, since they say which of two answers is better; new samples where neither is sound."""
    sound = {one.question for one in verdicts if one.verdict == "sound"}
    weighted = "weighting" in sound
    if "dpo" in sound:
        return Way(kind="pairs", logged="reference" in sound, weighted=weighted)
    if "thumbs" in sound:
        return Way(kind="thumbs", logged=False, weighted=weighted)
    return Way(kind="prompts", logged=False, weighted=False)
