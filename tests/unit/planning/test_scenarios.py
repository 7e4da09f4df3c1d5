"""Situations with an expert's answer: the plan agrees, and cites the right facts.

scenarios.yaml        twenty, written before the rules
more_scenarios.yaml   ten more, by someone who had not seen the rules (docs/plan.md says how many agreed at first)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.config.loading import parse_options
from assent.errors import ConfigError
from assent.pipelines.steps import STEPS
from assent.planning.choice import Choice, choose
from assent.planning.facts import Facts, flip_of
from assent.planning.rules import Situation, rules

HERE = Path(__file__).parent
REWARDED = {"best-of-n", "ppo", "grpo", "online-dpo"}
SCENARIOS: list[dict[str, Any]] = [
    scenario
    for name in ("scenarios.yaml", "more_scenarios.yaml")
    for scenario in yaml.safe_load((HERE / name).read_text())
]


def situation(scenario: dict[str, Any]) -> Situation:
    facts = dict(scenario["facts"])
    if "agreement" in facts:
        facts["noise"] = flip_of(facts["agreement"])
    return Situation(Facts(**facts), frozenset(scenario["constraints"]), tuple(scenario.get("problems", ())))


def chosen(scenario: dict[str, Any]) -> Choice:
    return choose(situation(scenario))


def as_rankings(facts: dict[str, Any]) -> dict[str, Any]:
    """Scored groups as the audit counts them: a prompt with its answers is one ranking."""
    rest = {name: value for name, value in facts.items() if name not in ("scores", "prompts")}
    return rest | {"rankings": facts["prompts"]}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_the_plan_says_what_the_expert_says_and_cites_the_facts(scenario: dict[str, Any]) -> None:
    if "differs" in scenario:
        with pytest.raises(ConfigError, match="lift no-sampling"):
            chosen(scenario)
        assert choose(situation(scenario | {"facts": as_rankings(scenario["facts"])})).method == "pl-dpo"
        return
    if scenario["answer"] == "excluded":
        with pytest.raises(ConfigError, match=f"lift {scenario['lift']}"):
            chosen(scenario)
        return
    choice = chosen(scenario)
    assert choice.method in [scenario["answer"], *scenario.get("also_right", [])]
    assert choice.method not in scenario["not"]
    assert choice.first == scenario["first"]
    if "loss" in scenario:
        assert choice.options["loss_type"] == scenario["loss"]
    assert set(scenario["cites"]) <= choice.cites
    accepted(choice)


def accepted(choice: Choice) -> None:
    """Raises ConfigError if the method's own command refuses the options that the rules set."""
    config = STEPS[rules()["methods"][choice.method]["command"]].config_class()
    given = {"model", "data", "output_dir"} | ({"reward"} if choice.method in REWARDED else set())
    parse_options(config, {**dict.fromkeys(given, "x"), **choice.options})
