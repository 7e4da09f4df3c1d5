"""Every registered algorithm: what is declared is implemented, and what an algorithm does not read is refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from assent.config import algorithms as declared
from assent.config.algorithms import ALGORITHMS, GOVERNED
from assent.config.loading import parse_options
from assent.config.online import A2cConfig, GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.errors import ConfigError
from assent.objectives.advantages import ADVANTAGES
from assent.objectives.policy import POLICY_OBJECTIVES
from assent.objectives.value import VALUE_OBJECTIVES
from tests.support.docs import ROOT

GIVEN = {"model": "m", "data": "d", "reward": "r", "output_dir": "o"}
COMMANDS: dict[str, type[OnlineOptions]] = {c.command: c for c in (PpoConfig, A2cConfig, GrpoConfig, RlooConfig)}


@pytest.mark.parametrize(
    ("parts", "functions", "tensors"),
    [
        (declared.ADVANTAGES, ADVANTAGES, 1),
        (declared.POLICY_OBJECTIVES, POLICY_OBJECTIVES, 4),
        (declared.VALUE_OBJECTIVES, VALUE_OBJECTIVES, 4),
    ],
)
def test_declared_parts_are_the_implemented_ones(parts: Any, functions: Any, tensors: int) -> None:
    assert set(parts) == set(functions)
    for name, part in parts.items():
        assert set(list(inspect.signature(functions[name]).parameters)[tensors:]) == set(part.options), name


def test_every_algorithm_is_a_command_or_an_algorithm_of_one() -> None:
    assert set(COMMANDS) == set(ALGORITHMS) - {"reinforce++"}
    for command, config_class in COMMANDS.items():
        fields = set(config_class.model_fields)
        if command != "ppo":  # ppo's options make other algorithms too
            assert fields & GOVERNED == ALGORITHMS[command].reads
        assert fields >= ALGORITHMS[command].reads
        assert parse_options(config_class, GIVEN).triple.name == command


def test_one_commands_other_algorithms_refuse_what_they_do_not_read() -> None:
    for name, idle in [
        ("reinforce++", {"lam": 0.9}),
        ("reinforce++", {"cliprange_value": 0.1}),
        ("reinforce++", {"critic": "c"}),
        ("a2c", {"num_ppo_epochs": 2}),
        ("a2c", {"cliprange": 0.1}),
    ]:
        assert parse_options(PpoConfig, {**GIVEN, "algorithm": name})
        with pytest.raises(ConfigError, match=f"{next(iter(idle))} has no effect with algorithm") as caught:
            parse_options(PpoConfig, {**GIVEN, "algorithm": name, **idle})
        assert name in caught.value.what
    with pytest.raises(ConfigError, match=r"does not have: loss_type, scale_rewards\. Use assent grpo"):
        parse_options(PpoConfig, {**GIVEN, "algorithm": "grpo"})
    with pytest.raises(ConfigError, match=r"did you mean reinforce\+\+"):
        parse_options(PpoConfig, {**GIVEN, "algorithm": "reinforce"})


def test_run_json_keeps_only_what_applies() -> None:
    kept = parse_options(PpoConfig, {**GIVEN, "algorithm": "reinforce++"}).model_dump()
    assert {"gamma", "cliprange", "algorithm"} <= set(kept)
    assert not {"lam", "critic", "critic_warmup_steps", "cliprange_value", "whiten_advantages"} & set(kept)
    assert parse_options(PpoConfig, {**GIVEN, "algorithm": "a2c"}).passes == (1, 1)
    assert parse_options(PpoConfig, {**GIVEN, "num_mini_batches": 2}).passes == (4, 2)


def test_the_page_of_rlhf_says_what_is_declared() -> None:
    page = (ROOT / "docs" / "rlhf.md").read_text(encoding="utf-8")
    for algorithm in ALGORITHMS.values():
        value = declared.VALUE_OBJECTIVES[algorithm.value].summary if algorithm.value else "no critic"
        parts = [declared.ADVANTAGES[algorithm.advantage], declared.POLICY_OBJECTIVES[algorithm.policy]]
        cells = [f"`{algorithm.name}`", *(part.summary for part in parts), value, algorithm.paper]
        assert f"| {' | '.join(cells)} |" in page
        assert f"| `{algorithm.name}` | {algorithm.optimum} |" in page


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("grpo", {"num_completions": 1}, "num_completions of at least 2"),
        ("rloo", {"num_completions": 1}, "num_completions of at least 2"),
        ("ppo", {"algorithm": "rloo", "num_completions": 1}, "num_completions of at least 2"),
        ("ppo", {"cliprange": 0, "cliprange_high": 0.3}, "no effect with cliprange 0"),
        ("ppo", {"cliprange": 0, "dual_clip": 3}, "no effect with cliprange 0"),
        ("grpo", {"target_kl": 0.1}, "target_kl has no effect with one update"),
        ("ppo", {"bootstrap_truncated": True, "missing_eos_penalty": 1}, "choose one"),
        ("ppo", {"kl_coef": 0, "kl_penalty": "k2"}, "kl_penalty has no effect with kl_coef 0"),
        ("ppo", {"algorithm": "reinforce++", "scale_scores": True, "kl_penalty": "k2"}, "scale_scores has no effect"),
        ("ppo", {"algorithm": "reinforce++", "scale_scores": True, "kl_coef": 0}, "scale_scores has no effect"),
        ("ppo", {"num_mini_batches": 3}, "must divide batch_size"),
        ("ppo", {"critic_warmup_steps": 50}, "must be below total_steps"),
        ("a2c", {"kl_horizon": 10}, "no effect without kl_target"),
    ],
)
def test_combinations_that_ignore_an_option_are_refused(command: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(COMMANDS[command], {**GIVEN, **options})
