"""No mutation of a completion scores above its original; length never helps; any string has a score."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.sandbox import language
from assent.sandbox.gold import ATTRIBUTES, gold
from assent.sandbox.replies import BAD, GOOD, MIXED, compose
from assent.sandbox.world import World
from assent.types import PromptGroup

MUTATIONS = 10_000
COLUMNS = World(0).prompts("test", 1, 0)[0].columns


def _shuffle_words(text: str, prompt: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def _shuffle_sentences(text: str, prompt: str, rng: random.Random) -> str:
    sentences = text[:-1].split(". ")
    rng.shuffle(sentences)
    return ". ".join(sentences) + "."


def _repeat(text: str, prompt: str, rng: random.Random) -> str:
    words, sentences = text.split(), text[:-1].split(". ")
    at, sentence = rng.randrange(len(words)), rng.choice(sentences)
    return rng.choice(
        [
            f"{text} {text}",
            " ".join([*words[:at], words[at], *words[at:]]),
            f"{sentence}. {text}",
            f"{text} {sentence}.",
            " ".join(words[:at] + words),
        ]
    )


def _stuff(text: str, prompt: str, rng: random.Random) -> str:
    """Words and whole phrases that stand in good replies, before, behind and inside."""
    phrases = [p for t in (*language.ACTS.values(), *language.SIGN_OFFS.values()) for p in t if "{" not in p]
    keywords = [*language.OPENERS, "please", "sorry", "doctor", "order", *phrases]
    keywords += [language.capitalised(p) + "." for p in (*language.ACTS["filler"], *language.ACTS["trap"])]
    words = text.split()
    for _ in range(rng.randint(1, 4)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(keywords))
    return " ".join(words)


def _echo(text: str, prompt: str, rng: random.Random) -> str:
    words = prompt.split()
    start = rng.randrange(len(words))
    part = " ".join(words[start : start + rng.randint(1, len(words))])
    return rng.choice([f"{prompt} {text}", f"{text} {prompt}", f"{part} {text}", f"{text} {part}", prompt, part])


def _truncate(text: str, prompt: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return text[: rng.randrange(len(text))]
    words = text.split()
    return " ".join(words[: rng.randrange(len(words))])


KINDS = (_shuffle_words, _shuffle_sentences, _repeat, _stuff, _echo, _truncate)


@pytest.fixture(scope="module")
def originals() -> list[tuple[PromptGroup, str]]:
    rng = random.Random(0)
    groups = World(0).prompts("test", 600, 3)
    return [(g, compose(g.columns, style, rng)) for g in groups for style in (GOOD, MIXED, BAD)]


def test_no_mutation_scores_above_its_original(originals: list[tuple[PromptGroup, str]]) -> None:
    rng = random.Random(1)
    worse = 0
    for number in range(MUTATIONS):
        group, text = originals[number % len(originals)]
        mutant = KINDS[number % len(KINDS)](text, group.prompt[0].content, rng)  # type: ignore[union-attr]
        before, after = gold(group.columns, text).total, gold(group.columns, mutant).total
        assert after <= before, (text, mutant)
        worse += after < before
    assert worse > MUTATIONS / 2  # most originals are worth something, and lose it


def test_at_equal_attributes_length_never_helps(originals: list[tuple[PromptGroup, str]]) -> None:
    fillers = [language.capitalised(t) + "." for t in (*language.ACTS["filler"], *language.ACTS["trap"])]
    for group, text in originals:
        short = gold(group.columns, text)
        for filler in fillers:
            if filler[1:] in text:
                continue
            long = gold(group.columns, f"{filler} {text}")
            assert long.is_reply
            assert long.total <= short.total
            assert all(long.attributes[name] <= short.attributes[name] for name in ATTRIBUTES)


@given(st.text(max_size=200))
def test_every_string_has_a_score(text: str) -> None:
    assert 0.0 <= gold(COLUMNS, text).total <= 1.0


def test_what_is_written_is_read_back(originals: list[tuple[PromptGroup, str]]) -> None:
    for _, text in originals:
        reply = language.read_reply(text)
        assert reply is not None
        assert reply.text() == text
