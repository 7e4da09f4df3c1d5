"""The rules as data: they are complete, they cite what they quote, and constraints do what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from assent.config.loading import parse_options
from assent.config.plan import PlanConfig
from assent.errors import ConfigError
from assent.pipelines.steps import STEPS
from assent.planning.choice import choose, exclusions, spending
from assent.planning.facts import Facts
from assent.planning.rules import ASKED, QUOTED, Situation, described, failing, holds, rules

PAIRS = Situation(Facts(pairs=4000, largest_group=2))


def every_rule() -> list[dict[str, Any]]:
    return [*rules()["prefer"], *rules()["first"], *rules()["options"]]


def test_every_rule_names_facts_and_methods_that_exist_and_has_a_source() -> None:
    known = {*Facts.names(), *ASKED, "any"}
    for rule in every_rule():
        assert rule["source"]
        assert set(rule["when"]) <= known
        assert set(QUOTED.findall(rule["reason"])) <= set(Facts.names())
        for method in [rule["method"]] if "method" in rule else rule["methods"]:
            assert method in rules()["methods"]
    for method in rules()["methods"].values():
        assert method["command"] in STEPS
        assert method["source"]
        assert all(set(need) <= known for need in method["needs"])
    for constraint in rules()["constraints"].values():
        assert set(constraint["excludes"]) <= set(rules()["methods"])


def test_a_method_that_is_asked_for_is_planned_unless_it_is_impossible() -> None:
    choice = choose(PAIRS, method="kto")
    assert choice.method == "kto"
    assert "by the facts it would be dpo: 4,000 pairs" in choice.reasons[0].text
    assert choose(PAIRS, method="dpo") == choose(PAIRS)
    with pytest.raises(ConfigError, match="pl-dpo is not possible here"):
        choose(PAIRS, method="pl-dpo")


@pytest.mark.parametrize("option", ["constraint", "problem"])
def test_the_options_of_the_command_are_those_that_have_a_rule(option: str) -> None:
    from typing import get_args

    (kind, _) = get_args(PlanConfig.model_fields[option].annotation)
    assert set(get_args(kind)) == set(rules()[f"{option}s"])
    (methods, _) = get_args(PlanConfig.model_fields["method"].annotation)
    assert set(get_args(methods)) == set(rules()["methods"])


def test_a_fact_that_the_data_does_not_tell_meets_no_condition_on_its_size() -> None:
    assert not holds({"agreement": {"below": 0.9}}, PAIRS)
    assert not holds({"agreement": {"at_least": 0.0}}, PAIRS)
    assert holds({"pairs": {"at_least": 4000, "below": 4001}}, PAIRS)
    assert not holds({"pairs": {"below": 4000}}, PAIRS)
    assert list(failing({"pairs": 4000, "reward": ["model", "function"]}, PAIRS)) == [("reward", ["model", "function"])]


def test_a_constraint_excludes_what_it_says_and_is_named() -> None:
    held = Situation(PAIRS.facts, frozenset({"no-sampling"}))
    excluded = exclusions(held, {})
    assert {name for name, why in excluded.items() if why == "ruled out by no-sampling"} == {
        "ppo", "grpo", "online-dpo", "iterated-dpo", "collect"
    }  # fmt: skip
    assert "rankings" in excluded["pl-dpo"]
    assert exclusions(PAIRS, {}).keys() == {"pl-dpo"}


def test_limits_that_exclude_every_method_say_what_to_do() -> None:
    everything = dict.fromkeys(rules()["methods"], "needs 90 GiB of 24")
    with pytest.raises(ConfigError, match="larger hardware"):
        choose(PAIRS, everything)


def test_a_method_that_does_not_fit_gives_way_to_the_next_rule() -> None:
    facts = replace(PAIRS.facts, demonstrations=500)
    choice = choose(Situation(facts), {"dpo": "needs 90 GiB of 24"})
    assert choice.method == "sft"
    (dpo,) = [one for one in choice.alternatives if one.method == "dpo"]
    assert dpo.excluded == "needs 90 GiB of 24"


def test_two_constraints_together_are_both_named_where_both_must_go() -> None:
    held = Situation(Facts(prompts=100), frozenset({"no-sampling", "no-new-labels", "regulated"}))
    with pytest.raises(ConfigError, match="lift no-new-labels and no-sampling: then collecting data"):
        choose(held)


def test_it_says_when_the_answer_would_change() -> None:
    changes = choose(Situation(Facts(pairs=500, largest_group=2))).changes
    assert "dpo, once pairs: 1,000 or more" in changes
    assert "dpo, with --constraint one-answer" in changes
    assert "iterated-dpo, with --feedback fresh" in changes
    assert "grpo, with a function as --reward" in choose(PAIRS).changes
    held = choose(Situation(Facts(pairs=500, largest_group=2), frozenset({"one-answer"})))
    assert "best-of-n, without --constraint one-answer" in held.changes


def test_a_figure_of_a_reason_says_what_it_measures() -> None:
    (reason, *_) = choose(Situation(Facts(pairs=146, largest_group=2))).reasons
    assert "a mean gold score of 0.52 [0.47, 0.58], DPO one of 0.45 [0.42, 0.48], from 0.38" in reason.text


def test_a_budget_is_divided_over_what_labels_can_mend() -> None:
    found = spending(Situation(Facts(prompts=10), problems=("wrong-facts", "rude", "unsafe")))
    assert [one["mends"] for one in found] == [False, True, True]
    assert found[0]["share"] == 0
    assert sum(one["share"] for one in found) == pytest.approx(1)


def test_conditions_in_words() -> None:
    assert described("pairs", {"at_least": 100, "below": 1000}) == "pairs: 100 to below 1,000"
    assert described("agreement", {"below": 0.65}) == "agreement: below 65%"
    assert described("any", [{"pairs": 0}, {"constraint": "one-answer"}]) == "pairs: 0 or --constraint one-answer"


@pytest.mark.parametrize("constraints", [(), ("one-answer",), ("one-answer", "high-stakes"), ("no-sampling",)])
@pytest.mark.parametrize(
    "facts",
    [
        {"scores": 500}, {"steps": 500}, {"prompts": 500, "reward": "model"}, {"prompts": 500, "reward": "function"},
        {"pairs": 50}, {"pairs": 500}, {"thumbs": 50}, {"rankings": 50}, {"demonstrations": 5},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_can_be_trained_on_has_a_method_or_names_what_to_lift(
    facts: dict[str, Any], constraints: tuple[str, ...]
) -> None:
    """No kind of data falls through the list: a constraint that is named as the one to lift does make a method
    possible."""
    situation = Situation(Facts(**facts), frozenset(constraints))
    message = ""
    try:
        choice = choose(situation)
    except ConfigError as error:
        message = str(error)
        freer = situation.constraints - {name for name in constraints if f"lift {name}" in message}
        choice = choose(replace(situation, constraints=freer))
        assert freer < situation.constraints
    assert choice.method not in exclusions(situation, {}) or message


def test_thumbs_of_mostly_one_kind_are_balanced() -> None:
    up = choose(Situation(Facts(thumbs=1000, thumbs_up=0.8)))
    assert up.options == {"undesirable_weight": 4.0}
    down = choose(Situation(Facts(thumbs=1000, thumbs_up=0.2)))
    assert down.options == {"desirable_weight": 4.0}
    assert choose(Situation(Facts(thumbs=1000, thumbs_up=0.5))).options == {}
    assert choose(Situation(Facts(thumbs=1000, thumbs_up=1.0))).options == {}


def test_a_round_on_whole_rankings_counts_each_once_whatever_else_is_known() -> None:
    facts = Facts(rankings=400, largest_group=4, feedback="fresh", longer_wins=0.9, agreement=0.68, noise=0.2)
    choice = choose(Situation(facts))
    assert (choice.method, choice.options) == ("iterated-dpo", {"loss_type": "plackett_luce"})
    assert any("whole rankings" in reason.text for reason in choice.reasons)
    assert choose(Situation(replace(facts, pairs=10))).options == {"loss_type": "sigmoid_norm", "beta": 5}


@pytest.mark.parametrize("noise", [0.494, 0.495, 0.5])
def test_labels_without_a_signal_get_no_loss_for_their_noise(noise: float) -> None:
    """The robust loss refuses a half; what the plan writes must be a loss of the command, and it says what is wrong."""
    choice = choose(Situation(Facts(pairs=5000, largest_group=2, agreement=0.5, noise=noise)), method="dpo")
    command = {"model": "m", "data": "d", "output_dir": "o", **choice.options}
    assert parse_options(STEPS["dpo"].config_class(), command).entries
    told = any("carry no signal" in reason.text for reason in choice.reasons)
    assert told == (noise >= 0.495) == (choice.options == {})


def test_raters_at_chance_are_not_optimised_against() -> None:
    facts = Facts(pairs=5000, largest_group=2, agreement=0.55, noise=0.34)
    assert choose(Situation(facts)).method == "collect"
    assert choose(Situation(replace(facts, demonstrations=400))).method == "sft"
    assert choose(Situation(facts, frozenset({"no-new-labels"}))).options["loss_type"] == "robust"
