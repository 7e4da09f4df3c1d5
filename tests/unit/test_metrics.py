"""Every name that a run writes is declared once, with unit, direction and meaning."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import assent.metrics
from assent.errors import UsageError
from assent.metrics import declared, lookup

TRL_NAMES = [
    "loss",
    "grad_norm",
    "learning_rate",
    "epoch",
    "num_tokens",
    "entropy",
    "mean_token_accuracy",
    "logits/chosen",
    "logits/rejected",
    "logps/chosen",
    "logps/rejected",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "accuracy",
    "margin",
    "min_reward",
    "mean_reward",
    "max_reward",
    "eps",
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/ratio",
    "val/ratio_var",
    "val/num_eos_tokens",
    "episode",
]


@pytest.mark.parametrize("name", TRL_NAMES)
def test_trl_names_are_declared_exactly(name: str) -> None:
    assert lookup(name).name == name
    assert lookup(name) in declared()


def test_every_declaration_is_complete_and_unique() -> None:
    names = [metric.name for metric in declared()]
    assert len(names) == len(set(names)) > 60
    for metric in declared():
        assert metric.direction in ("higher", "lower", "none")
        assert metric.unit
        assert len(metric.definition) > 8


def test_a_definition_may_hold_a_bar() -> None:
    assert "log π(chosen | prompt)" in lookup("logps/chosen").definition


def test_a_name_is_found_by_its_pattern_and_behind_a_prefix() -> None:
    assert lookup("loss/nll").unit == "nats"
    assert lookup("rewards/helpful").name == "rewards/helpful"
    assert lookup("eval_rewards/margins").direction == "higher"
    assert lookup("eval_rewards/margins").definition.startswith("on held-out data: ")
    assert lookup("critic/loss/value_avg").unit == "reward²"
    assert lookup("loss/policy_avg").unit == "1"  # an exact name wins over loss/<term>


def test_the_ends_of_an_interval_are_declared_with_their_figure() -> None:
    low = lookup("eval_rewards/accuracies_low")
    assert (low.direction, low.unit) == ("higher", "fraction")
    assert "lower end of the 95% interval" in low.definition
    assert "comparisons with a positive margin" in low.definition
    assert "upper end" in lookup("margin_high").definition


@pytest.mark.parametrize(
    "name", ["los", "loss/a/b", "rewards/", "cost/coffee", "eval_eval_loss", "gate/", "loss/", "kl_", "val/x"]
)
def test_an_undeclared_name_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="not declared"):
        lookup(name)


def test_the_error_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="rewards/accuracies"):
        lookup("rewardsaccuracies")


def test_every_name_in_the_source_is_declared() -> None:
    """String literals that look like a metric of one of the families, wherever they stand."""
    families = {metric.name.split("/")[0] for metric in declared() if "/" in metric.name}
    root = Path(assent.metrics.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        if path.name == "metrics.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found |= {text for text in texts if re.fullmatch(r"[a-z]+/[a-z0-9_]+", text) and text.split("/")[0] in families}
    assert len(found) > 20
    for name in found:
        lookup(name)
