"""What the doctor takes for granted: stage and objective from a log; real logs as readers judge them; bad input."""

from __future__ import annotations

import json
import math
import os
import random
import re
from pathlib import Path

import pytest

from assent.config.loss_options import comparison_loss_declaration
from assent.config.losses import PREFERENCE_LOSSES, RANKING_LOSSES
from assent.diagnosis.case import Case, example, make_case
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Finding, times, to
from assent.diagnosis.fix import changes
from assent.diagnosis.gold import gold_of
from assent.diagnosis.objective import objective
from assent.diagnosis.opening import open_case
from assent.errors import DataError
from tests.support.diagnosis import dpo_rows, write_run

LN2 = math.log(2)
FOREIGN = Path(os.environ.get("ASSENT_FOREIGN_LOGS", "foreign-logs"))
real_logs = pytest.mark.skipif(not FOREIGN.is_dir(), reason="ASSENT_FOREIGN_LOGS names no folder of real logs")


@pytest.mark.parametrize(
    ("names", "stage"),
    [
        (["loss", "rewards/margins"], "dpo"),
        (["loss", "kl_baseline", "rewards/chosen"], "kto"),
        (["loss", "accuracy", "margin"], "reward"),
        (["objective/scores", "frac_reward_zero_std"], "grpo"),
        (["objective/scores", "val/explained_variance"], "ppo"),
        (["loss", "mean_token_accuracy"], "sft"),
        (["loss"], None),
    ],
    ids=str,
)
def test_the_stage_is_inferred_from_the_metrics(names: list[str], stage: str | None) -> None:
    assert make_case({name: ([1], [0.5]) for name in names}).stage == stage


@pytest.mark.parametrize(
    ("config", "start", "how"),
    [
        ({"loss_type": "ipo", "beta": 0.1}, 25.0, "configuration"),
        ({"loss_type": "ipo", "hyperparameters": {}, "beta": 0.5}, 1.0, "configuration"),
        ({"loss_type": ["hinge"]}, 1.0, "configuration"),
        ({"loss_type": "simpo"}, None, "configuration"),
        ({"losses": [{"name": "sigmoid"}, {"name": "sft"}]}, None, "configuration"),
        ({"losses": [{"name": "sigmoid", "weight": 2.0}, {"name": "hinge"}]}, 2 * LN2 + 1, "configuration"),
        ({"losses": ["sigmoid", {"name": "davidson", "weight": 0.5}]}, LN2 + 0.5 * math.log(3), "configuration"),
        ({"losses": [{"name": "sigmoid", "weight": "heavy"}, 3]}, None, "configuration"),
        ({"losses": "sigmoid"}, None, "configuration"),
        ({"losses": [{"name": "sigmoid", "hyperparameters": {"name": 1}}]}, LN2, "configuration"),
        ({"loss_type": "rpo"}, None, "configuration"),
        ({"loss_type": "rpo", "hyperparameters": {"rpo_alpha": 0.0}}, LN2, "configuration"),
        ({"loss_type": "all_pairs"}, LN2, "configuration"),
        ({"loss_type": "davidson", "hyperparameters": {"tie_strength": 2.0}}, math.log(4), "configuration"),
        ({"loss_type": "rao_kupper"}, math.log(2.5), "configuration"),
        ({"loss_type": "plackett_luce", "beta": 0.2}, None, "configuration"),
        ({"loss_type": "their own"}, LN2, "start value"),
        ({"loss_type": "sigmoid", "beta": -3}, None, "configuration"),
        ({}, LN2, "start value"),
    ],
    ids=str,
)
def test_the_objective_from_the_configuration_or_the_start(
    config: dict[str, object], start: float | None, how: str
) -> None:
    case = example({"loss": [0.6931, 0.68]}, stage="dpo", **config)
    assert case.objective.start == (None if start is None else pytest.approx(start))
    assert case.objective.how == how


@pytest.mark.parametrize(
    ("name", "first", "start"),
    [
        ("plackett_luce", math.log(6), math.log(6)),
        ("plackett_luce", math.log(120), math.log(120)),
        ("plackett_luce", 2.5, None),  # rankings of several sizes
        ("sigmoid", LN2, LN2),
        ("sigmoid", 1.31, None),  # a column of margins
        ("rao_kupper", 1.2, None),  # ties
    ],
)
def test_the_start_is_what_the_first_loss_says(name: str, first: float, start: float | None) -> None:
    """It is computed before the first update. Of a margin that is not 0 any more it says nothing."""
    for margin, expected in ((0.0, start), (0.3, None if name == "plackett_luce" else objective(name).start)):
        case = example({"loss": [first, 0.9], "rewards/margins": [margin, 0.4]}, stage="dpo", loss_type=name)
        assert case.objective.start == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ({}, LN2),
        ({"loss_type": "bce"}, LN2),
        ({"loss_type": "mse"}, None),
        ({"loss_type": "plackett_luce"}, None),
        ({"loss_type": "davidson", "hyperparameters": {"tie_strength": 2.0}}, math.log(4)),
        ({"losses": [{"name": "bradley_terry", "weight": 2.0}, {"name": "rao_kupper"}]}, 2 * LN2 + math.log(2.5)),
        ({"losses": [{"name": "bradley_terry"}, {"name": "plackett_luce"}]}, None),
        ({"loss_type": "of somebody"}, None),
        ({"losses": "bradley_terry"}, None),
    ],
)
def test_what_equal_scores_of_a_reward_model_give(config: dict[str, object], start: float | None) -> None:
    found = example({"loss": [0.7], "accuracy": [0.5]}, stage="reward", **config).objective
    assert found.start == (None if start is None else pytest.approx(start))
    is_known = found.loss is not None
    assert found.how == ("configuration" if is_known else "unknown")
    assert is_known is (config not in ({}, {"loss_type": "of somebody"}, {"losses": "bradley_terry"}))


@pytest.mark.parametrize(
    ("config", "start"),
    [({}, 0.5), ({"loss_type": "apo_zero_unpaired", "desirable_weight": 3.0, "undesirable_weight": 3.0}, 1.5),
     ({"loss_type": "kto", "desirable_weight": 2.0}, None)],
)  # fmt: skip
def test_half_the_weight_of_a_thumb_is_its_loss_at_the_start(config: dict[str, object], start: float | None) -> None:
    assert example({"loss": [0.7]}, stage="kto", **config).objective.start == start


LOSSES_OF_POLICIES = sorted({*PREFERENCE_LOSSES, *RANKING_LOSSES} - {"bradley_terry"})


@pytest.mark.parametrize("name", LOSSES_OF_POLICIES)
def test_a_healthy_curve_of_any_loss_is_below_its_start_and_learns(name: str) -> None:
    """From the value that its declaration gives for rankings of four, falling by a tenth: no rule of starts speaks."""
    declared = comparison_loss_declaration(name)
    first = declared.zero_margin_value(num_completions=4) + 2.0 * declared.nll_weight()
    losses = [first, *(first * (1 - 0.1 * i / 60) + 0.001 * (-1) ** i for i in range(60))]
    series = {"loss": losses, "rewards/margins": [0.0, *(0.02 * i for i in range(60))],
              "eval_loss": {0: first, 30: 0.95 * first, 60: 0.9 * first},
              "eval_rewards/accuracies": {0: 0.5, 30: 0.6, 60: 0.65}}  # fmt: skip
    report = examine(example(series, stage="dpo", loss_type=name))
    assert not [one.rule for one in report.findings if one.severity != "info"]


@pytest.mark.parametrize(("first", "loss"), [(0.70, "sigmoid"), (1.0, "hinge"), (25.2, "ipo"), (2.0, None)])
def test_the_objective_from_the_start_value(first: float, loss: str | None) -> None:
    assert example({"loss": [first, first], "rewards/margins": [0.0, 0.1]}, stage="dpo").objective.loss == loss


def test_beta_from_held_out_rows_measured_again() -> None:
    sums = {100: -50.0, 200: -55.0, 300: -61.0}
    series = {f"eval_logps/{side}": sums for side in ("chosen", "rejected")}
    series |= {f"eval_rewards/{side}": {k: 0.1 * (v + 49) for k, v in sums.items()} for side in ("chosen", "rejected")}
    assert example({**series, "loss": [0.69, 0.6]}, stage="dpo").objective.beta == 0.1


def test_the_same_curve_is_healthy_under_one_loss_and_broken_under_another() -> None:
    """A loss of 1 at the start, falling to 0.9: hinge. Under sigmoid it is above its start to the end."""
    series = {"loss": [1.0 - 0.005 * i + 0.01 * (-1) ** i for i in range(25)]}
    found = {
        loss: [one.rule for one in examine(example(series, stage="dpo", loss_type=loss)).findings]
        for loss in ("hinge", "sigmoid")
    }
    assert found["hinge"] == []
    assert "loss_above_start" in found["sigmoid"]


def test_of_two_values_at_one_step_the_later_counts_and_going_back_is_counted() -> None:
    case = make_case({"loss": ([1, 2, 3, 2, 3], [5.0, 4.0, 3.0, 2.0, 1.0])}, stage="sft")
    assert (case["loss"].steps, case["loss"].values) == ((1, 2, 3), (5.0, 2.0, 1.0))
    assert case.rewinds == 1


def finding(severity: str, **fix: object) -> Finding:
    return Finding(severity=severity, verdict="", evidence=(), next_action="", fix=fix)  # type: ignore[arg-type]


def test_an_option_is_changed_once_by_the_gravest_finding() -> None:
    config = {"learning_rate": 1e-4, "num_ppo_epochs": 20, "kl_coef": 0.0}
    found = [finding("warning", learning_rate=times(0.5)), finding("fatal", learning_rate=times(0.1), beta=to(0.1)),
             finding("fault", num_ppo_epochs=times(0.25), kl_coef=times(4.0))]  # fmt: skip
    made = {one.option: one.after for one in changes(config, found)}
    assert made == {"learning_rate": 1e-5, "num_ppo_epochs": 5}  # beta is no option of the run; 4 times 0 is no change


HOSTILE = {
    "cut in the middle of a line": lambda text: text[: len(text) * 2 // 3],
    "lines of two runs": lambda text: "".join(
        line for pair in zip(text.splitlines(True), text.splitlines(True), strict=True) for line in pair[::-1]
    )
    + text,
    "bytes that are no text": lambda text: text.replace("loss", "l\udcffss", 3),
    "not a number everywhere": lambda text: text.replace(": 0.", ': NaN, "x": 0.'),
    "strings for numbers": lambda text: re.sub(r": (0\.\d+)", r': "\1"', text),
    "one step": lambda text: text.splitlines(True)[0],
    "nothing": lambda text: "",
    "names that nobody knows": lambda text: text.replace("rewards/", "r3w4rds/").replace("loss", "l0ss"),
    "huge numbers": lambda text: text.replace("0.5", "9" * 400),
    "negative steps": lambda text: text.replace('"step": ', '"step": -'),
    "a deep line": lambda text: text + "[" * 100_000 + "\n",
    "an object for a number": lambda text: text.replace('"loss": 0', '"loss": {"a": 1}, "b": 0'),
}  # fmt: skip


@pytest.mark.parametrize("spoiled", HOSTILE)
@pytest.mark.parametrize("ours", [True, False], ids=["run", "log"])
def test_a_damaged_log_gives_no_traceback_and_no_finding_of_what_it_does_not_hold(
    spoiled: str, ours: bool, tmp_path: Path
) -> None:
    margins = [0.02 * i for i in range(40)]
    run = write_run(tmp_path / "run", dpo_rows(margins), loss_type="sigmoid", beta=0.1)
    log = run / "metrics.jsonl"
    log.write_bytes(HOSTILE[spoiled](log.read_text()).encode("utf-8", errors="surrogateescape"))
    if not ours and spoiled in ("nothing", "negative steps"):
        with pytest.raises(DataError):
            open_case(log)
        return
    report = examine(open_case(run if ours else log))
    assert not [reason for _, reason in report.not_checked if "failed" in reason]
    assert not {one.rule for one in report.findings} - {"two_writers", "not_finite"}
    for one in report.findings:
        json.dumps(one.as_dict())
        assert all(fact.metric in report.case.series or fact.metric in report.case.not_finite or fact.steps is None
                   for fact in one.evidence)  # fmt: skip


def test_random_rubbish_gives_no_traceback() -> None:
    names = ["loss", "grad_norm", "epoch", "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen",
             "logps/rejected", "rewards/accuracies", "eval_loss", "eval_rewards/accuracies", "objective/kl",
             "objective/kl_se", "objective/scores", "objective/scores_std", "rollout/eos_rate", "policy/approxkl_avg",
             "rollout/completion_length", "val/explained_variance", "policy/entropy_avg", "gold/total", "accuracy",
             "margin", "mean_reward", "rewards/a/mean", "rewards/b/mean", "objective/non_score_reward",
             "learning_rate", "frac_reward_zero_std", "ensemble_std", "policy/clipfrac_avg"]  # fmt: skip
    shapes = [lambda: 0.0, lambda: random.gauss(0, 1), lambda: random.choice([0.0, 1e300, -1e300, 1e-300, math.nan])]
    random.seed(0)
    for stage in ("sft", "reward", "dpo", "kto", "online-dpo", "ppo", "grpo", None):
        for length in (1, 2, 3, 5, 8, 21):
            for shape in shapes:
                columns = {name: (list(range(length)), [shape() for _ in range(length)]) for name in names}
                report = examine(make_case(columns, stage=stage, config={"kl_coef": 0.1, "batch_size": 8}))
                assert not [reason for _, reason in report.not_checked if "failed" in reason]


def test_a_spread_is_no_gold() -> None:
    """A part of the reward has several figures; the level may be the shorter series, where it was NaN at times."""
    for names in (("rewards/gold", "rewards/gold/std"), ("rewards/gold/std", "rewards/gold/mean")):
        case = example({name: [0.1] * (8 + name.endswith("std")) for name in names}, stage="ppo")
        found = gold_of(case)
        assert found is not None
        assert not found[0].endswith("std")
    assert gold_of(example({"rewards/gold/std": [0.1] * 8}, stage="ppo")) is None


def rules_of(name: str) -> tuple[Case, dict[str, str], str]:
    report = examine(open_case(FOREIGN / name))
    return report.case, {one.rule: one.severity for one in report.findings}, report.verdict


@real_logs
def test_a_noisy_dpo_run_that_learns() -> None:
    case, found, _ = rules_of("dpo_llama2_miniguanaco_trainer_state.json")
    assert (case.objective.loss, case.objective.beta) == ("sigmoid", 0.1)
    assert set(found.values()) <= {"warning", "info"}
    assert "not_finite" in found  # its cause: the learning rate


@real_logs
def test_a_run_in_its_warm_up() -> None:
    case, found, verdict = rules_of("llamafactory_360_dpo_warmup_trainer_log.jsonl")
    assert case.objective.loss is None
    assert (found, verdict) == ({"warming_up": "info"}, "cannot be judged yet")


@real_logs
def test_memorisation_after_the_first_epoch_in_a_good_model() -> None:
    _, found, _ = rules_of("dpo_zephyr_7b_beta_card.md")
    assert found == {"memorises_epochs": "warning"}


@real_logs
def test_one_row_of_a_run_whose_completions_are_cut() -> None:
    _, found, _ = rules_of("grpo_taubench_trainer_state.json")
    assert found == {"cut_completions": "fault", "grpo_loss_zero": "info"}
