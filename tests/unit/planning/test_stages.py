"""The stages of a plan have the names of columns, the frontier's settings, and a gate that somebody can sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from assent.pipelines.steps import STEPS
from assent.planning.choice import Choice, choose
from assent.planning.facts import Facts, Source
from assent.planning.gate_stages import gated
from assent.planning.rules import Situation
from assent.planning.stages import BEST_OF, PlannedStage, Wanted, stages_of

NO_ROWS: Any = None
COLUMNS = {"question": "prompt"}
PAIRS = Source("pairs.jsonl", "pairs", 5000, NO_ROWS, columns={**COLUMNS, "good": "chosen", "bad": "rejected"})
PROMPTS = Source("prompts.jsonl", "prompts", 900, NO_ROWS, columns=COLUMNS)


def chosen(method: str, **facts: Any) -> Choice:
    known = Facts(**{"pairs": 5000, "prompts": 900, "largest_group": 2, **facts})
    return choose(Situation(known), method=method)


def staged(choice: Choice, **more: Any) -> dict[str, PlannedStage]:
    given: dict[str, Any] = {"sources": [PAIRS, PROMPTS], **more}
    wanted = Wanted(model="policy", choice=choice, length=512, num_prompts=100, **given)
    stages, _ = gated(stages_of(wanted), wanted)
    for stage in stages:
        assert set(stage.options) <= set(STEPS[stage.command].config_class().model_fields)
    return {stage.name: stage for stage in stages}


@pytest.mark.parametrize(
    ("method", "stage", "facts"),
    [
        ("ppo", "train", {}),
        ("grpo", "train", {}),
        ("online-dpo", "train", {}),
        ("iterated-dpo", "answers", {"feedback": "fresh"}),
        ("collect", "answers", {}),
    ],
)
def test_a_file_of_prompts_has_its_own_of_the_columns_that_the_user_named(
    method: str, stage: str, facts: dict[str, Any]
) -> None:
    options = staged(chosen(method, **facts))[stage].options
    assert (options["data"], options["columns"]) == ("prompts.jsonl", COLUMNS)


def test_what_another_stage_wrote_has_columns_of_our_names() -> None:
    stages = staged(chosen("ppo", prompts=0), sources=[PAIRS])
    assert stages["split"].options["columns"] == PAIRS.columns
    assert stages["train"].options["data"] == "${split.train}"
    assert all("columns" not in stage.options for name, stage in stages.items() if name != "split")


@pytest.mark.parametrize("reward", [None, "scorer", "rules:check"])
def test_settings_of_the_frontier_reach_the_choosing_and_its_evaluation(reward: str | None) -> None:
    choice = chosen("best-of-n", reward="none" if reward is None else "function")
    settings = replace(choice, options={"n": 4.0, "temperature": 0.7})
    stages = staged(settings, reward=reward, judge="judges:score")
    assert (stages["best"].options["n"], stages["best"].options["temperature"]) == (4, 0.7)
    measured, gate = stages["evaluation"].options, stages["gate-release"].options
    assert measured["policies"]["trained"] == "${best.completions}"  # the evaluation alone would be at temperature 1
    assert (gate["policy"], "max_kl_nats" in gate, "best_of_n" in measured) == ("trained", False, False)
    stages = staged(replace(choice, options={"n": 4.0}), reward=reward, judge="judges:score")
    measured, gate = stages["evaluation"].options, stages["gate-release"].options
    if reward == "rules:check":
        assert measured["policies"]["trained"] == "${best.completions}"
    else:
        assert (measured["best_of_n"], "trained" in measured["policies"]) == (4, False)
        assert (gate["policy"], "max_kl_nats" in gate) == ("best-of-4", True)
    assert staged(choice, reward=reward, judge="judges:score")["best"].options["n"] == BEST_OF


@pytest.mark.parametrize(
    ("method", "reward", "start", "signed"),
    [
        ("best-of-n", "rules:check", "instruct", "policy"),
        ("best-of-n", "rules:check", "base", "${sft.model_path}"),
        ("best-of-n", "scorer", "instruct", "scorer"),
        ("best-of-n", None, "instruct", "${reward.model_path}"),
        ("grpo", "rules:check", "instruct", "${train.model_path}"),
    ],
)
def test_somebody_signs_for_a_folder_and_never_for_a_function(
    method: str, reward: str | None, start: str, signed: str
) -> None:
    choice = chosen(method, start=start, reward="none" if reward is None else "function")
    gate = staged(choice, reward=reward, judge="judges:score", sign_off="signed.yaml")["gate-release"]
    assert gate.options["model"] == signed
