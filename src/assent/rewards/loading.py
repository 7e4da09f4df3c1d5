"""`--reward`: what a specification means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def load_reward(spec: str, *, policy_tokenizer: PreTrainedTokenizerBase | None = None, **options: Any) -> Reward:
    """`module:function`, or a reward model's folder or hub name. `options` are those of `RewardModel`.

    ConfigError for a function that cannot be imported, ModelError for a folder that is no reward model.
    """
    if is_function(spec):
        return load_function(spec)
    from assent.rewards.reward_model import RewardModel

    return RewardModel(spec, policy_tokenizer=policy_tokenizer, **options)
