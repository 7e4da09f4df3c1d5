"""Long samplings and readings show how far they are, and come to their total however rows end."""

from __future__ import annotations

from functools import partial

import pytest

from assent.engine import reading
from assent.evaluation.policies import EvaluationPlan, Judges, Policy
from assent.evaluation.policy_table import evaluate_policies
from assent.rewards.function import FunctionReward
from assent.rollouts.sampler import SamplingParams
from assent.rollouts.scripted import ScriptedSampler
from assent.types import PromptGroup
from tests.support.engine import make_groups, make_learner, torch_threads
from tests.support.progress import NotedProgress
from tests.support.rollouts import KEY, PROMPTS, sampler


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 40}])
def test_a_sampler_tells_of_every_token_and_of_those_that_ended_rows_spare(
    options: dict[str, int], threads: int
) -> None:
    made, progress = sampler(eos_ids=(2, 7, 9, 14), **options), NotedProgress()
    made.progress = progress
    with torch_threads(threads):
        rollouts = made.sample(PROMPTS, num_completions=7, params=SamplingParams(max_new_tokens=8), seed=KEY)
    assert min(len(rollout.ids) for rollout in rollouts) < 8, "some rows end early"
    (task,) = progress.tasks
    assert task.brief
    assert sum(task.steps) == task.total == len(rollouts) * 8
    assert len(task.steps) >= 8


@pytest.mark.usefixtures("threads")
def test_a_reading_tells_of_every_group() -> None:
    learner, groups = make_learner(), make_groups(6)
    learner.runtime.progress = progress = NotedProgress()
    learner.budget.tokens = max(group.num_tokens for group in groups)
    reading.read_groups(
        learner.module, groups, want=frozenset({"logprobs"}), runtime=learner.runtime, budget=learner.budget
    )
    (task,) = progress.tasks
    assert task.brief
    assert sum(task.steps) == task.total == 6
    assert len(task.steps) > 1


def test_an_evaluation_counts_a_policy_when_it_is_done() -> None:
    order: list[str] = []

    def opened(name: str) -> ScriptedSampler:
        order.append(f"{name} opened")
        return ScriptedSampler(lambda prompt, k, seed: [(5, -1.0), (2, -1.0)], eos_ids={2}, decode=str)

    policies = [Policy(name=name, open=partial(opened, name)) for name in ("a", "b")]
    scorer = FunctionReward(lambda prompts, completions: [1.0] * len(completions), name="one")
    plan = EvaluationPlan(
        groups=[PromptGroup(prompt="p")], prompt_ids=[(3, 4)], judges=Judges(scorer=scorer), baseline="a",
        max_new_tokens=2,
    )  # fmt: skip
    evaluate_policies(policies, plan, on_policy=lambda name: order.append(f"{name} done"))
    assert order == ["a opened", "a done", "b opened", "b done"]
