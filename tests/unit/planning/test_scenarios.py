"""Twenty situations with an expert's answer, written before the rules: the plan agrees, and cites the right facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.errors import ConfigError
from assent.planning.choice import Choice, choose
from assent.planning.facts import Facts, flip_of
from assent.planning.rules import Situation

HERE = Path(__file__).parent
SCENARIOS: list[dict[str, Any]] = yaml.safe_load((HERE / "scenarios.yaml").read_text())


def situation(scenario: dict[str, Any]) -> Situation:
    facts = dict(scenario["facts"])
    if "agreement" in facts:
        facts["noise"] = flip_of(facts["agreement"])
    return Situation(Facts(**facts), frozenset(scenario["constraints"]), tuple(scenario.get("problems", ())))


def chosen(scenario: dict[str, Any]) -> Choice:
    return choose(situation(scenario))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_the_plan_says_what_the_expert_says_and_cites_the_facts(scenario: dict[str, Any]) -> None:
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
