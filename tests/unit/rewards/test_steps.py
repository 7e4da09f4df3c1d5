"""Rewards of steps: where steps end, what a process model and a function say of them, and where it is placed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.online import A2cConfig, GrpoConfig, PpoConfig
from assent.errors import RunError
from assent.models.loading import load_scorer, load_tokenizer
from assent.models.saving import save_model
from assent.models.templates import resolve_template
from assent.models.tokenizing import decode
from assent.objectives.advantages import group_step_advantages
from assent.rewards.base import Scores
from assent.rewards.function import FunctionReward
from assent.rewards.loading import load_reward
from assent.rewards.reward_model import RewardModel
from assent.rewards.steps import step_ends, steps_of
from assent.stages.rollout_step import build_round
from assent.types import Rollout
from tests.support.models import tiny_model
from tests.support.rounds import GIVEN, REFERENCE, ROLLOUTS, SINGLE, Fixed, field
from tests.support.tokenizers import byte_bpe

TEXT = "Where is my order?\n\nIt ships on Monday,\nand it arrives. \n"


def test_steps_are_the_lines_in_which_there_is_something() -> None:
    assert steps_of(TEXT) == ["Where is my order?", "It ships on Monday,", "and it arrives. "]
    assert steps_of("a") == ["a"]
    assert steps_of("") == steps_of("\n \n") == [""]


@pytest.mark.parametrize("text", [TEXT, "a", "", "\n\nä\nb", "a\n \nb", "a\u3000\n\u3000\nb\n"])
def test_a_step_ends_with_the_token_of_its_line_break_and_the_last_with_the_completion(text: str) -> None:
    tokenizer = byte_bpe()
    ids = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

    def say(some: Any) -> str:
        return decode(some, tokenizer)

    ends = step_ends(ids, text, say)
    assert len(ends) == len(steps_of(text))
    assert ends[-1] == len(ids) - 1
    for number, end in enumerate(ends[:-1], start=1):
        before, through = say(ids[:end]), say(ids[: end + 1])
        assert [line for line in through.split("\n") if line.strip()] == steps_of(text)[:number]
        assert through.rstrip().count("\n") == before.rstrip().count("\n") < through.count("\n")


def test_two_steps_may_end_in_one_token() -> None:
    pieces = ["a", "\nb\n", "c"]
    assert step_ends((0, 1, 2), "a\nb\nc", lambda ids: "".join(pieces[i] for i in ids)) == (1, 1, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, vocab_size in {"policy": 300, "other": 290}.items():
        tiny_model(root / name, texts=[TEXT] * 9, vocab_size=vocab_size)
    for name, start, labels in (("prm", "policy", 1), ("other_prm", "other", 1)):
        save_model(root / name, load_scorer(root / start, num_labels=labels, seed=3), load_tokenizer(root / start))
    return {path.name: path for path in root.iterdir()}


def sampled(folder: Path, text: str, *, cut: bool = False) -> Rollout:
    tokenizer = load_tokenizer(folder)
    start = tuple(tokenizer.encode("q: "))
    ids = tokenizer.encode(text, add_special_tokens=False) + ([] if cut else [resolve_template(tokenizer).eos_id])
    return Rollout(
        prompt_ids=start, ids=tuple(ids), logprobs=(0.0,) * len(ids), finish_reason="length" if cut else "stop",
        text=text, prompt_index=0, completion_index=0, policy_version="v",
    )  # fmt: skip


@torch.no_grad()
def plain_scores(folder: Path, rollout: Rollout) -> list[float]:
    """transformers' own classifier at the step's last tokens: the row, cut there, for it reads the last token."""
    tokenizer = load_tokenizer(folder)
    ends = step_ends(rollout.ids, rollout.text, lambda ids: decode(ids, tokenizer))
    model = load_scorer(folder)
    rows = [rollout.prompt_ids + rollout.ids[: end + 1] for end in ends]
    return [float(model(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows]


def test_a_process_model_scores_each_step_at_its_last_token(folders: dict[str, Path]) -> None:
    texts = ["Where is my order?\nIt ships\nMonday", "and"]
    reward = RewardModel(str(folders["prm"]), policy_tokenizer=load_tokenizer(folders["policy"]), process=True)
    for cut in (False, True):
        rollouts = [sampled(folders["policy"], text, cut=cut) for text in texts]
        expected = [plain_scores(folders["prm"], rollout) for rollout in rollouts]
        found = reward.score(["q: "] * 2, texts, rollouts=rollouts)
        assert found.steps is not None
        assert [len(steps) for steps in found.steps] == [3, 1]
        for steps, theirs in zip(found.steps, expected, strict=True):
            np.testing.assert_allclose(steps, theirs, atol=1e-5)
        np.testing.assert_allclose(found, [sum(steps) for steps in expected], atol=1e-5)
        foreign = RewardModel(
            str(folders["other_prm"]), policy_tokenizer=load_tokenizer(folders["policy"]), process=True
        )
        by_text = foreign.score(["q: "] * 2, texts, rollouts=rollouts)
        own = [plain_scores(folders["other_prm"], sampled(folders["other"], text, cut=cut)) for text in texts]
        assert by_text.steps is not None
        for steps, theirs in zip(by_text.steps, own, strict=True):
            np.testing.assert_allclose(steps, theirs, atol=1e-5)


def test_a_function_gives_a_number_for_each_step_and_its_faults_are_named() -> None:
    def of_steps(prompts: list, completions: list[str], steps: list[list[str]]) -> list[list[float]]:
        return [[float(len(step)) for step in some] for some in steps]

    found = FunctionReward(of_steps, name="n", process=True).score(["a", "b"], ["xy\n\nz", ""])
    assert isinstance(found, Scores)
    assert found.steps == [[2.0, 1.0], [0.0]]
    assert found == [3.0, 0.0]
    lazy = FunctionReward(lambda p, c: [(1.0 for _ in text.split()) for text in c], name="n", process=True)
    assert lazy.score(["a"], ["x\ny"]) == [2.0]
    for wrong, message in (
        ([1.0], "2 numbers"),
        (1.0, "2 numbers"),
        ([1.0, "x"], "not a number for"),
        ([1.0, float("nan")], "returned nan"),
    ):
        reward = FunctionReward(
            lambda p, c, bad=wrong: [bad if "\n" in text else [0.0] for text in c], name="n", process=True
        )
        with pytest.raises(RunError, match=rf"(?s){message}") as caught:
            reward.score(["a", "b"], ["fine", "x\ny"])
        assert "of prompt 'b'" in str(caught.value)
    with pytest.raises(RunError, match="list for each completion"):
        FunctionReward(lambda p, c: [[0.0]], name="n", process=True).score(["a", "b"], ["x", "y"])


def test_process_and_outcome_add_up() -> None:
    def of_steps(prompts: list, completions: list[str], steps: list[list[str]]) -> list[list[float]]:
        return [[1.0 for _ in some] for some in steps]

    from assent.rewards.combined import WeightedReward

    steps = FunctionReward(of_steps, name="s", process=True)
    outcome = FunctionReward(lambda p, c: [10.0 for _ in c], name="o")
    found = WeightedReward({"s": (0.5, steps), "o": (1.0, outcome)}, name="sum").score(["a"], ["x\ny"])
    assert (found, found.steps, found.parts) == ([11.0], [[0.5, 0.5]], {"s": [2.0], "o": [10.0]})


def returns(config: Any, **more: Any) -> list[float]:
    """Scores 2 and 1, of which the first's steps have 0.5 at its first token and 1 at its last."""
    scores = Scores([2.0, 1.0], steps=[[0.5, 1.0], [0.25]])
    fixed: Any = {
        "reference": Fixed(logprobs=REFERENCE),
        "critic": Fixed(values=[0.1, 0.2, 0.3], last_values=[5.0, 0.6]),
    }
    batch = build_round(config, ROLLOUTS, scores, kl_coef=0.0, step_ends=[(0, 1), (0,)], **fixed, **more)
    return field(batch, "returns")


def test_a_steps_reward_counts_up_to_where_it_stands_and_the_rest_of_the_score_at_the_end() -> None:
    """gamma 0.5: the first token gets 0.5 + 0.5 · 1.5, the last 1 + (2 - 1.5); the cut one 1 less 0.4."""
    options = {"kl_coef": 0.0, "gamma": 0.5, "lam": 1.0, "whiten_advantages": False}
    assert returns(PpoConfig(**SINGLE, **options, missing_eos_penalty=0.4)) == pytest.approx([1.25, 1.5, 0.6])
    scaled = returns(PpoConfig(**SINGLE, **options, scale_scores=True))  # scores 2 and 1: deviation 0.5
    assert scaled == pytest.approx([2.5, 3.0, 2.0], rel=1e-6)


def test_the_last_step_of_a_cut_completion_was_not_seen_to_its_end() -> None:
    rewards = returns(A2cConfig(**GIVEN, kl_coef=0.0, bootstrap_truncated=True, gamma=1.0))
    assert rewards == pytest.approx([0.5 + 0.2, 1.5, 0.6])  # the cut one: V of its last state alone


def test_grpo_normalises_over_all_steps_of_a_group_and_adds_up_what_comes() -> None:
    """Steps 1, 3 and 2 of one prompt: mean 2, deviation 1. Token t gets what ends at t or later."""
    rewards = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0], [4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    ends = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]).bool()
    prompt = torch.tensor([0, 0, 1, 1])
    found = group_step_advantages(rewards, ends, prompt)
    one = 1 / 1.0001
    expected = [[0.0, one, one], [0.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    scores = Scores([4.0, 2.0], steps=[[1.0, 3.0], [2.0]])
    reference: Any = Fixed(logprobs=REFERENCE)
    config = GrpoConfig(**GIVEN, num_completions=2, scale_rewards="none")
    batch = build_round(
        config, ROLLOUTS, scores, reference=reference, critic=None, kl_coef=0.0, step_ends=[(0, 1), (0,)]
    )
    assert field(batch, "advantages") == pytest.approx([-1.0 + 1.0, 1.0, 0.0])


def test_a_process_model_is_opened_as_one_where_it_is_said_to_be(folders: dict[str, Path]) -> None:
    from assent.config.rewards import read_sources

    found = load_reward(read_sources({"reward": str(folders["prm"]), "supervision": "process"})).score(
        ["q: "], ["a\nb"]
    )
    assert isinstance(found, Scores)
    assert found.steps is not None
    assert len(found.steps[0]) == 2
