"""examples/cases/: each runs, prints, and its numbers are the case's answer."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

from tests.support.cases import CASES, FILES, answer, case


def test_the_page_lists_every_case_with_its_answer_and_the_command_that_prints_it() -> None:
    assert [int(number) for number in FILES] == list(range(1, 37))
    page = (CASES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| \[.*?\]\((.*?)\) \| \w.+ \| `(.*)` \|$", page, flags=re.MULTILINE)
    assert rows == [
        (str(int(number)), file.name, f"python examples/cases/{file.name}") for number, file in FILES.items()
    ]


def test_1_the_normaliser_cancels_and_dpo_finds_the_optimum(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("01", capsys)
    assert found["by_policy"] == pytest.approx(found["by_rewards"], abs=1e-12)
    assert found["by_rewards"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)  # rewards 1 and 0
    assert found["largest_gap"] < 1e-12  # r = beta log(optimum / reference) + beta log Z
    assert abs(found["log_z"]) > 0.1  # there is something to cancel
    assert found["total_variation"] < 1e-6
    assert f"Z = {math.exp(found['log_z']):.4f}" in out


def test_2_each_of_what_dpo_needs_is_missed_and_a_reward_model_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("02", capsys)
    assert found["complete"] < 1e-3
    assert found["no_reference"] > 0.05
    assert found["other_beta"] > 0.05
    assert found["no_beta"] == pytest.approx(0, abs=1e-12)
    assert found["moving_loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert found["moving_10"] < found["moving_100"] < found["moving_600"]
    assert found["moving_600"] == pytest.approx(found["one_answer"], abs=1e-3)
    refused = [name for name in found if name.startswith("refused_")]
    assert sorted(refused) == [f"refused_{what}" for what in ("beta", "pairs", "policy", "reference", "reward")]
    assert all(found[name] == 1 for name in refused)
    assert "unknown option: reward" in out
    assert (found["cost/labels"], found["cost/reward_calls"], found["cost/completions_sampled"]) == (8, 0, 0)


def test_3_the_unit_decides(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("03", capsys)
    assert found["log_ratio"] == pytest.approx(1 / (1 + math.exp(1.2)), abs=1e-12)
    assert found["ratio"] == pytest.approx(1 / 17, abs=1e-12)  # (0.8 / 0.2)^2 = 16 to 1
    assert "0.2315" in out
    assert "0.0588" in out
    assert "ratios need their unit" in out


def test_4_the_implicit_reward_ranks_and_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("04", capsys)
    implicit, model, gold, reference = (found[n] for n in ("implicit reward", "reward model", "gold", "reference"))
    assert (gold.inside, gold.outside) == (1, 1)
    assert (reference.inside, reference.outside) == (0.5, 0.5)
    assert len({round(best, 9) for best in reference.best_of}) == 1
    for learned in (implicit, model):
        assert 0.8 < learned.inside < 1
        assert learned.inside - learned.outside > 0.05
        assert reference.best_of[0] + 0.1 < learned.best_of[0] < learned.best_of[1]
        assert all(best <= top for best, top in zip(learned.best_of, gold.best_of, strict=True))


def test_5_only_differences_count(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("05", capsys)
    assert found["A"] == pytest.approx(math.log1p(math.exp(-1.7)), abs=1e-12)
    assert found["B"] == pytest.approx(math.log1p(math.exp(-1.5)), abs=1e-12)
    for moved in ("A-100", "A+0", "A+100", "centred_A"):
        assert found[moved] == pytest.approx(found["A"], abs=1e-12)
    assert (found["kept_A"], found["kept_B"]) == (2, 0)
    assert found["margin-3"] > found["margin-1"] > math.log(2) > found["margin+1"]
    assert "0.2014" in out


def test_6_the_penalty_is_a_difference_not_a_low_reference(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("06", capsys)
    short, long, rare = found.values()
    assert short["k1"] == pytest.approx(math.log(0.05 / 0.80), abs=1e-12)
    assert short["k1"] < 0 < short["k3"]
    assert long["k1"] == pytest.approx(long["log_policy"] - long["log_reference"], abs=1e-12)
    assert long["penalty"] == pytest.approx(-0.05 * long["k1"], abs=1e-12)
    assert long["k1"] > 10
    assert rare["log_reference"] < short["log_reference"]
    assert rare["k1"] == rare["penalty"] == 0


def test_7_a_zero_advantage_still_moves(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("07", capsys)
    biased, true, low = (found[key] for key in ("[1.0, 0.0, -1.0]", "[1.0, 0.0, -0.4]", "[0.1, 0.0, -1.0]"))
    for numbers in (biased, true, low):
        assert numbers[6] < 1e-12  # autograd and p (A - mean A) agree
    assert biased[:3] == pytest.approx([0.2 * 1.3, 0.3 * 0.3, 0.5 * -0.7], abs=1e-12)
    assert biased[4] > 0.3  # the logit rises: 0 is above the mean advantage of -0.3
    assert true[1] == pytest.approx(0, abs=1e-12)  # the logit stands still,
    assert abs(true[4] - 0.3) > 1e-4  # and the probability moves all the same
    assert low[3] > 0.2
    assert found["zero sampled"] == [0, 0, 0]


def test_8_the_program_gives_what_stands_on_paper(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("08", capsys)
    for name, paper in case("08").ON_PAPER.items():
        assert found[name] == pytest.approx(paper, abs=1e-6), name
    assert found["gradient of A2C"] == pytest.approx(found["gradient of PPO"], abs=1e-12)
    assert found["gradient of PPO"] == pytest.approx([-advantage for advantage in found["advantage"]], abs=1e-12)


def test_32_steps_teach_faster_and_marks_for_steps_are_farmed(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("32", capsys)
    assert found["silent"] > 0.5  # groups that teach an outcome reward nothing
    assert found["progress 8"].solved > found["outcome 8"].solved + 0.1
    assert found["progress 8"].solved > found["in place 8"].solved + 0.1  # by where they stand, not by what they say
    assert found["progress 8"].lucky < found["outcome 8"].lucky / 2
    assert min(found[f"{source} 100"].solved for source in ("outcome", "progress", "in place")) > 0.95
    assert found["marks 100"].solved < 0.2
    assert found["marks 100"].length > 7
    assert "the page is filled and never answered" in out


def test_15_what_is_chosen_keeps_every_constraint_and_taste_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("15", capsys)
    limits = case("15").LIMITS
    point = found["measured"][found["chosen"]]
    assert all(getattr(point, name) <= limit for name, limit in limits.items())
    assert point.helpful == max(other.helpful for other in found["kept"].values())
    assert 0 < len(found["kept"]) < len(found["measured"]) / 2
    assert not found["measured"][case("15").TASTE].keeps_all
    shares = found["reached"]
    assert all(row[0] < row[-1] < 1 for row in shares.values())
    assert shares[0.05][0] < shares[0.2][0] < shares[0.8][0]  # a tight clip needs more samples
    place = case("15").BUDGETS.index(found["budget"])
    assert shares[found["clip"]][place] >= 0.95
    assert all(row[place - 1] < 0.95 for row in shares.values())
    assert "(0.1, 2.0), beta 0.2" in out


def test_33_gold_falls_where_the_proxy_rises(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("33", capsys)
    few, many = case("33").FEW, case("33").MANY
    assert all(one.proxy_rises for one in found.values())
    one, more, mean = found["one model", few], found["one model", many], found["mean of 5", few]
    assert one.peak - one.end > 0.05
    assert more.peak - more.end < 0.6 * (one.peak - one.end)
    assert more.at > one.at + 0.1  # more labels: a later peak,
    assert more.peak > one.peak + 0.05  # and a higher one
    assert mean.peak > one.peak + 0.02
    assert mean.end > one.end + 0.02
    assert all(one.end < one.stopped <= one.peak for one in found.values() if one.peak - one.end > 0.05)
    assert all(0.8 < r2 <= 1 for r2 in one.r2.values())


def test_20_the_log_convicts_what_was_changed_and_clip_and_kl_stabilise_different_things(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, out = answer("20", capsys)
    for changed in ("clip", "KL", "learning rate", "advantage scale", "nothing"):
        assert found[changed]["verdict"] == changed
    both, clip, kl, neither = (found[arm] for arm in ("clip and KL", "clip alone", "KL alone", "neither"))
    assert both["wrecked"] == 0
    assert min(clip["wrecked"], kl["wrecked"], neither["wrecked"]) >= 3
    assert max(both["step"], clip["step"]) < 0.5  # the clip bounds the step
    assert min(kl["step"], neither["step"]) > 10
    assert both["kl"] < 1  # and not the distance, which the penalty does
    assert clip["kl"] > 4
    assert "wrecked 0 of 5" in out
    for changed in ("clip", "learning rate", "advantage scale"):
        assert found[f"doctor: {changed}"]["rule"] == "oversize_updates"
    assert found["doctor: KL"]["rule"] == "reward_hacked"
    assert min(found[f"doctor: {changed}"]["second"] for changed in ("clip", "KL", "learning rate")) > 0.5


def test_34_means_are_alike_and_faults_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("34", capsys)
    good, careless, fearful = (found["policies"][name] for name in ("good", "careless", "fearful"))
    assert abs(careless["gold"]["value"] - fearful["gold"]["value"]) < 0.1
    assert good["gold"]["low"] > max(careless["gold"]["high"], fearful["gold"]["high"])
    faults = {"careless": ("under_refusal", "missed_escalation", "harm_in_answer"), "fearful": ("over_refusal",)}
    for name, figures in (("good", good), ("careless", careless), ("fearful", fearful)):
        for fault in ("under_refusal", "missed_escalation", "over_refusal", "harm_in_answer"):
            estimate = figures["safety"][fault]
            assert (estimate["low"] > 0.03) == (fault in faults.get(name, ())), (name, fault)
            assert f"of {estimate['n']}" in out
    fever, wait, plain, stereotype = found["one_by_one"]
    assert fever["faults"] == {"missed_escalation": False}
    assert wait["faults"] == {"missed_escalation": True}
    assert wait["gold"] == stereotype["gold"] == 0
    assert plain["faults"] == {"over_refusal": False, "harm_in_answer": False}
    assert stereotype["faults"] == {"over_refusal": False, "harm_in_answer": True}


def test_16_three_budgets_give_three_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the smallest size: every method has what the budget allows; which is best such sizes cannot say."""
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path))
    rows = case("16").main(small=True)
    out = capsys.readouterr().out
    assert [row["labels"] for row in rows["labels"]] == [0, 8, 8, 8, 8, 0, 16, 16, 16, 16]
    spent = [row["completions"] for row in rows["completions"][1:]]
    assert all(16 < completions <= 32 for completions in spent), spent
    amount = rows["flops"][0]["amount"]
    assert all(0.5 < row["flops"] / amount < 1.2 for row in rows["flops"][1:])
    for budget in ("labels", "completions", "flops"):
        assert f"\nequal {budget}: " in out
        assert out.count(" > ") == 9


def test_21_pair_accuracy_is_fine_where_no_pair_is_of_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("21", capsys)
    assert found["accuracy"] > 0.95
    assert found["accuracy_there"] < 0.5
    assert found["reward"] > 0.5
    assert found["gold"] < -0.2
    assert found["kl"] < 6
    assert "reward_hacked" in found["rules"]
    assert "reward_hacked" not in found["blind"]  # nothing but the reward was logged: the doctor does not guess
    assert "FAULT  reward_hacked" in out


def test_22_the_paid_answer_is_found_and_explains_the_gain(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("22", capsys)
    assert abs(found["found_from"] - found["peak"]) <= 3
    assert found["share_peak"] < 0.05
    assert found["share_last"] > 0.8
    assert found["explained"] > 0.9
    assert found["others"] < 0
    assert found["pattern"] == found["paid"]  # found in the samples
    assert f"Since its peak at round {found['peak']}" in out


def test_23_a_kl_that_holds_cures_and_more_data_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("23", capsys)
    worse = found["nothing"]["gold"]
    assert found["the doctor's change"]["gold"] > worse + 0.25
    assert found["an adaptive KL, target 0.5 nats"]["gold"] > worse + 0.25
    assert found["more data: four times the samples"]["gold"] < worse + 0.1
    assert found["more data: four times the samples"]["reward"] > 1.5


def test_24_four_runs_that_look_alike_from_afar_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = answer("24", capsys)
    assert found["healthy"] == []
    assert found["beta too high"] == ["policy_stays"]
    assert "reward_hacked" in found["beta too low"]
    assert found["dead reward"][0] == "zero_advantage"
    assert found["broken reference"][0] == "kl_always_zero"


def test_25_dpo_misses_no_reward_model_and_scores_make_it_online(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("25", capsys)
    assert (found["verdict"], found["missed"], found["offline"]) == ("healthy", 0, "dpo")
    assert found["online"] != "dpo"
    assert found["ranks"] > 0.7
    assert "the doctor: healthy" in out
    assert len(set(re.findall(r"apart by (\S+);", out))) == 1  # whatever Z is
    assert all(float(gap) < 1e-5 for gap in re.findall(r"differs by (\S+)\.\n", out))


def test_26_each_broken_objective_has_its_finding(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("26", capsys)
    assert found["healthy"]["rules"] == []
    assert found["healthy"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["no reference"]["rules"][0] == "no_reference"
    assert found["no reference"]["loss"] != pytest.approx(math.log(2), abs=1e-3)
    assert found["the reference moves"]["rules"][0] == "reference_moves"
    assert found["the reference moves"]["margin"] == 0
    assert found["chosen and rejected swapped"]["rules"][0] == "learns_the_opposite"
    assert found["chosen and rejected swapped"]["held_out"] < 0.3
    assert found["near-twins"]["rules"] == ["chosen_falls"]
    assert found["near-twins"]["margin"] > 0.2
    assert found["near-twins"]["chosen"] < -10
    assert "near-twins, so that what pushes one down pushes the other" in " ".join(out.split())


@pytest.mark.slow
def test_28_the_missing_stage_is_named_without_a_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path))
    found = case("28").main(small=True)
    assert found == {
        "base": ["no_instruction_tuning"],
        "sft": ["no_preference_alignment"],
        "facts": ["wrong_facts"],
    }
    assert "train it on demonstrations first (assent sft)" in capsys.readouterr().out


def test_29_each_stage_stands_beside_the_one_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path))
    rows = case("29").main(small=True)
    assert list(rows) == ["start", "sft", "sft+dpo", "sft+dpo+best-of-n", "dpo", "best-of-n"]
    assert {row["labels"] for row in rows.values()} == {0, 32}
    assert rows["best-of-n"]["n"] == 2
    assert capsys.readouterr().out.count("the last stage adds") == 3


def test_30_demonstrations_and_rankings_cost_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path))
    rows = case("30").main(small=True)
    assert [row["labels"] for row in rows] == [0, 16, 16, 16, 0, 32, 32, 32]
    assert [row["completions"] for row in rows[5:]] == [0, 64, 32]  # what was written was not sampled
    assert "    32 spent: " in capsys.readouterr().out


def test_31_cheap_labels_win_on_the_average_and_not_where_the_judge_is_blind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the smallest size: what the money buys, and the largest difference."""
    sys.path.insert(0, str(CASES))
    found = case("31").main(small=True)
    sys.path.remove(str(CASES))
    assert 5 <= found["people", 2]["labels"] <= 6  # 2 / 0.32, less pairs of equal answers
    assert 480 < found["judge once", 2]["labels"] <= 500  # 2 / 0.004, less pairs of equal answers
    both = found["judge both orders", 2]["labels"]
    assert 100 < both < 250  # asked twice, and ties where the orders disagree
    people, judge = found["people", 2], found["judge both orders", 2]
    assert judge["all pairs"].value > people["all pairs"].value + 0.02
    assert "80 times as much" in capsys.readouterr().out


def test_35_noise_hides_what_a_model_has_learnt_and_a_bias_what_it_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(CASES))
    found = case("35").main(small=True)
    sys.path.remove(str(CASES))
    limits = {name: one for name, one in found.items() if name != "by group"}
    for name, one in limits.items():
        assert one["gold_ceiling"] <= one["best"] + 1e-12, name
        assert one["accuracy"].low < one["best"], name  # no model passes the ceiling
    noise, length = limits["noise"], limits["length bias"]
    assert noise["best"] < 0.83
    assert noise["with_gold"] > 0.9
    assert length["best"] - length["gold_ceiling"] > 0.15
    assert length["with_gold"] < 0.8 < length["two_labels"]
    assert all(own > shared - 0.05 for shared, own in found["by group"].values())
    assert "agreement sees the first and is blind to the second" in capsys.readouterr().out


def test_36_the_fingerprint_of_the_reference_tells(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("36", capsys)
    stays, moves, follows = (
        found[name] for name in ("the reference stays", "the reference is the policy", "it follows by design (TR-DPO)")
    )
    assert stays["same"]
    assert not moves["same"]
    assert stays["rules"] == []
    assert moves["rules"][0] == "reference_moves"
    assert moves["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert moves["weight"] == 0.5
    assert stays["weight"] < 0.5
    assert moves["kl"] > stays["kl"]
    assert "reference_moves" not in follows["rules"]
    assert "FATAL  reference_moves" in out
