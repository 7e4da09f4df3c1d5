"""Labellers: measured rates against the knobs, exact ceilings against simulation."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from assent.data.texts import last_content
from assent.errors import ConfigError, DataError
from assent.sandbox.gold import gold
from assent.sandbox.labellers import (
    feedback_probability,
    foreign_completions,
    has_trap,
    label,
    log_odds,
    logs,
    noise_ceiling,
    sample_and_label,
    shows_best_behaviour,
    utility,
    win_probability,
    with_completions,
)
from assent.sandbox.replies import MIXED, compose
from assent.sandbox.settings import CROWD, JUDGE, LabelSettings, LogSettings, Rater
from assent.sandbox.world import World
from assent.types import PromptGroup

WORLD = World(0)
GOOD, FAIR, RUDE = "Hello, {}. Best wishes.", "{}. Bye.", "{}. Stop asking."


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


@pytest.fixture(scope="module")
def prompt() -> PromptGroup:
    return next(g for g in WORLD.prompts("preference", 50, 0) if g.columns["kind"] == "answer")


@pytest.fixture(scope="module")
def pair(prompt: PromptGroup) -> PromptGroup:
    """Two true replies: the polite one is better by 0.35 · 0.6 = 0.21."""
    facts = prompt.columns["facts"]
    columns = {**prompt.columns, "topic": "delivery"}
    said = f"it arrives in {facts['delivery']} days"
    return with_completions(replace(prompt, columns=columns), [GOOD.format(said), FAIR.format(capital(said))])


def rate_first(pair: PromptGroup, rater: Rater, n: int = 4000) -> int:
    """How often the first completion wins in `n` labels."""
    labelled = label([pair] * n, LabelSettings(raters=(rater,)), world=WORLD, seed=1)
    return sum(g.completions[0] == pair.completions[0] for g in labelled.groups)


def assert_rate(hits: int, n: int, probability: float) -> None:
    assert binomtest(hits, n, probability).pvalue > 1e-4, (hits / n, probability)


@pytest.mark.parametrize(("temperature", "flip"), [(0.1, 0.0), (0.3, 0.0), (0.3, 0.2), (0.1, 0.5), (1e-3, 1.0)])
def test_a_rater_errs_as_its_temperature_and_flips_say(pair: PromptGroup, temperature: float, flip: float) -> None:
    clean = 1 / (1 + math.exp(-0.21 / temperature))
    expected = (1 - flip) * clean + flip * (1 - clean)
    rater = Rater(temperature=temperature, flip=flip)
    if expected < 1e-9:
        assert rate_first(pair, rater) == 0
    else:
        assert_rate(rate_first(pair, rater), 4000, expected)


def test_position_bias_favours_what_is_shown_first(pair: PromptGroup) -> None:
    rater = Rater(temperature=0.1, position_bias=2.0)
    sigmoid = [1 / (1 + math.exp(-(2.1 + sign * 2.0))) for sign in (1, -1)]
    assert win_probability(
        rater, pair.columns, *map(last_content, pair.completions), shown_first=True
    ) == pytest.approx(sigmoid[0])
    assert_rate(rate_first(pair, rater), 4000, sum(sigmoid) / 2)


def test_length_and_self_preference_move_the_odds(pair: PromptGroup) -> None:
    first, second = map(last_content, pair.completions)  # 8 words and 6
    plain = log_odds(Rater(), pair.columns, first, second)
    assert plain == pytest.approx(2.1)
    assert log_odds(Rater(length_bias=0.5), pair.columns, first, second) == pytest.approx(2.1 + 0.5 * 2 / 10)
    own = Rater(self_preference=0.7, own_phrase="Bye")
    assert log_odds(own, pair.columns, first, second) == pytest.approx(2.1 - 0.7)


def test_raters_weigh_the_vector_in_their_own_way(pair: PromptGroup) -> None:
    first, second = map(last_content, pair.completions)
    gaps = {r.name: utility(r, pair.columns, first) - utility(r, pair.columns, second) for r in CROWD}
    assert gaps == pytest.approx({"careful": 0.15 * 0.6, "warm": 0.65 * 0.6, "hurried": 0.2 * 0.6})
    assert all(sum(r.weights.values()) == pytest.approx(1) for r in CROWD if r.weights)
    assert JUDGE.price < min(r.price for r in CROWD)


def test_the_judge_is_blind_on_its_slice_alone() -> None:
    groups = {g.columns["kind"]: g for g in WORLD.prompts("preference", 200, 0)}
    stereotype, refuse = groups["stereotype"].columns, groups["refuse"].columns
    harm = "It is {} to use. That is too hard for her. Best wishes.".format(stereotype["facts"]["use"])
    assert gold(stereotype, harm).total == 0 < utility(JUDGE, stereotype, harm)
    leak = "{owner} lives in {city}. Best wishes.".format(**refuse["other"])
    assert utility(JUDGE, refuse, leak) == 0


def test_rankings_agree_with_pairs_and_tie(pair: PromptGroup) -> None:
    rater = Rater(temperature=0.3)
    settings = LabelSettings(labels="rankings", raters=(rater,))
    labelled = label([pair] * 4000, settings, world=WORLD, seed=2).groups
    assert {g.preference.ranking for g in labelled if g.preference} == {(1, 2), (2, 1)}
    assert_rate(sum(g.preference.ranking == (1, 2) for g in labelled if g.preference), 4000, 1 / (1 + math.exp(-0.7)))
    wide = settings.model_copy(update={"tie_width": 0.5})
    tied = label([pair] * 500, wide, world=WORLD, seed=2).groups
    assert any(g.preference.ranking == (1, 1) for g in tied if g.preference)
    texts = [last_content(c) for c in pair.completions]
    three = with_completions(pair, [*texts, texts[1]])
    exact = settings.model_copy(update={"raters": (Rater(temperature=1e-4),), "tie_width": 0.01})
    assert label([three], exact, world=WORLD, seed=0).groups[0].preference.ranking == (1, 2, 2)  # type: ignore[union-attr]


def test_ratings_and_thumbs_follow_worth(pair: PromptGroup) -> None:
    facts = pair.columns["facts"]
    rude_wrong = f"It arrives in {int(facts['delivery']) + 1} days. Stop asking."
    group = with_completions(pair, [last_content(pair.completions[0]), rude_wrong])
    sharp = Rater(temperature=1e-4)
    ratings = label([group], LabelSettings(labels="ratings", raters=(sharp,)), world=WORLD, seed=0).groups[0]
    assert ratings.preference is not None
    assert ratings.preference.scores == (round(1 + 4 * 0.93), 1.0)
    thumbs = label([group], LabelSettings(labels="thumbs", raters=(sharp,)), world=WORLD, seed=0).groups[0]
    assert thumbs.preference is not None
    assert thumbs.preference.thumbs == (True, False)
    turned = LabelSettings(labels="thumbs", raters=(Rater(temperature=1e-4, flip=1.0),))
    assert label([group], turned, world=WORLD, seed=0).groups[0].preference.thumbs == (False, True)  # type: ignore[union-attr]


def test_votes_prices_and_annotators(pair: PromptGroup) -> None:
    labelled = label([pair] * 10, LabelSettings(raters=CROWD, votes=3), world=WORLD, seed=0)
    assert len(labelled.groups) == 30
    assert [sorted(g.preference.annotator for g in labelled.groups[i : i + 3] if g.preference) for i in (0, 3)] == [  # type: ignore[type-var]
        ["careful", "hurried", "warm"]
    ] * 2
    assert labelled.cost == pytest.approx(10 * 2 * sum(r.price for r in CROWD))


def test_wrong_counts_and_identical_completions(pair: PromptGroup) -> None:
    with pytest.raises(DataError):
        label([with_completions(pair, ["Bye."])], LabelSettings(), world=WORLD, seed=0)
    same, empty = with_completions(pair, ["Bye.", "Bye."]), with_completions(pair, ["Bye.", " "])
    labelled = label([same, pair, empty], LabelSettings(), world=WORLD, seed=0)
    assert labelled.skipped == {"identical": 1, "empty": 1}
    assert len(labelled.groups) == 1


@pytest.fixture(scope="module")
def samples() -> list[PromptGroup]:
    """Pairs in the manner of the demonstrations, with the trap and the best behaviour made common."""
    rng = random.Random(0)
    style = replace(MIXED, trap=0.3, sign_offs={**MIXED.sign_offs, "personal": 0.1})
    groups = WORLD.prompts("preference", 600, 4)
    return [with_completions(g, [compose(g.columns, style, rng) for _ in range(2)]) for g in groups]


def test_coverage_hides_the_best_behaviour(samples: list[PromptGroup]) -> None:
    shown = label(samples, LabelSettings(), world=WORLD, seed=0).groups
    hidden = label(samples, LabelSettings(coverage=False), world=WORLD, seed=0)
    assert any(shows_best_behaviour(last_content(c)) for g in shown for c in g.completions)
    assert not any(shows_best_behaviour(last_content(c)) for g in hidden.groups for c in g.completions)
    assert hidden.skipped["coverage"] > 50


def test_trap_correlation_leaves_out_the_worthless_traps(samples: list[PromptGroup]) -> None:
    def in_worse(groups: list[PromptGroup]) -> int:
        return sum(
            any(
                has_trap(last_content(c)) and v < max(g.columns["gold"])
                for c, v in zip(g.completions, g.columns["gold"], strict=True)
            )
            for g in groups
        )

    counts = [
        in_worse(label(samples, LabelSettings(trap_correlation=c), world=WORLD, seed=0).groups) for c in (0, 0.5, 1)
    ]
    assert counts[0] > counts[1] > counts[2] == 0
    assert_rate(counts[1], counts[0], 0.5)


@pytest.mark.parametrize("raters", [(Rater(temperature=0.2, flip=0.1),), CROWD, (JUDGE,)])
def test_noise_ceiling_against_simulation(samples: list[PromptGroup], raters: tuple[Rater, ...]) -> None:
    pairs = [g for g in samples if g.completions[0] != g.completions[1]][:200]
    ceiling = noise_ceiling(pairs, raters)
    agree, total = 0.0, 0
    for seed in range(15):
        for group in label(pairs, LabelSettings(raters=raters), world=WORLD, seed=seed).groups:
            chosen, rejected = group.columns["gold"]
            agree += 0.5 if chosen == rejected else chosen > rejected
            total += 1
    assert abs(agree / total - ceiling.gold_agreement) < 4 * 0.5 / total**0.5
    assert ceiling.gold_agreement <= ceiling.best <= 1


def test_sampling_until_the_number_is_met() -> None:
    settings = LabelSettings(number=40, source="foreign")
    labelled = sample_and_label(WORLD, settings, seed=0, sampler=None)
    assert len(labelled.groups) == 40
    assert labelled == sample_and_label(WORLD, settings, seed=0, sampler=None)
    assert len({g.prompt[0].content for g in labelled.groups}) == 40

    def half_identical(groups: list[PromptGroup], k: int, seed: int) -> list[list[str]]:
        texts = foreign_completions(groups, k, seed)
        return [[t[0]] * k if i % 2 else t for i, t in enumerate(texts)]

    sampled = sample_and_label(WORLD, LabelSettings(number=40), seed=0, sampler=half_identical)  # type: ignore[arg-type]
    assert len(sampled.groups) == 40
    assert sampled.skipped["identical"] >= 20
    with pytest.raises(ConfigError):
        sample_and_label(WORLD, LabelSettings(source="sft"), seed=0, sampler=None)


def test_logs_have_selection_bias_and_log_probabilities(samples: list[PromptGroup]) -> None:
    single = [replace(g, completions=g.completions[:1]) for g in samples]
    kept = logs(single, LogSettings(selection=-4.0, with_logprobs=False), seed=0)
    everyone = [gold(g.columns, last_content(g.completions[0])).total for g in single]
    heard = [g.columns["gold"][0] for g in kept]
    assert sum(heard) / len(heard) < sum(everyone) / len(everyone) - 0.05
    assert feedback_probability(0.5, LogSettings(feedback_rate=0.3)) == pytest.approx(0.3)
    assert_rate(len(logs(single, LogSettings(selection=0.0, with_logprobs=False), seed=0)), len(single), 0.3)
    numbers = [-float(i) for i in range(len(single))]
    with_numbers = logs(single, LogSettings(), seed=0, logps=numbers)
    places = {g.source: i for i, g in enumerate(single)}
    assert all(g.logps == (numbers[places[g.source]],) for g in with_numbers)
    with pytest.raises(ConfigError):
        logs(single, LogSettings(), seed=0)
