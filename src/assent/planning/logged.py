"""What logs of a deployed model hold for an update: rated answers, the pairs and thumbs that they make, prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from assent.data.splitting import conversation_root, prompt_key
from assent.diagnosis.drift.formats import UNPAIRED, Reader
from assent.diagnosis.drift.reading import read_logs
from assent.diagnosis.drift.served import Served, seconds_of
from assent.diagnosis.drift.watcher import identity_of
from assent.errors import ConfigError, DataError
from assent.types import Message, Preference, PromptGroup

UNTIMED = "a rating without a time, where ratings count from a day on"
CUT = "a rated answer that was cut at its limit, so that its end is no end"


@dataclass(frozen=True, slots=True)
class Logged:
    """Rows of a log, doubled ones once. `prompts`: each prompt once, by its key; `refused`: rows and ratings that are
    not used, by reason."""

    rows: int
    rated: Sequence[Served]
    prompts: Mapping[str, PromptGroup]
    refused: Counter[str] = field(default_factory=Counter)

    def since(self, day: str | None) -> Logged:
        """With the ratings from this day on alone. The others, and those without a time, are counted as not used."""
        if day is None:
            return self
        try:
            start = seconds_of(day)
        except ValueError:
            raise ConfigError("since is no day", got=day, expected="a day like 2026-11-30") from None
        assert start is not None
        timed = [one for one in self.rated if one.time is not None]
        kept = [one for one in timed if one.time is not None and one.time >= start]
        left = Counter({UNTIMED: len(self.rated) - len(timed), f"a rating before {day}": len(timed) - len(kept)})
        return replace(self, rated=kept, refused=self.refused + left)

    def not_used(self) -> list[str]:
        """A line for each reason."""
        return [f"not used: {reason}: {count:,}" for reason, count in self.refused.most_common()]


def read_logged(path: str | Path, columns: Mapping[str, str]) -> Logged:
    """Raises DataError if no row can be used."""
    reader, refused = Reader(columns), Counter[str]()
    seen: set[int] = set()
    labelled: set[int] = set()
    cut: set[int] = set()
    rated: list[Served] = []
    prompts: dict[str, PromptGroup] = {}
    rows = 0
    for served in read_logs(Path(path), reader, places={}, refused=refused):
        identity = identity_of(served)
        if not identity or identity not in seen:
            seen.add(identity)
            rows += 1
            prompts.setdefault(prompt_key(turns_of(served)), asked(served))
        if served.ended is False and identity:
            cut.add(identity)
        if served.label is None or (identity and identity in labelled):
            continue  # a row may come again with its rating
        labelled.add(identity)
        if served.ended is False or (identity and identity in cut):
            refused[CUT] += 1
        else:
            rated.append(served)
    if left := reader.num_unpaired + reader.num_waiting:  # nothing more is read of these logs
        refused[UNPAIRED] += left
    if not rows:
        raise DataError(
            f"no row of {path} can be used",
            got=", ".join(f"{reason}: {count:,}" for reason, count in refused.most_common(3)) or "no rows",
            expected="prompt and completion in each row",
            fix="--columns THEIRS=prompt,THEIRS=completion names the fields",
        )
    return Logged(rows, rated, prompts, refused)


def turns_of(served: Served) -> tuple[Message, ...]:
    """The conversation before the answer. A prompt that was logged as text is one turn of the user."""
    return served.turns or (Message("user", served.prompt),)


def asked(served: Served) -> PromptGroup:
    """The prompt alone, with the operator's name for it."""
    named = {"slice": served.slice} if served.slice is not None else {}
    return PromptGroup(prompt=turns_of(served), columns=named)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which `best` was rated better than `worst`."""

    best: Served
    worst: Served

    @property
    def propensity(self) -> float | None:
        """The probability that both were rated; None if it is not known.

        The two sides of a comparison (outcomes 1 and 0) were rated together; other ratings are taken as independent.
        """
        one, other = self.best.propensity, self.worst.propensity
        if one is None or other is None:
            return None
        return one if one == other and self._is_one_comparison else one * other

    @property
    def _is_one_comparison(self) -> bool:
        are_outcomes = self.best.by_outcome and self.worst.by_outcome
        return are_outcomes and (self.best.label, self.worst.label) == (1.0, 0.0)


def pairs_of(rated: Sequence[Served], *, every: bool = False) -> list[Pair]:
    """One pair for each prompt with differently rated answers: more would count its answers as if they were new.

    every   all pairs of differently rated answers instead. Which answers are best and worst depends on who rated, so
            that 1/(pq) undoes the selection of each pair, and not that of the best and the worst
    """
    by_prompt: dict[str, list[Served]] = defaultdict(list)
    for one in rated:
        by_prompt[prompt_key(turns_of(one))].append(one)
    found = []
    for answers in by_prompt.values():
        ordered = sorted(answers, key=_label, reverse=True)
        best, worst = max(answers, key=_label), min(answers, key=_label)
        for one, other in combinations(ordered, 2) if every else [(best, worst)]:
            if _label(one) > _label(other) and one.completion != other.completion:
                found.append(Pair(one, other))
    return found


def _label(served: Served) -> float:
    assert served.label is not None  # only rated answers come here
    return served.label


def weights_of(propensities: Sequence[float | None]) -> list[float]:
    """1/p of each row, with mean 1 (inverse propensity weights). Raises DataError for a row without its p."""
    known = [one for one in propensities if one is not None]
    if len(known) < len(propensities):
        raise DataError(
            f"{len(propensities) - len(known):,} of {len(propensities):,} ratings have no propensity",
            expected="the probability with which the answer was rated, in every rated row",
            fix="log it, or leave weighted out",
        )
    raw = [1 / one for one in known]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [one / mean for one in raw]


def effective_share(propensities: Sequence[float | None]) -> float | None:
    """(Σw)² / (n Σw²): which share of its rows a weighted mean is worth (Kish). None where a p is not known."""
    if not propensities or None in propensities:
        return None
    weights = weights_of(propensities)
    return sum(weights) ** 2 / (len(weights) * sum(one**2 for one in weights))


def comparisons(pairs: Sequence[Pair], *, logged: bool, weighted: bool) -> list[PromptGroup]:
    """Rows for `dpo`. Raises DataError for an answer without log-probabilities where they are wanted."""
    weights = weights_of([one.propensity for one in pairs]) if weighted else [1.0] * len(pairs)
    groups = []
    for pair, weight in zip(pairs, weights, strict=True):
        sums = (pair.best.logprob_sum, pair.worst.logprob_sum)
        if logged and None in sums:
            raise DataError("a pair's answer has no logged log-probabilities", fix="leave logged out")
        groups.append(
            PromptGroup(
                prompt=turns_of(pair.best),
                completions=tuple((Message("assistant", one.completion),) for one in (pair.best, pair.worst)),
                preference=Preference(ranking=(1, 2), weight=weight),
                logps=tuple(one for one in sums if one is not None) if logged else None,
            )
        )
    return groups


def thumbs(rated: Sequence[Served], *, up_above: float, weighted: bool) -> list[PromptGroup]:
    """Rows for `kto`: a rating above `up_above` is a thumb up."""
    weights = weights_of([one.propensity for one in rated]) if weighted else [1.0] * len(rated)
    return [
        PromptGroup(
            prompt=turns_of(one),
            completions=((Message("assistant", one.completion),),),
            preference=Preference(thumbs=(_label(one) > up_above,), weight=weight),
        )
        for one, weight in zip(rated, weights, strict=True)
    ]


def roots(groups: Sequence[PromptGroup]) -> set[str]:
    return {conversation_root(group.prompt) for group in groups}
