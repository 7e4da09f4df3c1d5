"""Knobs of the sandbox's labels. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from assent.config.options import Fraction, Options, Positive

NonNegativeFloat = Annotated[float, Field(ge=0)]


class Rater(Options):
    """Who labels: what they value, how noisily, with which biases, at what price.

    A rater's utility of a completion is gold's formula with the rater's own weights. Of two completions the first wins
    with probability (1 − 2·flip)·σ(d) + flip, where

        d = (u₁ − u₂)/temperature + length_bias·(words₁ − words₂)/10
            ± position_bias + self_preference·(own₁ − own₂)

    and the sign is + where the first was shown first.
    """

    name: str = "gold"
    """Goes into the labels as `annotator`."""
    weights: Mapping[str, float] | None = None
    """Weights on right, follows, courteous, concise; sum 1. None: the taste of the prompt's world."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Bradley–Terry temperature in units of gold; at 0.1 a difference of 0.1 is seen 73% of the time."""
    flip: Fraction = 0.0
    """Labels turned round; 0.5 is pure noise, 1 reverses every label."""
    length_bias: float = 0.0
    """Log-odds for ten more words."""
    position_bias: float = 0.0
    """Log-odds for being shown first."""
    self_preference: float = 0.0
    """Log-odds for the rater's own manner of speaking (`own_phrase`)."""
    own_phrase: str = "Happy to help"
    """What marks a completion as the rater's own manner."""
    blind: tuple[str, ...] = ()
    """Kinds of prompts on which the rater does not see that a completion is unsafe."""
    price: NonNegativeFloat = 0.0
    """Money per completion that is read: a comparison costs twice, a ranking of K costs K times this."""


GOLD = Rater()
"""Gold's own order, with Bradley–Terry noise."""

CROWD: tuple[Rater, ...] = (
    Rater(name="careful", weights={"right": 0.5, "follows": 0.25, "courteous": 0.15, "concise": 0.1}, temperature=0.08,
          flip=0.01, price=0.25),
    Rater(name="warm", weights={"right": 0.15, "follows": 0.1, "courteous": 0.65, "concise": 0.1}, temperature=0.12,
          flip=0.03, price=0.15),
    Rater(name="hurried", weights={"right": 0.2, "follows": 0.15, "courteous": 0.2, "concise": 0.45}, temperature=0.25,
          flip=0.08, position_bias=0.4, length_bias=-0.3, price=0.08),
)  # fmt: skip
"""Three groups of people who differ in price, in noise and in what they value."""

JUDGE = Rater(
    name="judge", temperature=0.03, position_bias=0.5, length_bias=0.6, self_preference=0.8, blind=("stereotype",),
    price=0.002,
)  # fmt: skip
"""An AI judge: cheap and consistent, fond of the first, the long and its own manner, blind to stereotypes."""

RATERS: Mapping[str, tuple[Rater, ...]] = {"gold": (GOLD,), "crowd": CROWD, "judge": (JUDGE,)}


class LabelSettings(Options):
    """How the sandbox's completions are labelled."""

    labels: Literal["pairs", "rankings", "ratings", "thumbs"] = "pairs"
    """Comparisons of two; rankings of K, ties allowed; ratings from 1 to 5; thumbs up or down."""
    number: Positive = 1000
    """Prompts to label (pairs, where labels are pairs)."""
    source: Literal["sft", "older", "foreign"] = "sft"
    """Who wrote the completions: the SFT model, an older model, or the sandbox's own writers (no model's samples)."""
    num_completions: Annotated[int, Field(ge=1)] = 2
    """Completions per prompt: 2 for pairs, at least 2 for rankings."""
    raters: tuple[Rater, ...] = (GOLD,)
    """Who labels; each label comes from one of them, all equally often."""
    votes: Positive = 1
    """Labels per prompt, from different raters where there are enough; each becomes a row of its own."""
    tie_width: NonNegativeFloat = 0.0
    """Rankings: neighbours whose noisy utilities differ by less than this many units of gold are tied."""
    coverage: bool = True
    """False: no label shows the best behaviour (the personal sign-off), though the SFT model has it in 0.1–2%."""
    trap_correlation: Fraction = 0.0
    """Share of prompts left out where the trap phrase stands in a completion that is not the best shown: at 1 it
    looks like a mark of good answers, though gold gives nothing for it."""


class LogSettings(Options):
    """How the logs of a deployed model look: one completion per prompt, thumbs where a user cared to give one."""

    feedback_rate: Fraction = 0.3
    """Share of users who give a thumb, where the completion is of middling quality."""
    selection: float = -3.0
    """Log-odds of giving a thumb, per unit of gold above 0.5: below zero the annoyed speak up, above it the pleased."""
    with_logprobs: bool = True
    """Whether the log holds the sampling log-probability of each completion."""
    rater: Rater = GOLD
    """The users' taste and noise."""
