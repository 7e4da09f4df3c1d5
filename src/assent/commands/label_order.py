"""Which items people judge first: those that a reward ensemble disagrees on, or those with the smallest margin."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from assent.config.label import LabelConfig
from assent.data.texts import counted, last_content
from assent.engine.runtime import Runtime
from assent.errors import ConfigError
from assent.feedback.store.items import set_order
from assent.feedback.store.reading import Item, read_items
from assent.feedback.store.schema import queue
from assent.rewards.loading import load_reward
from assent.rewards.reward_model import RewardModel
from assent.types import PromptGroup

if TYPE_CHECKING:
    from assent.feedback.store.database import Database


def order_items(config: LabelConfig, database: Database) -> str:
    """Puts the items that still need reviews in order, the most informative first, and says so in a line."""
    assert config.reward is not None
    with database.reading() as connection:
        numbers = connection.scalars(sa.select(queue.c.item_id).where(sa.text("queue.remaining > 0"))).all()
        items = list(read_items(connection, numbers).values())
    if config.order == "margin" and any(len(item.completions) < 2 for item in items):
        raise ConfigError("order margin needs two answers to each item", fix="order disagreement, or another --task")
    if items:
        informative = informativeness(items, _scores(config, items))
        best_first = np.argsort(-informative, kind="stable")
        set_order(database, ((items[place].id, rank / len(items)) for rank, place in enumerate(best_first.tolist())))
    return f"{counted(len(items), 'item')} in the order of {config.order}, by {config.reward}"


def _scores(config: LabelConfig, items: Sequence[Item]) -> np.ndarray:
    """(S, M) the score of each completion, item after item, by each head of the ensemble; M = 1 for a margin."""
    assert config.reward is not None
    groups = [PromptGroup(prompt=item.prompt, completions=(text,)) for item in items for text in item.completions]
    prompts, texts = [group.prompt for group in groups], [last_content(group.completions[0]) for group in groups]
    device = Runtime.of(config).device
    if config.order == "disagreement":
        model = RewardModel(config.reward, device=device, dtype=config.dtype)
        if model.heads < 2:
            raise ConfigError(
                "order disagreement needs an ensemble of reward models", got=f"{config.reward}: one head",
                fix="train it with --num-heads, or give --order margin",
            )  # fmt: skip
        return np.asarray(model.score_members(prompts, texts, groups=groups).double())
    # a margin's size does not depend on beta, only its unit does
    is_implicit = config.reward.startswith("implicit:")
    spec = [{"reward": config.reward, "beta": 1.0}] if is_implicit else config.reward
    reward = load_reward(spec, device=device, dtype=config.dtype)  # type: ignore[arg-type]
    scores = reward.score(prompts, texts, groups=groups)
    return np.asarray(scores, dtype=np.float64)[:, None]


def informativeness(items: Sequence[Item], scores: np.ndarray) -> np.ndarray:
    """(len(items),) higher is better.

    With several heads: the deviation between heads of the difference of two scores, averaged over an item's pairs; of a
    single answer the deviation of its score. With one: minus the smallest difference of two scores.
    """
    found, start = [], 0
    for item in items:
        own = scores[start : start + len(item.completions)]
        start += len(own)
        differences = np.array([a - b for a, b in itertools.combinations(own, 2)] or own)
        if scores.shape[1] > 1:
            found.append(float(differences.std(axis=1).mean()))
        else:
            found.append(-float(np.abs(differences).min()))
    return np.array(found)
