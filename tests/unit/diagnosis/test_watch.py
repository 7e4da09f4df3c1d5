"""The cheap rules: each fires on its own series and stays quiet on the other, once, and only where its metrics are."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import pytest

from assent.diagnosis.finding import Finding, Rule
from assent.diagnosis.rules import CHEAP
from assent.diagnosis.watch import Watch
from assent.errors import StopRun


def findings(rule: Rule, series: Mapping[str, Sequence[float]]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    watch = Watch(report=lambda finding: found.append((step, finding.rule)), stop=False, rules=[rule])
    for step, values in enumerate(zip(*series.values(), strict=True), start=1):
        watch(step, dict(zip(series, values, strict=True)))
    return found


@pytest.mark.parametrize("rule", CHEAP, ids=lambda rule: rule.name)
def test_a_rule_fires_once_on_its_series_and_stays_quiet_on_the_other(rule: Rule) -> None:
    module = importlib.import_module(f"assent.diagnosis.rules.{rule.name}")
    more = {name: [*values, values[-1], values[-1]] for name, values in module.FIRES.items()}
    assert findings(rule, more) == [(len(next(iter(module.FIRES.values()))), rule.name)]
    assert findings(rule, module.QUIET) == []


def low(series: Mapping[str, Sequence[tuple[int, float]]]) -> Finding | None:
    values = [value for _, value in series["loss"]]
    if len(values) < 3 or max(values) > 0.1:
        return None
    return Finding(rule="low", severity="fault", verdict="it is low", evidence=(), next_action="raise it")


LOW = Rule(name="low", metrics=("loss",), window=3, check=low)


def test_a_fault_stops_and_a_warning_does_not() -> None:
    found: list[Finding] = []
    watch = Watch(report=found.append, stop=True, rules=[LOW])
    for step in (1, 2):
        watch(step, {"loss": 0.0})
    with pytest.raises(StopRun) as stopped:
        watch(3, {"loss": 0.0})
    assert stopped.value.finding["rule"] == "low" == found[0].rule
    assert stopped.value.exit_status == 1

    def mild(series: Mapping[str, Sequence[tuple[int, float]]]) -> Finding | None:
        return Finding(rule="mild", severity="warning", verdict="so so", evidence=(), next_action="look")

    watch = Watch(report=found.append, stop=True, rules=[Rule(name="mild", metrics=("loss",), window=1, check=mild)])
    watch(1, {"loss": 0.0})
    assert found[-1].rule == "mild"


def test_a_window_goes_on_after_a_resume_and_lines_without_the_metric_do_not_count() -> None:
    found: list[Finding] = []
    watch = Watch(report=found.append, stop=False, rules=[LOW])
    watch.replay([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.05, "other": "text"}])
    assert not found
    watch(2, {"eval_loss": 0.0})
    assert not found
    watch(3, {"loss": 0.0})
    assert [finding.rule for finding in found] == ["low"]
