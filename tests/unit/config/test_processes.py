"""Options of several processes: what would have no effect, or cannot be, is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from assent.config.loading import parse_options
from assent.config.online import PpoConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.stages import PreferenceConfig, RewardConfig
from assent.engine.runtime import Runtime
from assent.errors import AssentError, ConfigError

COMMON: dict[str, Any] = {"model": "m", "data": "d", "output_dir": "o"}


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (PreferenceConfig, {"sharding": "shards"}, "shard"),
        (PpoConfig, {"sharding": "shard", "trunk": "one", "lora_r": 4, "reward": "repetition"}, "trunk one"),
        (RewardConfig, {"sharding": "shard", "num_adapters": 2, "lora_r": 4}, "num_adapters"),
        (PpoConfig, {"reward": "models/rm", "reward_processes": "each"}, "reward_processes has no effect"),
        (OnlineDpoConfig, {"reward": "models/rm", "reward_processes": "each"}, "reward_processes has no effect"),
    ],
)
def test_what_cannot_be_is_refused(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(AssentError, match=said):
        parse_options(kind, {**COMMON, **options})


def test_functions_may_be_asked_by_each_process() -> None:
    config = parse_options(PpoConfig, {**COMMON, "reward": "my.module:score", "reward_processes": "each"})
    assert config.reward_processes == "each"


def test_one_process_has_nothing_to_shard() -> None:
    config = parse_options(PreferenceConfig, {**COMMON, "sharding": "shard"})
    with pytest.raises(ConfigError, match="only one process"):
        Runtime.of(config)
