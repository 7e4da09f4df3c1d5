"""examples/cases/ that choose a method: each runs, prints, and its answer is the case's."""

from __future__ import annotations

import sys

import pytest

from tests.support.cases import CASES, answer, case


def test_9_static_pairs_and_no_sampling_are_dpo_and_say_what_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("09", capsys)
    assert found["choice"]["method"] == "dpo"
    excluded = {
        one["method"] for one in found["choice"]["alternatives"] if one["excluded"] == "ruled out by no-sampling"
    }
    assert {"ppo", "grpo", "online-dpo"} <= excluded
    assert "1,200 pairs" in out
    assert "best-of-n: gives up serving cost" in out


def test_10_every_method_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("10", capsys)
    assert found["choice"]["method"] == "dpo"
    for method, needs in found["methods"].items():
        assert all(needs[what] in out for what in ("wants", "phases", "resident", "samples", "fails_by")), method


def test_11_old_labels_know_no_new_products_and_fresh_feedback_is_iterated(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("11", capsys)
    right, known = zip(*found["measured"].values(), strict=True)
    assert known[0] == 1.0
    assert right[-1] <= right[0] < 1  # taste moves the order of few of these pairs
    assert known[-1] < 0.1
    assert [found[feedback]["choice"]["method"] for feedback in ("fixed", "fresh")] == ["dpo", "iterated-dpo"]
    assert found["found"][0.0] == []
    assert all("prompts_moved" in causes for day, causes in found["found"].items() if day > 0)


def test_12_an_offline_medical_assistant_has_gates_and_thin_slices_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, out = answer("12", capsys)
    plan = found["plan"]
    assert (plan["choice"]["first"], plan["choice"]["method"]) == ("demonstrations", "dpo")
    gates = [stage for stage in plan["stages"] if stage["command"] == "gate"]
    assert [gate["name"] for gate in gates] == ["gate-agreement", "gate-release"]
    assert gates[1]["options"]["max_safety"]["missed_escalation"] == 0.05
    kinds = [{part["value"] for part in found[one]["evaluation"]["slices"]} for one in ("plan", "without")]
    assert kinds[0] - kinds[1] == {"escalate"}
    same, moved = found["watched"].values()
    assert (same["causes"], moved["causes"]) == ([], ["prompts_moved"])
    assert "    escalate: 10% of the requests -> 1" in out


def test_13_stakes_and_agreement_change_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("13", capsys)
    methods = {title: plan["choice"]["method"] for title, plan in found.items()}
    assert methods == {
        "high stakes, raters disagree": "sft",
        "high stakes, raters agree": "dpo",
        "low stakes, raters agree": "dpo",
    }


def test_14_each_kind_of_data_has_its_method(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("14", capsys)
    methods = [plan["choice"]["method"] for plan in found.values()]
    assert methods == ["sft", "kto", "pl-dpo", "best-of-n", "kto", "dpo"]
    assert found["scores of raters who disagree"]["choice"]["reward_options"] == {"num_heads": 4}
    assert found["logs with log-probabilities"]["choice"]["options"]["reference"] == "logged"


def test_17_the_gates_close_and_open(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(CASES))
    try:
        found = case("17").main(small=True)
    finally:
        sys.path.remove(str(CASES))
    stopped = found["stopped"]
    assert "eval_rewards/accuracies" in stopped["strict"]
    assert "nobody has signed" in stopped["unsigned"]
    assert "another model" in stopped["wrong"]
    assert stopped["signed"] == ""
    assert "another model" in found["report"]
    assert found["gate"]["signed"]["signed_by"] == "Ada"
    for part in ("apache-2.0", "## Gates", "under_refusal, at most | 0.7", "## Sign-off", "## Rollback"):
        assert part in found["document"]


def test_19_money_goes_where_labels_help(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("19", capsys)
    shares = {one["problem"]: one["share"] for one in found["spending"]}
    assert shares["wrong-facts"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert found["choice"]["method"] == "collect"
    assert "no preference method mends it" in out
