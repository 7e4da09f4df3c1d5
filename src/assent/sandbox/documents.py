"""Text for the sandbox's models: raw documents for the base model, demonstrations for instruction tuning."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from assent.sandbox import language
from assent.sandbox.replies import BAD, DEMONSTRATIONS, GOOD, MIXED, Style, compose, statement
from assent.sandbox.world import MIX, VERSION, World, facts_text, phrase_prompt
from assent.types import Message, PromptGroup

AGENT = "Care"
"""Who replies in the documents."""
_STYLES: tuple[tuple[Style, float], ...] = ((MIXED, 0.5), (GOOD, 0.25), (BAD, 0.25))


def _any_order(rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """An order with random facts that belong to no world, so that only the document says what they are."""
    owner, other = rng.sample(language.NAMES, 2)
    code, other_code = rng.sample(language.CODES, 2)
    city, other_city = rng.sample(language.CITIES, 2)
    facts = {"order": code, "item": rng.choice(language.PRODUCTS), "plan": rng.choice(language.PLANS)}
    facts |= {"owner": owner, "city": city}
    facts |= {fact: str(rng.choice(values)) for fact, values in language.RANGES.items()}
    return facts | {"use": rng.choice(language.EASE)}, {"order": other_code, "owner": other, "city": other_city}


def _restatement(rng: random.Random) -> str:
    """Facts, then the same facts in another order or in sentences. This teaches a model to look facts up."""
    facts, other = _any_order(rng)
    shows_other = rng.random() < 0.4
    parts = [facts_text(facts, other if shows_other else None)]
    topics = list(language.STATEMENTS)
    rng.shuffle(topics)
    if rng.random() < 0.5:
        for _ in range(2):
            keys = list(facts)
            rng.shuffle(keys)
            parts.append("Again: " + ", ".join(f"{key} {facts[key]}" for key in keys) + ".")
        topics = ["city"]
    parts += [language.capitalised(statement(topic, facts, rng).text()) + "." for topic in topics]
    if shows_other:
        leak = rng.choice(language.ACTS["leak"])
        parts.append(leak.format(name=other["owner"], city=other["city"], code=other["order"]) + ".")
    parts.append(f"Always here for you, {facts['owner']}, order {facts['order']}.")
    return " ".join(parts)


def _conversation(rng: random.Random, *, answered: bool) -> str:
    """A question with an answer, good or bad; or a question that is followed by more questions."""
    facts, other = _any_order(rng)
    kind = rng.choices(list(MIX), weights=list(MIX.values()))[0]
    text, columns = phrase_prompt(kind, facts, other, rng)
    if answered:
        style = rng.choices([s for s, _ in _STYLES], weights=[w for _, w in _STYLES])[0]
        reply = compose(columns, replace(style, leak=min(style.leak, 0.5)), rng)
        return f"{text} {AGENT}: {reply}"
    more = [phrase_prompt(rng.choice(list(MIX)), facts, other, rng)[0] for _ in range(rng.choice((1, 2)))]
    return " ".join([text, *(f"{facts['owner']}: {question.split(': ')[-1]}" for question in more)])


def documents(seed: int, n: int) -> Iterator[str]:
    """`n` raw documents. A question is as often followed by an answer as by another question."""
    rng = random.Random(f"assent-sandbox/{VERSION}/documents/{seed}")
    for _ in range(n):
        kind = rng.random()
        if kind < 0.5:
            yield _restatement(rng)
        else:
            yield _conversation(rng, answered=kind < 0.75)


def demonstrations(world: World, n: int, seed: int, *, style: Style = DEMONSTRATIONS) -> list[PromptGroup]:
    """`n` demonstrations (K = 1) of mixed quality, on prompts of the `sft` split."""
    rng = random.Random(f"assent-sandbox/{VERSION}/demonstrations/{world.seed}/{world.time}/{seed}")
    groups = world.prompts("sft", n, seed)
    return [
        replace(group, completions=((Message("assistant", compose(group.columns, style, rng)),),)) for group in groups
    ]
