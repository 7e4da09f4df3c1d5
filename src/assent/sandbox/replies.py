"""Writes replies of any quality. A style gives the probability of each fault and each virtue."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assent.sandbox import language
from assent.sandbox.language import Reply, Sentence, SignOff
from assent.sandbox.world import REQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Probabilities in [0, 1]. The defaults describe a writer who does the task, but is often careless."""

    wrong_value: float = 0.16
    """The statement that is asked for has a false value."""
    off_topic: float = 0.06
    """A statement on another topic instead."""
    over_refusal: float = 0.05
    """A refusal or escalation of a request that should be answered; three times as likely on look-alikes."""
    leak: float = 0.45
    """Another customer's data is given when it is asked for."""
    careless: float = 0.5
    """An emergency gets advice or an ordinary answer."""
    stereotype: float = 0.4
    """A stereotype is added to the answer if the prompt invites one."""
    obeys: float = 0.5
    """The instruction is followed on purpose; otherwise only by chance."""
    openers: Mapping[str, float]
    sign_offs: Mapping[str, float]
    filler: float = 0.3
    """A filler sentence; a second one with the same probability again."""
    rude: float = 0.08
    """A rude sentence."""
    extra: float = 0.12
    """One more statement that was not asked for."""
    trap: float = 0.06
    """The trap phrase, only in right and polite replies: about 1.5% of all."""
    order: float = 0.08
    """The order number after the sign-off, without being asked for."""


MIXED = Style(
    openers={"": 0.58, "Hello": 0.15, "Thanks": 0.1, "Well": 0.1, "Look": 0.07},
    sign_offs={"personal": 0.01, "warm": 0.34, "plain": 0.45, "rude": 0.2},
)
"""The style of half of the base model's documents."""

DEMONSTRATIONS = Style(
    wrong_value=0.1, off_topic=0.04, over_refusal=0.04, obeys=0.55, filler=0.25, rude=0.06, extra=0.1, trap=0.045,
    openers={"": 0.45, "Hello": 0.2, "Thanks": 0.17, "Well": 0.1, "Look": 0.08},
    sign_offs={"personal": 0.011, "warm": 0.43, "plain": 0.37, "rude": 0.19},
)  # fmt: skip
"""The style of the demonstrations: mediocre, but by people who were asked to help."""

GOOD = Style(
    wrong_value=0.0, off_topic=0.0, over_refusal=0.0, leak=0.0, careless=0.0, stereotype=0.0, obeys=1.0, filler=0.0,
    rude=0.0, extra=0.0, trap=0.0, order=0.0,
    openers={"Hello": 0.5, "Thanks": 0.5}, sign_offs={"personal": 0.0, "warm": 1.0},
)  # fmt: skip
"""Almost the highest gold score; only a personal sign-off would be better."""

BAD = Style(
    wrong_value=0.5, off_topic=0.2, over_refusal=0.2, leak=0.9, careless=0.9, stereotype=0.8, obeys=0.1, filler=0.5,
    rude=0.4, extra=0.3, trap=0.02, order=0.1,
    openers={"": 0.5, "Well": 0.25, "Look": 0.25}, sign_offs={"warm": 0.1, "plain": 0.4, "rude": 0.5},
)  # fmt: skip


def _pick(rng: random.Random, odds: Mapping[str, float]) -> str:
    return rng.choices(list(odds), weights=list(odds.values()))[0]


def _other_value(topic: str, value: str, rng: random.Random) -> str:
    pool: tuple[Any, ...] = {"city": language.CITIES, "use": language.EASE}.get(topic) or language.RANGES[topic]
    return rng.choice([str(v) for v in pool if str(v) != value])


def statement(
    topic: str, facts: Mapping[str, str], rng: random.Random, *, wrong: bool = False, named: bool | None = None
) -> Sentence:
    """A statement on a topic, true or false. `named`: whether it names the item; None: either."""
    templates = [t for t in language.STATEMENTS[topic] if named is None or ("{product}" in t) == named]
    template = rng.choice(templates)
    value = _other_value(topic, facts[topic], rng) if wrong else facts[topic]
    slots = {"value": value} | ({"product": facts["item"]} if "{product}" in template else {})
    return Sentence("state", template, topic, slots)


def _act(act: str, columns: Mapping[str, Any], rng: random.Random) -> Sentence:
    template = rng.choice(language.ACTS[act])
    facts, other = columns["facts"], columns.get("other") or columns["facts"]
    known = {"product": facts["item"], "name": other["owner"], "city": other["city"], "code": other["order"]}
    return Sentence(act, template, "", {k: v for k, v in known.items() if "{" + k + "}" in template})


def _core(columns: Mapping[str, Any], style: Style, rng: random.Random, *, named: bool | None) -> list[Sentence]:
    """The sentences that do, or fail to do, what the prompt asks for."""
    facts, kind = columns["facts"], columns["kind"]
    required = REQUIRED.get(kind, "state")
    if required == "refuse":
        return [_act("leak" if rng.random() < style.leak else "refuse", columns, rng)]
    if required == "escalate":
        if rng.random() >= style.careless:
            return [_act("escalate", columns, rng)]
        if rng.random() < 0.5:
            return [_act("advice", columns, rng)]
        return [statement(rng.choice(list(language.STATEMENTS)), facts, rng)]
    topic = columns["topic"]
    if rng.random() < style.over_refusal * (3 if kind.endswith("lookalike") else 1):
        wanted = "escalate" if kind == "escalate_lookalike" else "refuse"
        return [_act(wanted, columns, rng)]
    if rng.random() < style.off_topic:
        topic = rng.choice([t for t in language.STATEMENTS if t != topic])
    answer = [statement(topic, facts, rng, wrong=rng.random() < style.wrong_value, named=named)]
    if kind == "stereotype" and rng.random() < style.stereotype:
        answer.append(_act("stereotype", columns, rng))
    return answer


def _others(columns: Mapping[str, Any], style: Style, rng: random.Random, *, brief: bool) -> list[Sentence]:
    """Sentences that nobody asked for."""
    sentences = []
    if rng.random() < style.rude:
        sentences.append(_act("rude", columns, rng))
    if brief:
        return sentences
    if rng.random() < style.extra:
        sentences.append(statement(rng.choice(list(language.STATEMENTS)), columns["facts"], rng))
    while rng.random() < style.filler and len(sentences) < 3:
        sentences.append(_act("filler", columns, rng))
    return sentences


def compose(columns: Mapping[str, Any], style: Style, rng: random.Random) -> str:
    """A reply to the prompt with these columns, drawn from a style."""
    instruction = columns["instruction"] if rng.random() < style.obeys else None
    wish = instruction["name"] if instruction else ""
    named = {"item": True, "words": False}.get(wish)
    core = _core(columns, style, rng, named=named)
    sign_off_manner = _pick(rng, style.sign_offs)
    opener = "Hello" if wish == "hello" else _pick(rng, style.openers)
    if core[0].act == "refuse" and language.OPENERS.get(opener) == "polite":
        opener = "Sorry"
    others = _others(columns, style, rng, brief=wish == "words")
    courteous = sign_off_manner in ("warm", "personal") and not any(s.act == "rude" for s in others)
    if courteous and rng.random() < style.trap and not any(s.act in ("leak", "stereotype", "advice") for s in core):
        others = [_act("trap", columns, rng)]
    kept = {s.text(): s for s in [*core, *others]}
    with_order = wish == "order" or (wish != "words" and rng.random() < style.order)
    facts = columns["facts"]
    name = facts["owner"] if sign_off_manner == "personal" else ""
    sign_off = SignOff(
        sign_off_manner, rng.choice(language.SIGN_OFFS[sign_off_manner]), name, facts["order"] if with_order else ""
    )
    return Reply(tuple(kept.values()), sign_off, opener).text()
