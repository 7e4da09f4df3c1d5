"""`--reward`: what a specification means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.ensembles import Combination
from assent.rewards.base import Reward
from assent.rewards.function import load_function, source_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_function(spec: str) -> bool:
    """Whether `spec` names `module:function`; a folder of that name comes first."""
    return _FUNCTION.fullmatch(spec) is not None and not Path(spec).is_dir()


def reward_hash(spec: str) -> str:
    """SHA-256 of what scores: of a reward model's files, of the source of a function's module.

    A run is tied to it: the same path or name with other content is another reward. Errors as of `load_reward`.
    """
    if is_function(spec):
        return source_hash(spec)
    from assent.models.folders import content_hash

    return content_hash(spec)


def load_reward(
    spec: str,
    *,
    policy_tokenizer: PreTrainedTokenizerBase | None = None,
    ensemble: str | None = None,
    **options: Any,
) -> Reward:
    """`module:function`, or a reward model's folder or hub name. `options` are those of `RewardModel`.

    ensemble   how the members of an ensemble make one score (config/ensembles.py); None: their mean
    ConfigError for a function that cannot be imported, and for `ensemble` where there is none; ModelError for a folder
    that is no reward model.
    """
    if is_function(spec):
        check_reward(spec, ensemble=ensemble)
        return load_function(spec)
    from assent.rewards.reward_model import RewardModel

    combination = None if ensemble is None else Combination.parse(ensemble)
    return RewardModel(spec, policy_tokenizer=policy_tokenizer, combination=combination, **options)


def check_reward(spec: str, *, ensemble: str | None = None, revision: str | None = None) -> None:
    """What `load_reward` would refuse of a folder or of `ensemble`, without reading weights."""
    members = 1
    if not is_function(spec):
        from assent.rewards.reward_model import check_reward_model

        members = check_reward_model(spec, revision=revision)
    if ensemble is not None:
        Combination.parse(ensemble).check(members, name=spec)
