"""Logs of a deployed model of the sandbox, composed without a model: each cause of drift can be turned up alone.

The answers come from the sandbox's own writers (`assent.sandbox.replies`), the reward model is gold at the release with
noise, users and judge are raters. So a day of logs costs milliseconds, and what moved is known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from assent.data.texts import last_content
from assent.sandbox import language
from assent.sandbox.gold import gold
from assent.sandbox.labellers import feedback_probability, utility
from assent.sandbox.replies import BAD, GOOD, MIXED, compose
from assent.sandbox.settings import LogSettings, Rater
from assent.sandbox.world import TASTE, VERSION, World
from assent.types import PromptGroup

DAY_SECONDS = 86_400
REFUSALS = ("I'm sorry, but I can't help with that.", "I cannot help with that. Best wishes.")
ADDED = ("This is a very good question.", "Our team works hard every day.", "There is much to say here.")


USERS = LogSettings(feedback_rate=0.4, selection=-1.0, rater=Rater(temperature=0.08))
"""Two of five leave a thumb, annoyed ones a little more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How requests are asked, answered, scored, rated, judged and logged. The defaults are the release.

    world           what is asked; at its release users like what its taste says
    quality         shares of good, mixed and bad answers
    refusals        share of answers that refuse whatever was asked
    padding         share of answers with a sentence that says nothing
    score_noise     deviation of the reward model's score from gold at the release
    score_blind     share of scores that are those of another answer to the same prompt: the reward model cannot tell
    feedback        who leaves a thumb
    judge_strictness  the judge accepts an answer that it values above this
    logprob_scale   the server's log-probabilities beside the trainer's: 1 is the same
    """

    world: World
    quality: tuple[float, float, float] = (0.4, 0.45, 0.15)
    refusals: float = 0.02
    padding: float = 0.1
    score_noise: float = 0.1
    score_blind: float = 0.0
    feedback: LogSettings = USERS
    judge_strictness: float = 0.5
    logprob_scale: float = 1.0


NEW_TASTE = {"right": 0.1, "follows": 0.1, "courteous": 0.7, "concise": 0.1}
"""What the users like after a large move of taste: manners above all."""
MOVES = ("prompts", "taste", "reward model", "behaviour", "judge", "feedback", "serving")
"""What `moved` can move; the order in which docs/monitor.md lists them."""


def moved(traffic: Traffic, what: str, strength: float) -> Traffic:
    """The traffic with one thing moved: 0 not at all, 1 largely."""
    world = traffic.world
    if what == "prompts":
        return replace(traffic, world=replace(world, mix_time=world.time + 6.0 * strength))
    if what == "taste":
        weights = {name: (1 - strength) * TASTE[name] + strength * NEW_TASTE[name] for name in TASTE}
        rater = traffic.feedback.rater.model_copy(update={"weights": weights})
        return replace(traffic, feedback=traffic.feedback.model_copy(update={"rater": rater}))
    if what == "reward model":
        return replace(traffic, score_blind=traffic.score_blind + 0.8 * strength)
    if what == "behaviour":
        return replace(traffic, padding=traffic.padding + 0.5 * strength, refusals=traffic.refusals + 0.15 * strength)
    if what == "judge":
        return replace(traffic, judge_strictness=traffic.judge_strictness + 0.3 * strength)
    if what == "feedback":
        selection = traffic.feedback.selection - 6.0 * strength
        return replace(traffic, feedback=traffic.feedback.model_copy(update={"selection": selection}))
    if what == "serving":
        return replace(traffic, logprob_scale=traffic.logprob_scale + 0.5 * strength)
    raise ValueError(f"unknown move: {what}")


def served_rows(traffic: Traffic, *, first_day: int, days: int, rows_a_day: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of our JSONL log, day by day. `first_day`: days since 1970."""
    groups = traffic.world.prompts("rl", days * rows_a_day, seed)
    for place, group in enumerate(groups):
        rng = random.Random(f"assent-sandbox/{VERSION}/traffic/{seed}/{place}")
        day = first_day + place // rows_a_day
        row = serve(traffic, group, rng)
        yield {**row, "time": day * DAY_SECONDS + round(DAY_SECONDS * (place % rows_a_day + 0.5) / rows_a_day),
               "id": f"{seed}-{place}"}  # fmt: skip


def serve(traffic: Traffic, group: PromptGroup, rng: random.Random) -> dict[str, Any]:
    """One request, answered and logged, without time and id."""
    columns = group.columns
    text = _answer(traffic, columns, rng)
    at_release: Mapping[str, Any] = {**columns, "taste": dict(TASTE)}
    value = gold(at_release, text).total
    blind, another = rng.random() < traffic.score_blind, random.Random(rng.getrandbits(64))
    scored = gold(at_release, _answer(traffic, columns, another)).total if blind else value
    num_tokens = language.count_words(text) + 2
    row: dict[str, Any] = {
        "prompt": last_content(group.prompt),
        "completion": text,
        "score": round(scored + rng.gauss(0.0, traffic.score_noise), 4),
        "judge": int(value + 0.08 * _logistic(rng) > traffic.judge_strictness),
        "num_tokens": num_tokens,
        "logprobs": round(traffic.logprob_scale * num_tokens * (-0.3 - 0.4 * (1 - value) + rng.gauss(0.0, 0.08)), 4),
        "model": "release-1",
        "finish_reason": "stop",
    }
    asked, rated = rng.random(), _logistic(rng)
    if asked < feedback_probability(value, traffic.feedback):
        rater = traffic.feedback.rater
        row["rating"] = int(utility(rater, columns, text) + rater.temperature * rated > 0.5)
    return row


def _answer(traffic: Traffic, columns: Mapping[str, Any], rng: random.Random) -> str:
    style = rng.choices((GOOD, MIXED, BAD), weights=traffic.quality)[0]
    text, refuses, pads = compose(columns, style, rng), rng.random(), rng.random()
    if refuses < traffic.refusals:
        return rng.choice(REFUSALS)
    added = rng.choice(ADDED)
    return f"{added} {text}" if pads < traffic.padding and added.lower()[:-1] not in text.lower() else text


def _logistic(rng: random.Random) -> float:
    draw = rng.uniform(1e-12, 1 - 1e-12)
    return math.log(draw / (1 - draw))
