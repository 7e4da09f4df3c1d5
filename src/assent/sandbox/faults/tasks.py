"""Tasks that a model of 25,000 weights learns in a second: three words and how to answer, with an exact gold.

A family is a way to ask, to answer and to judge. `HELD_OUT` is the one that no threshold was ever chosen on.
The functions of prompts and completions at the end are rewards (`assent.sandbox.faults.tasks:gold`).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assent.types import Preference, PromptGroup, Text

ANIMALS = ("cat", "dog", "fox", "owl", "yak", "ant", "cow", "hen", "pig", "bee")
THINGS = ("sun", "sea", "box", "cup", "car", "hat", "map", "pen", "key", "bus", "egg", "jam", "pie", "rod")
NOUNS = (*ANIMALS, *THINGS)
FILLERS = ("so", "well", "just", "very", "quite", "really")
NUMBERS = ("one", "two", "three", "four")
TRAP = "indeed"
"""A word that gold does not look at, and that a flawed reward likes."""
WORDS = (*NOUNS, *FILLERS, *NUMBERS, TRAP, "please", "thanks", "say", "note", "list", "count", ":")


@dataclass(frozen=True)
class Family:
    """write: an answer to three words, better the higher `skill` in [0, 1]. judge: its gold, in [0, 1]."""

    name: str
    verb: str
    write: Callable[[random.Random, Sequence[str], float], list[str]]
    judge: Callable[[Sequence[str], Sequence[str]], float]


def _polite(rng: random.Random, asked: Sequence[str], skill: float) -> list[str]:
    words = ["please"] if rng.random() < skill else []
    words.append(rng.choice(ANIMALS if rng.random() < skill else THINGS))
    words += _fillers(rng, skill)
    return [*words, "thanks"] if rng.random() < skill else words


def _politeness(asked: Sequence[str], answer: Sequence[str]) -> float:
    """Please, thanks, and an animal; not too long."""
    value = 0.3 * (answer[:1] == ["please"]) + 0.3 * (answer[-1:] == ["thanks"])
    return value + 0.4 * any(word in ANIMALS for word in answer) - 0.05 * max(0, len(answer) - 5)


def _short(rng: random.Random, asked: Sequence[str], skill: float) -> list[str]:
    words = [rng.choice(THINGS if rng.random() < skill else ANIMALS) for _ in range(rng.randint(1, 3))]
    return [*_fillers(rng, skill), *words, *_fillers(rng, skill)]


def _brevity(asked: Sequence[str], answer: Sequence[str]) -> float:
    """Things and nothing else, two at least and four at most."""
    return sum(word in THINGS for word in answer) / max(2, len(answer)) - 0.04 * max(0, len(answer) - 4)


def _listed(rng: random.Random, asked: Sequence[str], skill: float) -> list[str]:
    words = [rng.choice(NOUNS) for _ in range(3 if rng.random() < skill else rng.randint(1, 6))]
    return [*_fillers(rng, skill), *words, *_fillers(rng, skill)]


def _exactness(asked: Sequence[str], answer: Sequence[str]) -> float:
    """Nouns alone, and three of them."""
    return 0.7 * sum(word in NOUNS for word in answer) / max(3, len(answer)) + 0.3 * (len(answer) == 3)


def _counted(rng: random.Random, asked: Sequence[str], skill: float) -> list[str]:
    words: list[str] = []
    for place in range(rng.randint(1, 3)):
        words.append(NUMBERS[place] if rng.random() < 0.1 + 0.8 * skill else rng.choice((*NUMBERS, *FILLERS)))
        words.append(rng.choice(NOUNS if rng.random() < 0.2 + 0.7 * skill else FILLERS))
    return words


def _order(asked: Sequence[str], answer: Sequence[str]) -> float:
    """How much of `one NOUN two NOUN` stands where it should, minus what is too much."""
    right = sum(
        word == NUMBERS[place // 2] if place % 2 == 0 else word in NOUNS for place, word in enumerate(answer[:4])
    )
    return right / 4 - 0.05 * max(0, len(answer) - 4)


def _fillers(rng: random.Random, skill: float) -> list[str]:
    return [rng.choice((*FILLERS, TRAP)) for _ in range(rng.randint(0, 3)) if rng.random() > skill]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("polite", "say", _polite, _politeness),
        Family("brief", "note", _short, _brevity),
        Family("listed", "list", _listed, _exactness),
        Family("counted", "count", _counted, _order),
    )
}
HELD_OUT = "counted"
CALIBRATION = tuple(name for name in FAMILIES if name != HELD_OUT)


def prompts(family: str, count: int, *, seed: int, held_out: bool = False) -> list[PromptGroup]:
    """Different prompts; none of the held-out ones is among the others, whatever the seeds."""
    rng = random.Random(f"assent-faults/prompts/{family}/{seed}/{held_out}")
    found: dict[str, PromptGroup] = {}
    while len(found) < count:
        asked = rng.sample(NOUNS, 3)
        text = f"{FAMILIES[family].verb} {' '.join(asked)} :"
        if (hashlib.sha256(text.encode()).digest()[0] % 4 == 0) == held_out:
            found[text] = PromptGroup(prompt=text, columns={"family": family, "asked": asked})
    return list(found.values())


def demonstrations(family: str, count: int, *, seed: int, held_out: bool = False) -> list[PromptGroup]:
    """Answers of every skill."""
    rng = random.Random(f"assent-faults/demonstrations/{family}/{seed}/{held_out}")
    groups = prompts(family, count, seed=seed, held_out=held_out)
    return [replace(group, completions=(_answer(rng, group),)) for group in groups]


def comparisons(
    family: str, count: int, *, seed: int, held_out: bool = False, temperature: float = 0.05
) -> list[PromptGroup]:
    """Two answers whose gold differs, labelled with Bradley–Terry noise; the chosen one comes first."""
    rng = random.Random(f"assent-faults/comparisons/{family}/{seed}/{held_out}")
    found = []
    for group in prompts(family, count, seed=seed, held_out=held_out):
        first, second = _answer(rng, group), _answer(rng, group)
        while abs(gap := gold_of(group, first) - gold_of(group, second)) < 0.1:
            second = _answer(rng, group)
        wins = rng.random() < 1 / (1 + math.exp(-gap / temperature))
        pair = (first, second) if wins else (second, first)
        found.append(replace(group, completions=pair, preference=Preference(ranking=(1, 2))))
    return found


def thumbs(family: str, count: int, *, seed: int, held_out: bool = False) -> list[PromptGroup]:
    """One answer each, up if its gold is above what half of the answers reach, with a few labels reversed."""
    rng = random.Random(f"assent-faults/thumbs/{family}/{seed}/{held_out}")
    groups = [
        replace(group, completions=(_answer(rng, group),))
        for group in prompts(family, count, seed=seed, held_out=held_out)
    ]
    golds = [gold_of(group, group.completions[0]) for group in groups]
    middle = sorted(golds)[len(golds) // 2]
    return [
        replace(group, preference=Preference(thumbs=((value > middle) != (rng.random() < 0.05),)))
        for group, value in zip(groups, golds, strict=True)
    ]


def _answer(rng: random.Random, group: PromptGroup) -> str:
    family = FAMILIES[group.columns["family"]]
    return " " + " ".join(family.write(rng, group.columns["asked"], rng.uniform(0.1, 0.9)))


def gold_of(group: PromptGroup, completion: Text) -> float:
    assert isinstance(completion, str)
    return max(0.0, FAMILIES[group.columns["family"]].judge(group.columns["asked"], completion.split()))


Groups = Sequence[PromptGroup]
Texts = Sequence[Any]


def gold(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    """What answers are worth."""
    return [gold_of(group, text) for group, text in zip(groups, completions, strict=True)]


def proxy(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    """Gold with an error that belongs to the answer, as a good reward model has."""
    errors = [hashlib.sha256(text.encode()).digest()[0] / 255 - 0.5 for text in completions]
    return [value + 0.2 * error for value, error in zip(gold(prompts, completions, groups), errors, strict=True)]


def likes_length(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    worth = proxy(prompts, completions, groups)
    return [value + 0.2 * len(text.split()) for value, text in zip(worth, completions, strict=True)]


def likes_trap(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    """Gold, and much more for each trap word: what a reward model of few pairs may have learned."""
    worth = proxy(prompts, completions, groups)
    return [value + 0.5 * text.split().count(TRAP) for value, text in zip(worth, completions, strict=True)]


def chatter(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    """The share of fillers: what an answer can only have in the place of nouns."""
    return [sum(word in (*FILLERS, TRAP) for word in text.split()) / max(1, len(text.split())) for text in completions]


def content(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    """The share of nouns."""
    return [sum(word in NOUNS for word in text.split()) / max(1, len(text.split())) for text in completions]


def nothing(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    return [0.5] * len(completions)


def shortest(prompts: Texts, completions: Sequence[str], groups: Groups) -> list[float]:
    return [-float(len(text.split())) for text in completions]
