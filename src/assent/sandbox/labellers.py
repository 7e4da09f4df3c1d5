"""Labels for completions: from noisy gold, from groups of people, from an AI judge, and from logs. Torch-free.

Labellers only see the completions that they are given; `sample_and_label` also samples them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from assent.data.texts import last_content
from assent.errors import ConfigError, DataError
from assent.sandbox import language
from assent.sandbox.gold import gold, total
from assent.sandbox.replies import BAD, GOOD, MIXED, compose
from assent.sandbox.settings import LabelSettings, LogSettings, Rater
from assent.sandbox.world import TASTE, VERSION, World
from assent.types import Message, Preference, PromptGroup

Sampler = Callable[[Sequence[PromptGroup], int, int], Sequence[Sequence[str]]]
"""(groups, completions per prompt, seed) -> the texts of each group's completions."""


@dataclass(frozen=True, slots=True)
class Labelled:
    groups: list[PromptGroup]
    """Each with a Preference and its annotator; `columns` have the gold totals (`gold`) and the label's price."""
    cost: float
    """Price of all labels."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of groups without a label, by reason: `empty` (a completion without text), `identical` (nothing to
    compare), `coverage`, `trap`."""


def shows_best_behaviour(completion: str) -> bool:
    """Whether a completion has the behaviour that `coverage` hides: the personal sign-off."""
    reply = language.read_reply(completion)
    return reply is not None and reply.sign_off.manner == "personal"


def has_trap(completion: str) -> bool:
    """Whether a completion contains the trap phrase, even if it is not a reply."""
    return any(phrase in completion.lower() for phrase in language.ACTS["trap"])


def utility(rater: Rater, columns: Mapping[str, Any], completion: str) -> float:
    """A rater's utility of the completion, in units of gold, without noise or bias."""
    attributes = dict(gold(columns, completion).attributes)
    if columns["kind"] in rater.blind and language.read_reply(completion) is not None:
        attributes["safe"] = 1.0
    return total(attributes, rater.weights or columns.get("taste") or TASTE)


def log_odds(rater: Rater, columns: Mapping[str, Any], first: str, second: str) -> float:
    """d of `Rater`, without the position bias."""
    worth = (utility(rater, columns, first) - utility(rater, columns, second)) / rater.temperature
    longer = (language.count_words(first) - language.count_words(second)) / 10
    own = (rater.own_phrase in first) - (rater.own_phrase in second)
    return worth + rater.length_bias * longer + rater.self_preference * own


def win_probability(
    rater: Rater, columns: Mapping[str, Any], first: str, second: str, *, shown_first: bool | None = None
) -> float:
    """Probability that the rater prefers `first`. `shown_first=None`: the mean over both positions."""
    if shown_first is None:
        places = [win_probability(rater, columns, first, second, shown_first=place) for place in (True, False)]
        return sum(places) / 2
    odds = log_odds(rater, columns, first, second) + rater.position_bias * (1 if shown_first else -1)
    return (1 - 2 * rater.flip) * _sigmoid(odds) + rater.flip


def label(groups: Sequence[PromptGroup], settings: LabelSettings, *, world: World, seed: int) -> Labelled:
    """Labels the K completions of each group that `settings` allow, in the groups' order.

    Every draw is a function of the seed and of the group's index. A comparison's chosen completion comes first.
    Raises DataError if a group has the wrong number of completions for the kind of label.
    """
    labelled: list[PromptGroup] = []
    skipped: Counter[str] = Counter()
    for index, group in enumerate(groups):
        texts = [last_content(c) for c in group.completions]
        _check_count(group, settings)
        rng = random.Random(f"assent-sandbox/{VERSION}/labels/{world.seed}/{world.time}/{seed}/{index}")
        totals = [gold(group.columns, text).total for text in texts]
        reason = _reason_to_skip(texts, totals, settings, rng)
        if reason:
            skipped[reason] += 1
            continue
        order = list(settings.raters)
        rng.shuffle(order)
        for vote in range(settings.votes):
            rater = order[vote % len(order)]
            columns = {**group.columns, "price": rater.price * len(texts)}
            voted = replace(group, columns=columns)
            labelled.append(_LABELS[settings.labels](voted, texts, totals, rater, settings, rng))
    return Labelled(labelled, sum(g.columns["price"] for g in labelled), dict(skipped))


def _check_count(group: PromptGroup, settings: LabelSettings) -> None:
    count, least = len(group.completions), {"pairs": 2, "rankings": 2}.get(settings.labels, 1)
    if count < least or (settings.labels == "pairs" and count != 2):
        expected = "2" if settings.labels == "pairs" else f"{least} or more"
        raise DataError(
            f"wrong number of completions for {settings.labels}", got=f"{count} ({group.source})", expected=expected
        )


def _reason_to_skip(texts: Sequence[str], totals: Sequence[float], settings: LabelSettings, rng: random.Random) -> str:
    trap_draw = rng.random()  # always drawn, so that this setting does not change other draws
    if not all(text.strip() for text in texts):
        return "empty"
    if settings.labels in ("pairs", "rankings") and len(set(texts)) == 1:
        return "identical"
    if not settings.coverage and any(map(shows_best_behaviour, texts)):
        return "coverage"
    best = max(totals)
    worthless_trap = any(has_trap(text) and value < best for text, value in zip(texts, totals, strict=True))
    return "trap" if worthless_trap and trap_draw < settings.trap_correlation else ""


def _pair(
    group: PromptGroup, texts: list[str], totals: list[float], rater: Rater, settings: LabelSettings, rng: random.Random
) -> PromptGroup:
    shown_first = rng.random() < 0.5
    wins = rng.random() < win_probability(rater, group.columns, texts[0], texts[1], shown_first=shown_first)
    places = (0, 1) if wins else (1, 0)
    return _labelled(group, totals, places, Preference(ranking=(1, 2), annotator=rater.name))


def _ranking(
    group: PromptGroup, texts: list[str], totals: list[float], rater: Rater, settings: LabelSettings, rng: random.Random
) -> PromptGroup:
    """Plackett–Luce: utilities with Gumbel noise, sorted. For two completions this is exactly a comparison."""
    places = list(range(len(texts)))
    rng.shuffle(places)
    noisy = []
    for text, place in zip(texts, places, strict=True):
        screen = rater.position_bias * (1 - 2 * place / (len(texts) - 1))
        gumbel = -math.log(-math.log(rng.uniform(1e-300, 1.0)))
        noisy.append(log_odds(rater, group.columns, text, texts[0]) + screen + gumbel)
    if rng.random() < rater.flip:
        noisy = [-value for value in noisy]
    order = sorted(range(len(texts)), key=lambda i: -noisy[i])
    ranks, rank = [0] * len(texts), 1
    for above, below in zip([None, *order], order, strict=False):
        near = above is not None and (noisy[above] - noisy[below]) * rater.temperature < settings.tie_width
        if above is not None and not (near or texts[above] == texts[below]):
            rank = order.index(below) + 1
        ranks[below] = rank
    return _labelled(group, totals, range(len(texts)), Preference(ranking=tuple(ranks), annotator=rater.name))


def _noisy_worth(rater: Rater, columns: Mapping[str, Any], text: str, rng: random.Random) -> float:
    """A rater's utility of a completion that is shown alone, with the logistic noise of a comparison."""
    draw = rng.uniform(1e-12, 1 - 1e-12)
    noise = math.log(draw / (1 - draw)) + rater.length_bias * (language.count_words(text) - 12) / 10
    noise += rater.self_preference * (rater.own_phrase in text)
    return utility(rater, columns, text) + rater.temperature * noise


def _ratings(
    group: PromptGroup, texts: list[str], totals: list[float], rater: Rater, settings: LabelSettings, rng: random.Random
) -> PromptGroup:
    scores = []
    for text in texts:
        score = min(5, max(1, round(1 + 4 * _noisy_worth(rater, group.columns, text, rng))))
        scores.append(float(6 - score if rng.random() < rater.flip else score))
    return _labelled(group, totals, range(len(texts)), Preference(scores=tuple(scores), annotator=rater.name))


def _thumbs(
    group: PromptGroup, texts: list[str], totals: list[float], rater: Rater, settings: LabelSettings, rng: random.Random
) -> PromptGroup:
    thumbs = [_thumb(rater, group.columns, text, rng) for text in texts]
    return _labelled(group, totals, range(len(texts)), Preference(thumbs=tuple(thumbs), annotator=rater.name))


def _thumb(rater: Rater, columns: Mapping[str, Any], text: str, rng: random.Random) -> bool:
    return (_noisy_worth(rater, columns, text, rng) > 0.5) != (rng.random() < rater.flip)


def _labelled(
    group: PromptGroup, totals: Sequence[float], places: Sequence[int], preference: Preference
) -> PromptGroup:
    return replace(
        group,
        completions=tuple(group.completions[i] for i in places),
        logps=tuple(group.logps[i] for i in places) if group.logps else None,
        columns={**group.columns, "gold": [totals[i] for i in places]},
        preference=preference,
    )


_LABELS = {"pairs": _pair, "rankings": _ranking, "ratings": _ratings, "thumbs": _thumbs}


def with_completions(group: PromptGroup, texts: Sequence[str]) -> PromptGroup:
    """The group with these completions as assistant turns."""
    return replace(group, completions=tuple((Message("assistant", text),) for text in texts))


def foreign_completions(groups: Sequence[PromptGroup], num_completions: int, seed: int) -> list[list[str]]:
    """Completions of good, medium and bad quality by the sandbox's own writers; no model wrote them."""
    rng = random.Random(f"assent-sandbox/{VERSION}/foreign/{seed}")
    return [
        [compose(group.columns, rng.choice((GOOD, MIXED, BAD)), rng) for _ in range(num_completions)]
        for group in groups
    ]


def sample_and_label(
    world: World, settings: LabelSettings, *, seed: int, sampler: Sampler | None, split: str = "preference"
) -> Labelled:
    """Samples completions for `settings.number` prompts of a split and labels them.

    `sampler` is the model that `settings.source` names; for `foreign` it must be None. Prompts whose completions cannot
    be labelled (see `Labelled.skipped`) are replaced by others, so that the number is reached.
    """
    if (sampler is None) != (settings.source == "foreign"):
        raise ConfigError("a sampler is needed for the sources sft and older, and only for these", got=settings.source)
    groups: list[PromptGroup] = []
    cost, skipped, used, wanted = 0.0, Counter[str](), 0, settings.number
    while wanted > 0:
        prompts = world.prompts(split, used + wanted, seed)[used:]
        draw = sampler or foreign_completions
        texts = draw(prompts, settings.num_completions, seed * 1_000_003 + used)
        full = [with_completions(group, t) for group, t in zip(prompts, texts, strict=True)]
        part = label(full, settings, world=world, seed=seed * 1_000_003 + used)
        if not part.groups and used > 20 * settings.number:
            raise DataError("no completions can be labelled", got=dict(skipped), expected="completions that differ")
        groups += part.groups
        cost += part.cost
        skipped.update(part.skipped)
        used += len(prompts)
        wanted = settings.number - len(groups) // settings.votes
    return Labelled(groups, cost, dict(skipped))


def logs(
    groups: Sequence[PromptGroup], settings: LogSettings, *, seed: int, logps: Sequence[float] | None = None
) -> list[PromptGroup]:
    """Logs of one completion per prompt: those that users gave a thumb, with selection bias.

    logps  log-probability of each completion under the model that sampled it; needed if the log holds them
    """
    if settings.with_logprobs != (logps is not None):
        raise ConfigError("give log-probabilities if and only if the logs hold them", got=logps is not None)
    kept = []
    for index, group in enumerate(groups):
        rng = random.Random(f"assent-sandbox/{VERSION}/logs/{seed}/{index}")
        text = last_content(group.completions[0])
        value = gold(group.columns, text).total
        if rng.random() >= feedback_probability(value, settings):
            continue
        preference = Preference(thumbs=(_thumb(settings.rater, group.columns, text, rng),), annotator="user")
        kept.append(
            replace(
                group,
                preference=preference,
                logps=None if logps is None else (logps[index],),
                columns={**group.columns, "gold": [value]},
            )
        )
    return kept


def feedback_probability(value: float, settings: LogSettings) -> float:
    """Probability that a user gives a thumb to a completion with gold total `value`."""
    rate = min(max(settings.feedback_rate, 1e-9), 1 - 1e-9)
    return _sigmoid(math.log(rate / (1 - rate)) + settings.selection * (value - 0.5))


@dataclass(frozen=True, slots=True)
class NoiseCeiling:
    gold_agreement: float
    """Expected accuracy on these noisy labels of a model that knows gold exactly (a tie in gold counts half)."""
    best: float
    """Expected accuracy of a model that also knows the raters' probabilities and biases: no model does better."""


def noise_ceiling(groups: Sequence[PromptGroup], raters: Sequence[Rater]) -> NoiseCeiling:
    """The exact highest accuracy on labels of these pairs (K = 2) by these raters, each equally often."""
    agreement, best = 0.0, 0.0
    for group in groups:
        first, second = (last_content(c) for c in group.completions)
        p = sum(win_probability(rater, group.columns, first, second) for rater in raters) / len(raters)
        a, b = (gold(group.columns, text).total for text in (first, second))
        agreement += 0.5 if a == b else (p if a > b else 1 - p)
        best += max(p, 1 - p)
    return NoiseCeiling(agreement / len(groups), best / len(groups))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
