"""What each method may do with its share: worked out by hand for each budget."""

from __future__ import annotations

from typing import Any

import pytest

from assent.commands.allotment import Part, Rates, allot
from assent.config.compare import CompareConfig, parts_of
from assent.config.loading import parse_options
from assent.errors import ConfigError

ALL = ["sft", "dpo", "ppo", "best-of-n", "sft+dpo", "sft+ppo"]
RATES = Rates(
    demonstrations=500,
    comparisons=1000,
    served=20,
    completions_per_round={"ppo": 32},
    rows_per_step={"sft": 8, "dpo": 8, "reward": 100},
    flops={"sft": (0, 10), "dpo": (5, 20), "reward": (0, 15), "ppo": (10, 60), "best-of-n": (0, 0.5)},
)


def config(**given: Any) -> CompareConfig:
    needed = {"model": "m", "data": "d", "judge": "a:b", "test_data": "t", "output_dir": "o", "amounts": [100]}
    return parse_options(CompareConfig, {**needed, "methods": ALL, **given})


def allotted(made: CompareConfig, method: str, amount: float) -> list[Part]:
    return allot(made, method, amount, RATES)


def test_the_parts_of_a_method() -> None:
    assert parts_of("dpo") == ("dpo",)
    assert parts_of("sft+ppo") == ("sft", "reward", "ppo")
    assert parts_of("best-of-n") == ("reward", "best-of-n")
    assert parts_of("sft+dpo+best-of-n") == ("sft", "dpo", "reward", "best-of-n")
    for name in ("kto", "dpo+sft", "sft+sft", "", "ppo+dpo", "sft+dpo+dpo"):
        with pytest.raises(ConfigError, match="unknown method"):
            parts_of(name)


def test_equal_labels_are_rows_at_their_price() -> None:
    plain = config(budget="labels", comparison_cost=2, n=8)
    assert allotted(plain, "dpo", 100) == [Part(command="dpo", comparisons=50)]
    assert allotted(plain, "sft+dpo", 100) == [
        Part(command="sft", comparisons=50),  # the same rows, paid for once
        Part(command="dpo", comparisons=50),
    ]
    assert allotted(plain, "best-of-n", 100) == [Part(command="reward", comparisons=50), Part(command="best-of-n", n=8)]
    priced = config(budget="labels", demonstrations="f", demonstration_cost=5, comparison_cost=1)
    assert allotted(priced, "sft", 100) == [Part(command="sft", demonstrations=20)]
    assert allotted(priced, "dpo", 100) == [Part(command="dpo", comparisons=100)]
    assert allotted(priced, "sft+ppo", 100) == [
        Part(command="sft", demonstrations=10),
        Part(command="reward", comparisons=50),
        Part(command="ppo"),
    ]


def test_equal_completions_are_those_compared_and_those_sampled() -> None:
    made = config(budget="completions")
    assert allotted(made, "dpo", 640) == [Part(command="dpo", comparisons=320)]
    assert allotted(made, "ppo", 640) == [Part(command="reward", comparisons=160), Part(command="ppo", steps=10)]
    assert allotted(made, "best-of-n", 640) == [
        Part(command="reward", comparisons=160),
        Part(command="best-of-n", n=16),
    ]
    written = config(budget="completions", demonstrations="f")
    assert allotted(written, "sft", 640) == [Part(command="sft", demonstrations=500)]  # written, not sampled


def test_equal_flops_are_shared_among_the_commands() -> None:
    made = config(budget="flops")
    assert allotted(made, "dpo", 600) == [Part(command="dpo", comparisons=232, steps=29)]  # 5 + 29 · 20
    assert allotted(made, "sft+ppo", 600) == [
        Part(command="sft", comparisons=160, steps=20),
        Part(command="reward", comparisons=1000, steps=13),  # more than an epoch
        Part(command="ppo", steps=3),  # 10 + 3 · 60
    ]
    assert allotted(made, "best-of-n", 600)[1] == Part(command="best-of-n", n=30)


@pytest.mark.parametrize(
    ("given", "method", "amount", "message"),
    [
        ({"budget": "labels"}, "dpo", 1001, "more comparisons than the data has for dpo"),
        ({"budget": "labels", "demonstrations": "f"}, "sft", 501, "more demonstrations than the data has"),
        ({"budget": "labels", "comparison_cost": 3}, "dpo", 2, "too few for dpo"),
        ({"budget": "completions"}, "ppo", 60, "too few for ppo"),
        ({"budget": "completions"}, "best-of-n", 60, "too few for best-of-n"),
        ({"budget": "flops"}, "ppo", 100, "too few for ppo"),
    ],
)
def test_amounts_that_cannot_be(given: dict[str, Any], method: str, amount: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allotted(config(**given), method, amount)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "sft,kto"}, "unknown method"),
        ({"methods": "dpo,dpo"}, "listed twice"),
        ({"amounts": [5, 3]}, "ascend"),
        ({"options": {"reward": {}}, "methods": "dpo"}, "options of reward have no effect"),
        ({"options": {"dpo": {"max_steps": 3}}}, "the comparison itself sets max_steps"),
        ({"options": {"dpo": "{beta"}}, "not valid JSON"),
        ({"methods": "dpo", "demonstrations": "f"}, "demonstrations has no effect"),
        ({"demonstration_cost": 2}, "demonstration_cost has no effect"),
        ({"methods": "dpo", "n": 4}, "n has no effect"),
        ({"served": 4}, "served has no effect"),
        ({"budget": "flops", "n": 4}, "n has no effect"),
        ({"methods": "dpo", "prompts": "p"}, "prompts has no effect"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**{"budget": "labels", **given})


def test_lists_may_stand_between_commas() -> None:
    made = config(budget="labels", methods="sft, dpo", amounts="10,20", options={"dpo": '{"beta": 0.3}'})
    assert (made.methods, made.amounts, made.options) == (["sft", "dpo"], [10.0, 20.0], {"dpo": {"beta": 0.3}})
