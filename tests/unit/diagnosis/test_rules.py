"""Every rule: it fires on its own series, stays quiet on the other, and says what to do."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from assent.commands.doctor import fixed_options
from assent.config.loading import parse_options
from assent.config.losses import PREFERENCE_LOSSES, RANKING_LOSSES
from assent.diagnosis.advice import fit_less
from assent.diagnosis.case import Case, example, make_case
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Finding
from assent.diagnosis.fix import changes
from assent.diagnosis.rule import EVERY, NotChecked, Rule
from assent.diagnosis.rules import all_rules, critic_useless, held_out_rises
from assent.metrics import lookup
from assent.pipelines.steps import STEPS
from assent.runs.files import from_json, to_json

RULES = all_rules()
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def lookup_rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule.name == name)


def module_of(rule: Rule) -> ModuleType:
    return importlib.import_module(f"assent.diagnosis.rules.{rule.name}")


@every_rule
def test_it_fires_and_stays_quiet(rule: Rule) -> None:
    module = module_of(rule)
    for case in (module.FIRES, *getattr(module, "FIRES_ALSO", ())):
        found = rule.ask(case)
        assert found is not None
        assert found.rule == rule.name
    assert rule.ask(module.QUIET) is None
    for case in getattr(module, "QUIET_ALSO", ()):
        assert rule.name not in [one.rule for one in examine(case, [rule]).findings]


@every_rule
def test_a_finding_says_what_why_and_what_next(rule: Rule) -> None:
    found = rule.ask(module_of(rule).FIRES)
    assert found is not None
    for text in (found.verdict, found.cause, found.next_action):
        assert text, rule.name
        assert not text.endswith(".")
    assert found.evidence or rule.looks_at != "log"


@every_rule
def test_it_is_declared_in_full(rule: Rule) -> None:
    for name in rule.names:
        lookup(name)
    assert rule.stages <= EVERY
    assert rule.title
    assert rule.causes
    assert rule.source
    assert module_of(rule).__doc__


@every_rule
def test_its_series_alone_name_it(rule: Rule) -> None:
    """Asked among all rules, it is heard on the one case and not on the other."""
    module = module_of(rule)
    assert rule.name in [finding.rule for finding in examine(module.FIRES).findings]
    assert rule.name not in [finding.rule for finding in examine(module.QUIET).findings]


REQUIRED = {"model": "m", "data": "d", "output_dir": "o", "reward": "rm", "num_completions": 4}


@pytest.mark.parametrize("stage", sorted(EVERY))
def test_every_change_gives_a_configuration_that_the_command_takes(stage: str) -> None:
    config_class = STEPS[stage].config_class()
    given = {name: value for name, value in REQUIRED.items() if name in config_class.model_fields}
    for extra in ({}, {"dtype": "bfloat16"}, {"lr_scheduler_type": "cosine", "max_grad_norm": 0.5}):
        config = from_json(to_json(parse_options(config_class, {**given, **extra}).model_dump()))
        for rule in RULES:
            if stage not in rule.stages:
                continue
            found = rule.ask(module_of(rule).FIRES)
            assert found is not None
            case = Case(config=config, stage=stage)
            made = changes(config, [found])
            parse_options(config_class, fixed_options(case, made), where=f" ({rule.name})")


LOSSES_OF = {
    "dpo": sorted({*PREFERENCE_LOSSES, *RANKING_LOSSES} - {"bradley_terry"}),
    "reward": sorted(RANKING_LOSSES),
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in LOSSES_OF.items() for name in names])
def test_every_change_suits_the_loss_of_the_run(stage: str, name: str) -> None:
    """Noisy labels, and pairs that fall together, under each loss: what is changed is what the loss has."""
    config_class = STEPS[stage].config_class()
    given = {option: value for option, value in REQUIRED.items() if option in config_class.model_fields}
    config = from_json(to_json(parse_options(config_class, {**given, "loss_type": name}).model_dump()))
    for rule in ("labels_disagree", "chosen_falls"):
        fires = importlib.import_module(f"assent.diagnosis.rules.{rule}").FIRES
        names = {"accuracy": "rewards/accuracies", "eval_accuracy": "eval_rewards/accuracies"} if stage == "dpo" else {}
        columns = {names.get(key, key): (one.steps, one.values) for key, one in fires.series.items()}
        case = make_case(columns, config=config, stage=stage)
        made = changes(config, examine(case).findings)
        parse_options(config_class, fixed_options(case, made), where=f" ({rule})")


def test_a_run_that_was_stopped_is_told_the_passes_that_it_made() -> None:
    """Best at step 300 of 1,000 planned in ten passes: three passes, also where the log ends at step 500."""
    loss = {100: 0.6, 200: 0.5, 300: 0.49, 400: 0.58, 500: 0.7}
    case = example({"eval_loss": loss}, stage="reward", num_train_epochs=10.0)
    found = held_out_rises.check(replace(case, planned_steps=1000))
    assert found is not None
    assert found.fix["num_train_epochs"].applied(10.0) == 3.0


def fitted(passes: float | None, **config: Any) -> Case:
    return example({"loss": [1.0] * 4, "epoch": [0.5, 1.0, 1.5, passes or 0.8]}, stage="dpo", **config)


@pytest.mark.parametrize(
    ("case", "share", "option", "value"),
    [
        (fitted(None, num_train_epochs=6.0, learning_rate=1.0), None, "num_train_epochs", 1.0),
        (fitted(None, num_train_epochs=18.0, learning_rate=1.0), 0.25, "num_train_epochs", 4.5),
        (fitted(None, num_train_epochs=1.0, learning_rate=1.0), 0.5, "learning_rate", 0.3),
        (fitted(None, num_train_epochs=4.0, learning_rate=1.0), 0.0, "learning_rate", 0.3),
        (fitted(4.0, max_steps=100, num_train_epochs=1.0), 0.2, "max_steps", 20),
        (fitted(4.0, max_steps=100, num_train_epochs=1.0), None, "max_steps", 1),  # four steps made four passes
    ],
)
def test_a_run_that_fits_too_closely_reads_its_rows_less_often(
    case: Case, share: float | None, option: str, value: float
) -> None:
    """At one pass, or where it was best before its first step, the rate is what is left to lower."""
    what, fix = fit_less(case, share=share)
    assert list(fix) == [option]
    assert fix[option].applied(case.config[option]) == value
    assert what


@pytest.mark.parametrize(("policy", "critic", "after"), [(1e-5, 1e-9, 1e-4), (1e-6, 1e-5, 1e-4)])
def test_a_critic_that_stands_still_learns_faster_than_the_policy(policy: float, critic: float, after: float) -> None:
    still = {"val/explained_variance": [1e-7 * (-1) ** i for i in range(20)]}
    config = {"learning_rate": policy, "critic_learning_rate": critic}
    found = examine(example(still, stage="ppo", **config), [critic_useless.RULE]).findings
    assert [(one.option, one.after) for one in changes(config, found)] == [
        ("critic_learning_rate", pytest.approx(after))
    ]


STILL_LOSS = {step: 0.6931 + 0.001 * (-1) ** step for step in range(1, 61)}
NO_MARGIN = dict.fromkeys(range(1, 61), 0.0)


@pytest.mark.parametrize(
    ("cause", "consequence", "series", "stage"),
    [
        ("reference_moves", "nothing_learned",
         {"loss": STILL_LOSS, "rewards/margins": NO_MARGIN, "eval_logps/chosen": {30: -50.0, 60: -44.0},
          "eval_rewards/chosen": {30: 0.0, 60: 0.0}}, "dpo"),
        ("beta_too_low", "nothing_learned",
         {"loss": STILL_LOSS, "rewards/margins": dict.fromkeys(range(1, 61), 0.015)}, "dpo"),
        ("learns_the_opposite", "held_out_rises",
         {"rewards/accuracies": [0.9] * 20, "eval_rewards/accuracies": {0: 0.5, 10: 0.2, 20: 0.1},
          "eval_loss": {0: 0.69, 10: 0.9, 15: 1.2, 20: 1.3}}, "dpo"),
        ("penalty_scale", "policy_stays",
         {"objective/kl_k3": [0.001] * 20, "objective/scores": [0.5, 0.51] * 10, "objective/scores_std": [1e-5] * 20,
          "objective/non_score_reward": [-0.001] * 20}, "ppo"),
        ("zero_advantage", "policy_stays",
         {"objective/kl_k3": [0.0] * 20, "objective/scores": [0.5] * 20, "objective/scores_std": [0.0] * 20}, "ppo"),
    ],
)  # fmt: skip
def test_a_consequence_yields_to_its_cause(cause: str, consequence: str, series: Any, stage: str) -> None:
    """Alone the second rule would fire, and its advice (a higher rate) would be wrong."""
    case = example(series, stage=stage, loss_type="sigmoid", learning_rate=1e-5, beta=0.001)
    report = examine(case)
    assert cause in [finding.rule for finding in report.findings]
    assert consequence not in [finding.rule for finding in report.findings]
    assert (consequence, f"{cause} has found the cause") in report.not_checked


def test_a_reward_model_at_chance_is_no_silence_where_steps_are_few() -> None:
    """A smoke test of two steps with 40 held-out pairs: no fault can be named, and yet nobody should choose with it."""

    def severity(value: float, low: float, high: float, **known: Any) -> str | None:
        series = {"accuracy": [0.25, 0.0], "eval_accuracy": {2: value}}
        series |= {"eval_accuracy_low": {2: low}, "eval_accuracy_high": {2: high}}
        report = examine(example(series, stage="reward", batch_size=4, **known))
        found = {one.rule: one for one in report.findings}.get("ranks_at_chance")
        return None if found is None else found.severity

    assert severity(0.425, 0.267, 0.6) == "warning"
    assert severity(0.425, 0.267, 0.6, status="running", planned_steps=2) == "warning"
    assert severity(0.425, 0.267, 0.6, status="running", planned_steps=9) == "info"
    assert severity(0.55, 0.4, 0.7) == "info"
    assert severity(0.7, 0.52, 0.85) is None


def test_what_a_log_does_not_tell_is_not_said() -> None:
    """Another trainer's log may lack the penalty, one kind of thumbs, or the length of completions."""

    def found(name: str, **changed: Any) -> Finding:
        rule = lookup_rule(name)
        finding = rule.ask(replace(module_of(rule).FIRES, **changed))
        assert finding is not None
        return finding

    assert "no penalty holds it" in found("kl_unbounded").verdict
    assert "penalty" not in found("kl_unbounded", config={}).verdict
    both = module_of(lookup_rule("one_class")).FIRES.series
    assert found("one_class").confidence == "certain"
    assert found("one_class", series={name: both[name] for name in list(both)[:2]}).confidence == "possible"
    fallen = [2.0 - 0.1 * i for i in range(20)]
    sums = example({"objective/entropy": fallen}, stage="ppo").series
    lengths = example({"rollout/completion_length": [4.0] * 20}, stage="ppo").series
    assert not str(found("entropy_collapses", series=sums).evidence[0].expected).endswith("per token")
    assert str(found("entropy_collapses", series={**sums, **lengths}).evidence[0].expected).endswith("per token")


def test_series_of_other_steps_are_not_compared() -> None:
    rule = lookup_rule("chosen_falls")
    case = module_of(rule).FIRES
    name = "rewards/rejected"
    shorter = {**case.series, name: case.series[name].tail(len(case.series[name]) - 1)}
    with pytest.raises(NotChecked, match="different steps"):
        rule.ask(replace(case, series=shorter))
