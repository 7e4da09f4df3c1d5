"""`--reward`: what a specification means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.rewards.base import Reward
from assent.rewards.function import load_function

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_function(spec: str) -> bool:
    """Whether `spec` names `module:function`; a folder of that name comes first."""
    return _FUNCTION.fullmatch(spec) is not None and not Path(spec).is_dir()


def load_reward(spec: str, *, policy_tokenizer: PreTrainedTokenizerBase | None = None, **options: Any) -> Reward:
    """`module:function`, or a reward model's folder or hub name. `options` are those of `RewardModel`.

    ConfigError for a function that cannot be imported, ModelError for a folder that is no reward model.
    """
    if is_function(spec):
        return load_function(spec)
    from assent.rewards.reward_model import RewardModel

    return RewardModel(spec, policy_tokenizer=policy_tokenizer, **options)
