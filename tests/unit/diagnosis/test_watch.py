"""The cheap rules in a live run: each reports once, only where its metrics are, and a fatal finding stops."""

from __future__ import annotations

import importlib

import pytest

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule
from assent.diagnosis.rules import all_rules
from assent.diagnosis.watch import Watch
from assent.errors import StopRun


def findings(rule: Rule, case: Case) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    about = Case(config=case.config, stage=case.stage, objective=case.objective)
    watch = Watch(report=lambda finding: found.append((step, finding.rule)), stop_on=None, rules=[rule], about=about)
    lines: dict[int, dict[str, float]] = {}
    for name, series in case.series.items():
        for step, value in zip(series.steps, series.values, strict=True):
            lines.setdefault(step, {})[name] = value
    for step, values in sorted(lines.items()):
        watch(step, values)
    return found


@pytest.mark.parametrize("rule", [rule for rule in all_rules() if rule.window is not None], ids=lambda rule: rule.name)
def test_a_rule_fires_once_on_its_series_and_stays_quiet_on_the_other(rule: Rule) -> None:
    module = importlib.import_module(f"assent.diagnosis.rules.{rule.name}")
    found = findings(rule, module.FIRES)
    assert [name for _, name in found] == [rule.name]
    assert findings(rule, module.QUIET) == []


def low(case: Case) -> Finding | None:
    if max(case["loss"].values) > 0.1:
        return None
    return Finding(severity="fatal", verdict="it is low", evidence=(), next_action="raise it")


LOW = Rule(name="low", title="low", metrics=("loss",), least=3, window=3, check=low)


def test_a_fatal_finding_stops_and_others_do_not() -> None:
    found: list[Finding] = []
    watch = Watch(report=found.append, stop_on="fatal", rules=[LOW])
    for step in (1, 2):
        watch(step, {"loss": 0.0})
    with pytest.raises(StopRun) as stopped:
        watch(3, {"loss": 0.0})
    assert stopped.value.finding["rule"] == "low" == found[0].rule
    assert stopped.value.exit_status == 1

    def mild(case: Case) -> Finding | None:
        return Finding(severity="fault", verdict="so so", evidence=(), next_action="look")

    rule = Rule(name="mild", title="mild", metrics=("loss",), window=1, check=mild)
    watch = Watch(report=found.append, stop_on="fatal", rules=[rule])
    watch(1, {"loss": 0.0})
    assert found[-1].rule == "mild"
    watch = Watch(report=found.append, stop_on="fault", rules=[rule])
    with pytest.raises(StopRun) as stopped:
        watch(1, {"loss": 0.0})
    assert stopped.value.finding["rule"] == "mild"


def test_a_window_goes_on_after_a_resume_and_lines_without_the_metric_do_not_count() -> None:
    found: list[Finding] = []
    watch = Watch(report=found.append, stop_on=None, rules=[LOW])
    watch.replay([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.05, "other": "text"}])
    assert not found
    watch(2, {"eval_loss": 0.0})
    assert not found
    watch(3, {"loss": 0.0})
    assert [finding.rule for finding in found] == ["low"]


def test_a_rule_of_another_stage_is_not_asked() -> None:
    found: list[Finding] = []
    rule = Rule(name="low", title="low", metrics=("loss",), stages=frozenset({"ppo"}), window=1, check=low)
    Watch(report=found.append, stop_on="fatal", rules=[rule], about=Case(stage="sft"))(1, {"loss": 0.0})
    assert not found


def test_rules_of_the_whole_run_are_asked_at_held_out_figures_and_keep_the_metrics_they_may_read() -> None:
    found: list[Finding] = []
    watch = Watch(report=found.append, stop_on=None, about=Case(stage="reward", config={"num_train_epochs": 9.0}))
    for step, loss in enumerate([0.6, 0.5, 0.49, 0.58, 0.7]):
        watch(10 * step, {"loss": 0.45, "accuracy": 0.7})
        assert not found
        watch(10 * step, {"eval_loss": loss})
    assert [finding.rule for finding in found] == ["held_out_rises"]
    found.clear()
    watch = Watch(report=found.append, stop_on="fatal", about=Case(stage="grpo"))
    for step in range(8):  # a gradient of 0 is no fault of the run where rewards do not differ
        watch(step, {"grad_norm": 0.0, "objective/scores_std": 0.0})
    assert not found
    with pytest.raises(StopRun, match="although rewards differ"):
        watch(8, {"grad_norm": 0.0, "objective/scores_std": 0.4})


def test_without_held_out_figures_a_run_is_asked_as_it_grows_for_what_is_fatal() -> None:
    """The first time after twenty lines, then at each quarter more. A fault of a part of a run waits for its end."""
    asked: list[int] = []

    def check(case: Case) -> Finding | None:
        asked.append(len(case["loss"]))
        return Finding(severity=severity, verdict="so", evidence=(), next_action="look")

    rule = Rule(name="whole", title="whole", metrics=("loss",), check=check)
    found: list[Finding] = []
    severity = "fault"
    watch = Watch(report=found.append, stop_on="fault", rules=[rule])
    for step in range(1, 61):
        watch(step, {"loss": 0.5})
    assert asked == [20, 25, 32, 40, 50]
    assert not found
    severity = "fatal"
    for step in (61, 62):
        watch(step, {"loss": 0.5})
    with pytest.raises(StopRun):
        watch(63, {"loss": 0.5})
    assert [len(asked), asked[-1], found[0].rule] == [6, 63, "whole"]


def test_a_reference_that_changes_with_the_policy_stops_a_run_of_rounds() -> None:
    """No held-out figures; the rule looks at the whole run, and nothing that comes later can mend what it saw."""
    found: list[Finding] = []
    watch = Watch(report=found.append, stop_on="fatal", about=Case(stage="ppo"))
    for step in range(1, 20):
        watch(step, {"objective/kl_k3": 0.0, "policy/approxkl_avg": 0.002})
    assert not found
    with pytest.raises(StopRun, match="the reference changes with it"):
        watch(20, {"objective/kl_k3": 0.0, "policy/approxkl_avg": 0.002})
    assert [one.rule for one in found] == ["kl_always_zero"]
