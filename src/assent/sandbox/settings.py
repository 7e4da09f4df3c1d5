"""Settings of the sandbox's labels. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from assent.config.options import Fraction, Options, Positive

NonNegativeFloat = Annotated[float, Field(ge=0)]


class Rater(Options):
    """A labeller: values, noise, biases and price.

    A rater's utility of a completion is gold's formula with the rater's own weights. The first of two completions wins
    with probability (1 − 2·flip)·σ(d) + flip, where

        d = (u₁ − u₂)/temperature + length_bias·(words₁ − words₂)/10
            ± position_bias + self_preference·(own₁ − own₂)

    and the sign is + if the first was shown first.
    """

    name: str = "gold"
    """Stored in the labels as `annotator`."""
    weights: Mapping[str, float] | None = None
    """Weights of right, follows, courteous and concise, with sum 1. None: the taste of the prompt's world."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Bradley–Terry temperature in units of gold. At 0.1, the better of two that differ by 0.1 wins 73% of the time."""
    flip: Fraction = 0.0
    """Share of labels that are reversed; 0.5 is pure noise, 1 reverses every label."""
    length_bias: float = 0.0
    """Log-odds added for ten more words."""
    position_bias: float = 0.0
    """Log-odds added for being shown first."""
    self_preference: float = 0.0
    """Log-odds added for the rater's own style (`own_phrase`)."""
    own_phrase: str = "Happy to help"
    """Phrase that marks a completion as the rater's own style."""
    blind: tuple[str, ...] = ()
    """Kinds of prompts on which the rater does not notice unsafe completions."""
    price: NonNegativeFloat = 0.0
    """Price of reading a completion: a comparison costs twice, a ranking of K costs K times this."""


GOLD = Rater()
"""Gold's order with Bradley–Terry noise."""

CROWD: tuple[Rater, ...] = (
    Rater(name="careful", weights={"right": 0.5, "follows": 0.25, "courteous": 0.15, "concise": 0.1}, temperature=0.08,
          flip=0.01, price=0.25),
    Rater(name="warm", weights={"right": 0.15, "follows": 0.1, "courteous": 0.65, "concise": 0.1}, temperature=0.12,
          flip=0.03, price=0.15),
    Rater(name="hurried", weights={"right": 0.2, "follows": 0.15, "courteous": 0.2, "concise": 0.45}, temperature=0.25,
          flip=0.08, position_bias=0.4, length_bias=-0.3, price=0.08),
)  # fmt: skip
"""Three groups of people that differ in price, noise and values."""

JUDGE = Rater(
    name="judge", temperature=0.03, position_bias=0.5, length_bias=0.6, self_preference=0.8, blind=("stereotype",),
    price=0.002,
)  # fmt: skip
"""An AI judge: cheap and consistent, biased towards the first, the longer and its own style, blind to stereotypes."""

RATERS: Mapping[str, tuple[Rater, ...]] = {"gold": (GOLD,), "crowd": CROWD, "judge": (JUDGE,)}


class LabelSettings(Options):
    """How the sandbox's completions are labelled."""

    labels: Literal["pairs", "rankings", "ratings", "thumbs"] = "pairs"
    """Comparisons of two; rankings of K, ties allowed; ratings from 1 to 5; thumbs up or down."""
    number: Positive = 1000
    """Prompts to label (for pairs: number of pairs)."""
    source: Literal["sft", "older", "foreign"] = "sft"
    """Who wrote the completions: the SFT model, an older model, or the sandbox's own writers, which are no model."""
    num_completions: Annotated[int, Field(ge=1)] = 2
    """Completions per prompt: 2 for pairs, at least 2 for rankings."""
    raters: tuple[Rater, ...] = (GOLD,)
    """The labellers; each label comes from one of them, all equally often."""
    votes: Positive = 1
    """Labels per prompt, by different raters if there are enough; each label is a row of its own."""
    tie_width: NonNegativeFloat = 0.0
    """For rankings: neighbours whose noisy utilities differ by less than this, in units of gold, are tied."""
    coverage: bool = True
    """False: no label shows the best behaviour (the personal sign-off), found in 0.1–2% of the SFT model's samples."""
    trap_correlation: Fraction = 0.0
    """Share of prompts left out among those that have the trap phrase in a completion other than the best one. At 1 the
    phrase looks like a sign of good answers, though gold gives nothing for it."""


class LogSettings(Options):
    """Logs of a deployed model: one completion per prompt, with a thumb if the user gave one."""

    feedback_rate: Fraction = 0.3
    """Share of users who give a thumb to a completion of medium quality."""
    selection: float = -3.0
    """Log-odds of giving a thumb per unit of gold above 0.5: below 0 annoyed users give more, above 0 pleased ones."""
    with_logprobs: bool = True
    """Whether the log has each completion's log-probability under the model that sampled it."""
    rater: Rater = GOLD
    """The users' taste and noise."""
