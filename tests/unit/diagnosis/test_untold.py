"""What a log does not tell is not taken for a default: no verdict, no cause and no change rests on it."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.advice import fit_less, passes_of
from assent.diagnosis.case import Case, example
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Change, Finding, times, to
from assent.diagnosis.penalty import LOGGED, stronger, weight_of
from assent.diagnosis.rule import NotChecked

FLAT = [0.1, 0.0, 0.2, 0.1, -0.1] * 4
UP = [0.2 * i for i in range(20)]


def found(name: str, case: Case) -> Finding:
    rule = importlib.import_module(f"assent.diagnosis.rules.{name}").RULE
    finding = rule.ask(case)
    assert finding is not None
    return finding


def firing(name: str, **changed: Any) -> Case:
    """The rule's own case, as another trainer's log without any option."""
    case: Case = importlib.import_module(f"assent.diagnosis.rules.{name}").FIRES
    return replace(case, source="trl", config={}, **changed)


OF_PENALTY = ("reward_hacked", "empty_answers", "kl_unbounded", "longer_answers", "ensemble_disagrees")


@pytest.mark.parametrize("name", OF_PENALTY)
def test_a_penalty_that_is_not_told_is_neither_multiplied_nor_set(name: str) -> None:
    told = {weight: found(name, replace(firing(name), config={"kl_coef": weight})).fix for weight in (0.0, 0.1)}
    assert told[0.0]["kl_coef"].value > 0
    assert told[0.1]["kl_coef"].times > 1
    untold = found(name, firing(name))
    assert "kl_coef" not in untold.fix
    assert "if there is none (the log does not tell it)" in untold.next_action


@pytest.mark.parametrize("name", OF_PENALTY)
def test_a_penalty_that_is_logged_is_told(name: str) -> None:
    """verl logs its weight; an adaptive one is what it was last."""
    case = firing(name)
    logged = example({LOGGED: [0.01, 0.02]}, stage="ppo").series
    assert found(name, replace(case, series={**case.series, **logged})).fix["kl_coef"] == times(
        found(name, replace(case, config={"kl_coef": 0.02})).fix["kl_coef"].times or 0.0
    )


@pytest.mark.parametrize("name", OF_PENALTY)
def test_the_pull_of_online_dpo_is_its_beta(name: str) -> None:
    """It has no kl_coef, and one of 0.05 in its place would be a weaker pull than its usual beta."""
    case = importlib.import_module(f"assent.diagnosis.rules.{name}").FIRES
    columns = {key: dict(zip(one.steps, one.values, strict=True)) for key, one in case.series.items()}
    online = example(columns, stage="online-dpo", loss_type="sigmoid", beta=0.1)
    finding = found(name, online)
    assert "kl_coef" not in finding.fix
    assert finding.fix["beta"].applied(0.1) > 0.1
    assert "--kl-" not in finding.next_action


def test_the_weight_as_far_as_it_is_known() -> None:
    assert weight_of(example({}, stage="ppo", kl_coef=0.0)) == 0.0
    assert weight_of(example({LOGGED: [0.1, 0.3]}, stage="ppo")) == 0.3
    assert weight_of(example({LOGGED: [0.1, 0.3]}, stage="ppo", kl_coef=0.2)) == 0.2
    assert weight_of(example({}, stage="ppo")) is None
    assert stronger(example({}, stage="ppo", kl_coef=0.0), factor=4.0, start=0.05)[1] == {"kl_coef": to(0.05)}


def test_a_policy_that_stays_names_both_causes_where_the_penalty_is_not_told() -> None:
    still = {"objective/kl_k3": [0.002] * 20, "objective/scores": FLAT}
    untold = found("policy_stays", example(still, stage="ppo"))
    assert not untold.fix
    assert untold.confidence == "possible"
    assert "learning rate" in untold.cause
    assert "KL penalty" in untold.cause
    assert "kl_coef" in found("policy_stays", example(still, stage="ppo", kl_coef=10.0)).fix
    assert "learning_rate" in found("policy_stays", example(still, stage="ppo", kl_coef=0.05)).fix
    tiny = {**still, "objective/scores": [1e-4 * one for one in FLAT], "objective/scores_std": [1e-4] * 20}
    scaled = found("policy_stays", replace(example(tiny, stage="ppo", kl_coef=0.05), source="trl"))
    assert not scaled.fix
    assert "if they are not scaled" in scaled.cause


def test_a_penalty_that_was_subtracted_has_a_weight_though_the_log_does_not_tell_it() -> None:
    idle = {"objective/non_score_reward": [-0.3] * 6, "objective/scores_std": [100.0] * 6, "objective/kl": [8.0] * 6}
    case = example(idle, stage="ppo")
    finding = found("penalty_scale", replace(case, source="trl"))
    assert finding.confidence == "possible"
    assert "which the log does not tell" in finding.cause
    assert found("penalty_scale", replace(case, config={"kl_coef": 0.05})).confidence == "likely"


@pytest.mark.parametrize(
    ("name", "told", "says", "changes"),
    [
        ("scores_off_centre", {"center_rewards_coefficient": 0.0}, "which the log does not tell", False),
        ("oversize_updates", {"num_ppo_epochs": 20}, "the log does not tell", True),
        ("labels_disagree", {"label_smoothing": 0.0}, "if they are not smoothed already", False),
        ("reference_moves", {"reference_sync_steps": 0}, "on purpose (TR-DPO)", False),
        ("starts_off_reference", {"reference": None}, "unless another reference was meant", False),
    ],
)
def test_it_is_said_where_an_option_would_change_the_answer(
    name: str, told: dict[str, Any], says: str, changes: bool
) -> None:
    case: Case = importlib.import_module(f"assent.diagnosis.rules.{name}").FIRES
    columns = {key: dict(zip(one.steps, one.values, strict=True)) for key, one in case.series.items()}
    untold = found(name, replace(example(columns, stage=case.stage or ""), source="trl"))
    assert says in f"{untold.cause}; {untold.next_action}"
    assert bool(untold.fix) is changes
    known = found(name, replace(example(columns, stage=case.stage or "", **told), source="trl"))
    assert says not in f"{known.cause}; {known.next_action}"


def test_a_loss_that_nothing_names_may_be_a_hinge() -> None:
    beyond = {"loss": [0.3, *[0.001] * 23], "rewards/margins": [1.5, *[9.0] * 23], "rewards/accuracies": [1.0] * 24}
    untold, told = (
        found("saturated", example(beyond, stage="dpo", **known)) for known in ({}, {"loss_type": "sigmoid"})
    )
    assert (untold.confidence, told.confidence) == ("possible", "likely")
    assert "hinge" in untold.cause
    assert "hinge" not in told.cause


def test_a_scores_spread_that_runs_away_under_a_centring_term_has_no_option_that_mends_it() -> None:
    case = importlib.import_module("assent.diagnosis.rules.scores_off_centre").FIRES
    assert not found("scores_off_centre", replace(case, config={"center_rewards_coefficient": 0.01})).fix


def test_a_critics_rate_that_is_not_told_is_only_multiplied() -> None:
    still = example({"val/explained_variance": [1e-7 * (-1) ** i for i in range(20)]}, stage="ppo", learning_rate=1e-5)
    assert found("critic_useless", replace(still, source="openrlhf")).fix == {"critic_learning_rate": times(10.0)}
    own = replace(still, config={"learning_rate": 1e-5, "critic_learning_rate": None})  # the policy's, by default
    assert found("critic_useless", own).fix == {"critic_learning_rate": to(1e-4)}


def test_passes_that_nothing_tells_are_not_one() -> None:
    rising = {"eval_loss": {10: 0.6, 20: 0.5, 30: 0.49, 40: 0.65, 50: 0.8}}
    case = replace(example(rising, stage="reward"), source="openrlhf")
    assert passes_of(case) is None
    finding = found("held_out_rises", case)
    assert "read once" not in finding.cause
    assert not finding.fix
    assert "if they are read more than once" in finding.next_action
    assert "read once" in found("held_out_rises", replace(case, config={"num_train_epochs": 1.0})).cause
    by_heart = importlib.import_module("assent.diagnosis.rules.memorises_rows")
    with pytest.raises(NotChecked, match="how often rows were read"):
        by_heart.RULE.ask(replace(by_heart.FIRES, config={}))


def test_the_passes_of_online_dpo_follow_its_rounds() -> None:
    case = example({"loss": [0.5] * 40, "epoch": [0.1 * i for i in range(1, 41)]}, stage="online-dpo", total_steps=40)
    assert fit_less(case) == ("stop after 10 rounds (--total-steps)", {"total_steps": to(10)})


def test_a_beta_that_is_not_told_is_not_the_declarations() -> None:
    margins = {"loss": [math.log(2)] * 24, "rewards/margins": [0.2, *UP]}
    assert example(margins, stage="dpo", loss_type="sigmoid").objective.beta is None
    assert example(margins, stage="dpo", loss_type="sigmoid").objective.start == pytest.approx(math.log(2))
    assert example(margins, stage="dpo", loss_type="ipo").objective.start is None  # 1 / (4 beta²)
    assert example(margins, stage="dpo", loss_type="ipo", beta=0.1).objective.start == pytest.approx(25.0)
    assert example(margins, stage="kto").objective.beta is None
    assert example(margins, stage="online-dpo", loss_type="sigmoid", beta=0.2).objective.beta == 0.2


def test_an_option_that_is_as_advised_is_not_shown_as_a_change() -> None:
    finding = Finding(
        verdict="so", evidence=(), next_action="look", fix={"shuffle": to(True), "learning_rate": times(0)}
    )
    lines = lines_of_finding(finding, Case(config={"shuffle": True, "learning_rate": 0.0}))
    assert not [line for line in lines if "change: " in line]


@pytest.mark.parametrize(("given", "after"), [({}, 1.0), ({"missing_eos_penalty": 0.5}, 1.0),
                                              ({"missing_eos_penalty": 3.0}, 6.0)])  # fmt: skip
def test_a_penalty_of_unfinished_answers_is_never_lowered(given: dict[str, float], after: float) -> None:
    grown = example({"rollout/eos_rate": [0.9, 0.8, 0.4, 0.1, 0.05, 0.02]}, stage="grpo", **given)
    change: Change = found("cut_completions", grown).fix["missing_eos_penalty"]
    assert change.applied(given.get("missing_eos_penalty", 0.0)) == after


BELOW = {
    "rewards/chosen": [-2.4, -2.45, -2.4, -2.5, -2.45] * 6,
    "rewards/rejected": [-2.41, -2.5, -2.5, -2.6, -2.7] * 6,
}
"""SimPO's rewards are β times mean log-probabilities: below 0 from the first line on."""


def rules_of(case: Case) -> tuple[set[str], dict[str, str]]:
    report = examine(case)
    return {one.rule for one in report.findings if one.severity != "info"}, dict(report.not_checked)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"loss": [1.0 - 0.002 * i for i in range(30)]},  # a target margin of 0.54: no hinge
        {"loss": [0.69 - 0.002 * i for i in range(30)]},  # no target margin: not the plain sigmoid
        {"rewards/margins": [0.01 - 0.02 * (i % 3) for i in range(30)], "loss": [1.2, 1.21] * 15},
        {"logps/chosen": {1: -1.2}},
    ],
    ids=["rewards alone", "as a hinge starts", "as a sigmoid starts", "margins", "log-probabilities of one line"],
)  # fmt: skip
def test_a_log_that_may_lack_a_reference_is_not_judged_by_where_it_starts(more: dict[str, Any]) -> None:
    case = replace(example({**BELOW, **more}, stage="dpo"), source="trl")
    assert case.objective.loss is None
    findings, not_checked = rules_of(case)
    assert "starts_off_reference" not in findings
    assert "by design in SimPO, ORPO and CPO" in not_checked["starts_off_reference"]
    assert not findings


def test_rewards_that_are_multiples_of_log_probabilities_show_that_there_is_no_reference() -> None:
    """Also where one line's figures were NaN, so that the two were logged at other steps."""
    sums = {side: {step: -1.2 - 0.01 * step for step in range(1, 31)} for side in ("chosen", "rejected")}
    columns = {f"rewards/{side}": {step: 2.0 * value for step, value in sums[side].items()} for side in sums}
    columns |= {f"logps/{side}": {step: value for step, value in sums[side].items() if step != 7} for side in sums}
    for start in ("", "eval_"):
        case = example({start + name: values for name, values in columns.items()}, stage="dpo")
        assert case.objective.needs_reference is False
        assert "starts_off_reference" not in rules_of(case)[0]


def test_one_reward_above_zero_shows_a_reference() -> None:
    rows = {**BELOW, "rewards/chosen": [*BELOW["rewards/chosen"][:-1], 0.01]}
    assert "starts_off_reference" in rules_of(example(rows, stage="dpo"))[0]
    assert "starts_off_reference" in rules_of(example(BELOW, stage="dpo", loss_type="sigmoid", beta=0.1))[0]
    assert "starts_off_reference" in rules_of(example(BELOW, stage="kto"))[0]  # its rewards are always to a reference


def test_a_margin_that_begins_below_zero_may_be_one_without_a_reference() -> None:
    falling = {**BELOW, "rewards/margins": [-0.1 - 0.02 * i for i in range(30)]}
    findings, not_checked = rules_of(example(falling, stage="dpo"))
    assert "margin_falls" not in findings
    assert "may have no reference" in not_checked["margin_falls"]
    assert "margin_falls" in rules_of(example(falling, stage="dpo", loss_type="sigmoid", beta=0.1))[0]


def test_settings_that_name_the_loss_decide(tmp_path: Path) -> None:
    from assent.diagnosis.opening import case_of_log
    from assent.runs.files import to_json

    log, settings = tmp_path / "l.jsonl", tmp_path / "s.json"
    rows = [
        {"step": i + 1, "loss": 1.0, "rewards/margins": 0.1, **{name: values[i] for name, values in BELOW.items()}}
        for i in range(30)
    ]
    log.write_text("".join(to_json(row) + "\n" for row in rows))
    for loss, is_found in (("simpo", False), ("sigmoid", True)):
        settings.write_text(to_json({"loss_type": loss, "beta": 2.0}))
        assert ("starts_off_reference" in rules_of(case_of_log(log, settings=settings))[0]) is is_found


def test_rankings_of_several_sizes_start_where_the_run_says() -> None:
    logged = {"loss": [1.5] * 3, "accuracy": [0.5] * 3, "loss_at_equal_scores": [1.0, 1.2, 1.4]}
    assert example(logged, stage="reward", loss_type="plackett_luce").objective.start == pytest.approx(1.2)
    assert example(logged, stage="reward", loss_type="bradley_terry").objective.start == pytest.approx(math.log(2))
    held_out: dict[str, dict[int, float]] = {
        "eval_loss": {50: 3.9},
        "eval_accuracy": {50: 0.72},
        "eval_loss_at_equal_scores": {50: math.log(24)},
    }
    held_out["loss_at_equal_scores"] = {1: math.log(6), 50: math.log(6)}  # training rows are rankings of three
    sure = found("too_sure", example(held_out, stage="reward", loss_type="plackett_luce"))
    assert sure.evidence[0].expected == f"below {math.log(24):.4g}"


def test_what_is_expected_of_a_margin_is_above_what_was_found() -> None:
    rule = importlib.import_module("assent.diagnosis.rules.beta_too_low")
    for case in (rule.FIRES, *rule.FIRES_ALSO):
        (fact,) = found("beta_too_low", case).evidence
        assert float(str(fact.expected).removeprefix("above ")) > fact.value
