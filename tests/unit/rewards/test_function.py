"""Rewards that are Python functions: what they get, and how their faults are reported."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from assent.config.ensembles import Combination
from assent.errors import ConfigError, NonFiniteError, RunError
from assent.metrics import lookup
from assent.rewards.base import checked_reward
from assent.rewards.combined import EnsembleReward, WeightedReward
from assent.rewards.function import FunctionReward, load_function
from assent.rewards.loading import is_function, load_reward, reward_hash
from assent.types import Message, PromptGroup

PROMPTS = ["a", (Message("system", "be brief"), Message("user", "what is b?"))]


def lengths(prompts: list, completions: list[str]) -> list[int]:
    return [len(c) for c in completions]


def test_scores_come_back_in_order_as_floats() -> None:
    scores = FunctionReward(lengths, name="n").score(PROMPTS, ["xyz", "x"])
    assert scores == [3.0, 1.0]
    assert all(type(s) is float for s in scores)
    assert FunctionReward(lengths, name="n").score([], []) == []


def test_groups_go_to_functions_that_ask_for_them() -> None:
    groups = [PromptGroup(prompt="a", columns={"bonus": 2}), PromptGroup(prompt="b", columns={"bonus": 5})]

    def with_groups(prompts: list, completions: list[str], groups: list[PromptGroup]) -> list[int]:
        return [g.columns["bonus"] for g in groups]

    assert FunctionReward(with_groups, name="n").score(["a", "b"], ["x", "y"], groups=groups) == [2.0, 5.0]
    assert FunctionReward(lengths, name="n").score(["a", "b"], ["x", "y"], groups=groups) == [1.0, 1.0]


def test_a_functions_hash_is_that_of_its_source_wherever_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "written_here.py").write_text(
        "def score(prompts, completions):\n    return [1.0 for _ in completions]\n"
    )
    (tmp_path / "named_here.py").write_text("from written_here import score\n")
    hashes = [reward_hash("named_here:score"), reward_hash("written_here:score")]
    for name in ("written_here.py", "named_here.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        hashes.append(reward_hash("named_here:score"))
    assert len(set(hashes)) == 4
    assert reward_hash("builtins:zip") == reward_hash("builtins:zip")  # without a source there is but the name


def test_an_exception_names_the_completion() -> None:
    def fragile(prompts: list, completions: list[str]) -> list[float]:
        return [1.0 / len(c) for c in completions]

    with pytest.raises(RunError, match="raised ZeroDivisionError") as caught:
        FunctionReward(fragile, name="m:fragile").score(PROMPTS, ["fine", ""])
    assert "completion '' of prompt 'what is b?'" in str(caught.value)
    assert "m:fragile" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_that_is_not_finite_names_the_completion(wrong: float) -> None:
    reward = FunctionReward(lambda p, c: [wrong if x == "bad" else 0.0 for x in c], name="n")
    with pytest.raises(NonFiniteError, match=r"completion 'bad' of prompt 'what is b\?'"):
        reward.score(PROMPTS, ["fine", "bad"])


def test_a_wrong_count_names_the_completion() -> None:
    reward = FunctionReward(lambda p, c: [0.0 for x in c if x != "lost"], name="n")
    with pytest.raises(RunError, match="returned 1 scores for 2 completions") as caught:
        reward.score(PROMPTS, ["fine", "lost"])
    assert "completion 'lost'" in str(caught.value)


def test_what_is_no_number_or_no_list() -> None:
    with pytest.raises(RunError, match="not a number for completion 'x'"):
        FunctionReward(lambda p, c: ["good"] * len(c), name="n").score(["a"], ["x"])
    with pytest.raises(RunError, match="did not return a list of scores"):
        FunctionReward(lambda p, c: 3.0, name="n").score(["a"], ["x"])


def test_a_tensor_of_several_numbers_for_a_completion_is_no_number() -> None:
    with pytest.raises(RunError, match="not a number for completion 'x'"):
        FunctionReward(lambda p, c: torch.zeros(len(c), 2), name="n").score(PROMPTS, ["x", "y"])
    for answer in (torch.tensor([1.5, 2.0]), np.array([1.5, 2.0]), (x for x in (1.5, 2))):
        assert FunctionReward(lambda p, c, given=answer: given, name="n").score(PROMPTS, ["x", "y"]) == [1.5, 2.0]


def test_a_generator_that_raises_names_the_completion() -> None:
    reward = FunctionReward(lambda p, c: (1.0 / len(x) for x in c), name="n")
    with pytest.raises(RunError, match=r"raised ZeroDivisionError(?s:.)*completion '' of prompt 'what is b\?'"):
        reward.score(PROMPTS, ["fine", ""])


@pytest.mark.parametrize("answer", [{"1": 0.5, "2": 0.7}, {1.0, 2.0}, "12", b"12"], ids=["dict", "set", "str", "bytes"])
def test_an_answer_without_order_or_made_of_letters_is_no_list_of_scores(answer: object) -> None:
    with pytest.raises(RunError, match="did not return a list of scores"):
        FunctionReward(lambda p, c: answer, name="n").score(PROMPTS, ["x", "y"])


def test_steps_scored_by_a_mapping_are_refused() -> None:
    with pytest.raises(RunError, match="did not return one number for each step"):
        FunctionReward(lambda p, c: [{"1": 0.5} for _ in c], name="n", process=True).score(["a"], ["x"])


def test_functions_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards_xyz.py").write_text(
        "def score(prompts, completions):\n    return [float(len(c)) for c in completions]\n"
        "def one(prompts):\n    return []\n"
        "def turned(completions, texts, **columns):\n    return [0.0 for _ in completions]\n"
        "def second(texts, prompts):\n    return [0.0 for _ in texts]\n"
        "number = 3\n"
    )
    (tmp_path / "broken_rewards_xyz.py").write_text("import no_such_module_xyz\n")
    monkeypatch.chdir(tmp_path)
    reward = load_reward("my_rewards_xyz:score")
    assert reward.name == "my_rewards_xyz:score"
    assert reward.score(["a"], ["four"]) == [4.0]
    for spec, message in {
        "my_rewards_xyz:absent": "has no such function",
        "my_rewards_xyz:number": "cannot be called",
        "my_rewards_xyz:one": "cannot be called with prompts and completions",
        "my_rewards_xyz:turned": "its parameters are in the other order",
        "my_rewards_xyz:second": "its parameters are in the other order",
        "broken_rewards_xyz:score": "No module named 'no_such_module_xyz'",
        "absent_rewards_xyz:score": "No module named 'absent_rewards_xyz'",
        "my_rewards_xyz.py:score": "leave out .py: my_rewards_xyz:score",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_function(spec)


def test_an_async_function_is_awaited_also_where_a_loop_is_running() -> None:
    async def later(prompts: list, completions: list[str]) -> list[int]:
        await asyncio.sleep(0)
        if "bad" in completions:
            raise ValueError("no")
        return [len(c) for c in completions]

    reward = FunctionReward(later, name="later")
    assert reward.score(PROMPTS, ["xyz", "x"]) == [3.0, 1.0]

    async def in_a_notebook() -> list[float]:
        return reward.score(PROMPTS, ["xyz", "x"])

    assert asyncio.run(in_a_notebook()) == [3.0, 1.0]
    with pytest.raises(RunError, match=r"raised ValueError: no\n.*completion 'bad'"):
        reward.score(PROMPTS, ["fine", "bad"])


def test_what_an_async_function_keeps_is_good_for_all_its_calls() -> None:
    """A semaphore (or a client's connections) is bound to the event loop that it was first waited for in."""
    one_at_a_time = asyncio.Semaphore(1)

    async def one(completion: str) -> float:
        async with one_at_a_time:
            await asyncio.sleep(0)
            return float(len(completion))

    async def score(prompts: list, completions: list[str]) -> list[float]:
        return list(await asyncio.gather(*map(one, completions)))

    for _ in range(2):
        assert FunctionReward(score, name="kept").score(PROMPTS, ["xyz", "x"]) == [3.0, 1.0]
    # and so are functions that give what is to be awaited without being async themselves
    wrapped = FunctionReward(partial(score), name="wrapped")
    assert wrapped.score(PROMPTS, ["xyz", "x"]) == [3.0, 1.0]


def test_an_async_function_cannot_end_the_command() -> None:
    async def leaves(prompts: list, completions: list[str]) -> list[float]:
        raise SystemExit(0)

    for _ in range(2):
        with pytest.raises(RunError, match=r"sys.exit\(0\)"):
            FunctionReward(leaves, name="leaves").score(["a"], ["x"])


def test_what_names_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert is_function("package.module:function")
    assert not is_function("owner/name")
    assert not is_function("out/reward/model")
    assert not is_function("a:b")


def test_a_function_abstains_with_none_and_a_nan_is_still_an_error() -> None:
    reward = FunctionReward(lambda p, c: [None if x == "y" else 2 for x in c], name="n")
    scores = checked_reward(reward, PROMPTS, ["x", "y"], groups=None, may_abstain=True)
    assert (scores.given(), scores.abstained) == ([2.0, None], [False, True])
    assert math.isnan(scores[1])  # who overlooks it gets no number
    assert scores.of(1) == {"score": None}
    assert scores.metrics() == {"objective/abstained": 1.0}
    with pytest.raises(RunError, match=r"abstained for completion 'y'(?s:.)*1 of 2"):
        checked_reward(reward, PROMPTS, ["x", "y"], groups=None)


def test_a_sum_uses_the_parts_that_do_not_abstain() -> None:
    """Weights 2 and 1: both score the first, one the second, none the third."""
    one = FunctionReward(lambda p, c: [1.0, None, None], name="one")
    two = FunctionReward(lambda p, c: [5.0, 7.0, None], name="two")
    scores = WeightedReward({"one": (2.0, one), "two": (1.0, two)}, name="sum").score(["p"] * 3, ["x", "y", "z"])
    assert scores.given() == [7.0, 7.0, None]
    assert scores.parts == {"one": [1.0, None, None], "two": [5.0, 7.0, None]}
    assert scores.metrics() == {
        "rewards/one": 1.0, "rewards/one/std": 0.0, "rewards/one/abstained": 2.0,
        "rewards/two": 6.0, "rewards/two/std": 1.0, "rewards/two/abstained": 1.0,
        "objective/abstained": 1.0,
    }  # fmt: skip
    assert all(lookup(name) for name in scores.metrics())
    ensemble = EnsembleReward({"one": (1.0, one), "two": (1.0, two)}, combination=Combination("min"), name="e")
    found = ensemble.score(["p"] * 3, ["x", "y", "z"])
    assert found.given() == [1.0, 7.0, None]
    assert found.statistics == {"ensemble_std": 2.0}  # of the one that both scored


def test_a_process_reward_abstains_with_none_in_place_of_a_list() -> None:
    """Beside it an outcome: that completion is one step. None for a single step is refused."""
    process = FunctionReward(lambda p, c: [[0.5, 1.0], None], name="s", process=True)
    outcome = FunctionReward(lambda p, c: [10.0, 20.0], name="o")
    alone = checked_reward(process, PROMPTS, ["x\ny", "z"], groups=None, may_abstain=True)
    assert (alone.given(), alone.steps) == ([1.5, None], [[0.5, 1.0], []])
    both = WeightedReward({"s": (2.0, process), "o": (1.0, outcome)}, name="sum").score(PROMPTS, ["x\ny", "z"])
    assert (both.given(), both.steps) == ([13.0, 20.0], [[1.0, 2.0], []])
    with pytest.raises(RunError, match="abstained for a step of completion 'z'"):
        FunctionReward(lambda p, c: [[1.0, 1.0], [None]], name="s", process=True).score(PROMPTS, ["x\ny", "z"])
