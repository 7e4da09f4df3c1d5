"""Rules of a deployed model's logs: each fires on its own signals alone."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType

import pytest

from assent.diagnosis.case import Case
from assent.diagnosis.drift.findings import example
from assent.diagnosis.drift.signals import SIGNALS
from assent.diagnosis.examine import examine
from assent.diagnosis.log_rules import log_rules
from assent.diagnosis.rule import NotChecked, Rule

RULES = log_rules()
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def module_of(rule: Rule) -> ModuleType:
    return importlib.import_module(f"assent.diagnosis.log_rules.{rule.name}")


@every_rule
def test_it_fires_and_stays_quiet(rule: Rule) -> None:
    module = module_of(rule)
    assert [finding.rule for finding in examine(module.FIRES, RULES).findings] == [rule.name]
    assert examine(module.QUIET, RULES).findings == ()
    assert rule.looks_at == "logs"
    assert rule.title
    assert rule.causes
    assert rule.source
    found = rule.ask(module.FIRES)
    assert found is not None
    assert found.evidence
    for text in (found.verdict, found.cause, found.next_action):
        assert text
        assert not text.endswith(".")


@every_rule
def test_it_says_what_the_logs_lack(rule: Rule) -> None:
    with pytest.raises(NotChecked, match="neither logs nor baseline have"):
        rule.check(example())
    with pytest.raises(NotChecked, match="assent monitor"):
        rule.check(Case())


def test_every_signal_has_a_rule() -> None:
    assert {signal.rule for signal in SIGNALS} == {rule.name for rule in RULES}


def test_where_taste_moved_the_reward_model_has_not_aged_for_itself() -> None:
    moved = example("rating/words", "reward_model/agrees", quiet=("reward_model/beyond",))
    assert [finding.rule for finding in examine(moved, RULES).findings] == ["taste_moved"]
    both = example("rating/words", "reward_model/agrees", "reward_model/beyond", share=0.6)
    assert [finding.rule for finding in examine(both, RULES).findings] == ["taste_moved"]
    both = example("rating/words", "reward_model/agrees", "reward_model/beyond", share=0.4)
    assert {finding.rule for finding in examine(both, RULES).findings} == {"taste_moved", "reward_model_aged"}


def test_what_strata_leave_of_the_prompts_move_is_no_behaviour() -> None:
    def with_raw(raw: float, prompts: float = 0.06) -> set[str]:
        case = example("prompt/length", "completion/refusal", difference=0.04)
        signals = {name: replace(one, raw=raw) for name, one in case.logs.signals.items()}
        signals["prompt/length"] = replace(signals["prompt/length"], difference=prompts)
        logs = replace(case.logs, signals=signals)
        return {finding.rule for finding in examine(replace(case, logs=logs), RULES).findings}

    assert with_raw(0.13) == {"prompts_moved"}
    assert with_raw(0.05) == {"prompts_moved", "behaviour_moved"}
    assert with_raw(0.05, prompts=0.3) == {"prompts_moved"}


def test_the_trainers_log_probabilities_decide() -> None:
    differs = example(quiet=("serving/logprob",), policy={"nats_per_token": 0.4, "scale": 0.7})
    (finding,) = examine(differs, RULES).findings
    assert (finding.rule, finding.confidence) == ("serving_differs", "certain")


def test_new_prompts_may_be_less_sure_and_the_trainers_own_decide() -> None:
    both = example("serving/logprob", "prompt/words")
    found = {one.rule: (one.severity, one.confidence) for one in examine(both, RULES).findings}
    assert found["serving_differs"] == ("warning", "possible")
    alone = examine(example("serving/logprob", quiet=("prompt/words",)), RULES).findings
    assert [(one.rule, one.severity, one.confidence) for one in alone] == [("serving_differs", "fault", "likely")]
    agrees = example("serving/logprob", "prompt/words", policy={"nats_per_token": 0.01, "scale": 1.0})
    assert {one.rule for one in examine(agrees, RULES).findings} == {"prompts_moved"}
    renamed = example("serving/model", policy={"nats_per_token": 0.01, "scale": 1.0})
    assert [one.verdict for one in examine(renamed, RULES).findings] == [
        "the logs name another model than at the release"
    ]
