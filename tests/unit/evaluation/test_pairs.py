"""`assent eval --reward-model RM --data PAIRS`: rankings taken apart, figures, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assent.commands.evaluate import evaluate
from assent.config.evaluation import EvalConfig, short_names
from assent.errors import ConfigError, DataError
from assent.evaluation.pairs import judge_reward, pairs_of
from assent.rewards.function import FunctionReward
from assent.types import Preference, PromptGroup


def digits(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(text.split()[0]) for text in completions]


def ranked(number: int, *texts: str, topic: str = "x", annotator: str | None = None, **preference: Any) -> PromptGroup:
    return PromptGroup(
        prompt=f"p{number}",
        completions=texts,
        preference=Preference(annotator=annotator, **preference),
        columns={"topic": topic},
        source=f"rows.jsonl:{number + 1}",
    )


def test_rankings_are_taken_apart_into_ordered_pairs() -> None:
    groups = [ranked(0, "3", "1", "2", scores=(0.9, 0.1, 0.9)), ranked(1, "1", "2", ranking=(2, 1), topic="y")]
    pairs = pairs_of(groups, slices=["topic"])
    assert list(zip(pairs.rows, pairs.chosen, pairs.rejected, strict=True)) == [(0, 0, 1), (0, 2, 1), (1, 1, 0)]
    assert pairs.num_tied == 1
    assert pairs.slices == {"topic": ["x", "x", "y"]}
    assert pairs.describe() == "3 pairs of 2 prompts (1 ties left out)"

    quality = judge_reward(FunctionReward(digits, name="digits"), groups, pairs)
    assert quality["accuracy"]["value"] == 1.0
    assert quality["accuracy"]["clusters"] == 2
    assert quality["margin"]["value"] == pytest.approx((2 + 1 + 1) / 3)
    assert quality["agreement"] is None
    assert quality["slices"]["topic"]["y"]["n"] == 1


def test_soft_labels_say_which_is_better_and_weights_are_said_to_be_unused() -> None:
    groups = [ranked(n, "1", "2", ranking=(1, 2), chosen_probability=p) for n, p in enumerate((0.9, 0.2, 0.5))]
    groups += [ranked(3, "1", "2", ranking=(1, 2), weight=0.0)]
    pairs = pairs_of(groups)
    assert list(zip(pairs.rows, pairs.chosen, pairs.rejected, strict=True)) == [(0, 0, 1), (1, 1, 0), (3, 0, 1)]
    assert pairs.describe() == "3 pairs of 3 prompts (1 ties left out) (the weights of 1 rows are not used)"


def test_labels_of_several_annotators_give_a_ceiling() -> None:
    groups = [
        ranked(0, "2", "1", ranking=(1, 2), annotator="ann"),
        ranked(0, "1", "2", ranking=(2, 1), annotator="bob"),  # the same opinion, written the other way round
        ranked(0, "2", "1", ranking=(2, 1), annotator="cyd"),
    ]
    quality = judge_reward(FunctionReward(digits, name="digits"), groups, pairs_of(groups, slices=["annotator"]))
    assert quality["agreement"]["value"] == pytest.approx(1 / 3)
    assert quality["accuracy"]["value"] == pytest.approx(2 / 3)
    assert {name: e["value"] for name, e in quality["slices"]["annotator"].items()} == {"ann": 1, "bob": 1, "cyd": 0}


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is neither a comparison"):
        pairs_of([ranked(0, "1", thumbs=(True,))])
    with pytest.raises(DataError, match="no ordered pair of completions"):
        pairs_of([ranked(0, "1", "2", ranking=(1, 1))])
    with pytest.raises(ConfigError, match="has no column topics"):
        pairs_of([ranked(0, "1", "2", ranking=(1, 2))], slices=["topics"])
    many = [ranked(i, "1", "2", ranking=(1, 2), topic=str(i)) for i in range(60)]
    with pytest.raises(ConfigError, match="too many values"):
        pairs_of(many, slices=["topic"])


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"prompt": f"p{i}", "chosen": f"{i % 5} a", "rejected": f"{i % 3} b", "topic": i % 2} for i in range(30)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_eval_without_policies_judges_the_reward_and_writes_only_where_asked(data: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"reward_model": f"{__name__}:digits", "data": data, "slices": ["topic"]}
    result = evaluate(EvalConfig(**given))
    right = [(i % 5 > i % 3) + 0.5 * (i % 5 == i % 3) for i in range(30)]
    assert result["reward_model"]["accuracy"]["value"] == pytest.approx(sum(right) / 30)
    assert set(result["reward_model"]["slices"]["topic"]) == {"0", "1"}
    assert result["evaluation"] is None
    assert any(line.startswith("accuracy ") for line in result["lines"])
    written = evaluate(EvalConfig(**given, output_dir=str(tmp_path / "out")))
    stored = json.loads(Path(written["evaluation"]).read_text())
    assert stored["reward_model"] == result["reward_model"]
    assert Path(written["table"]).read_text().splitlines() == written["lines"]
    with pytest.raises(ConfigError, match="max_length has no effect on a function"):
        evaluate(EvalConfig(**given, max_length=64))
    with pytest.raises(ConfigError, match="reward_ensemble has no effect"):
        evaluate(EvalConfig(**given, reward_ensemble="min"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give policy and baseline"),
        ({"reward_model": "rm", "baseline": "sft"}, "baseline has no effect without policies"),
        ({"reward_model": "rm", "reward_pairs": "x"}, "reward_pairs has no effect without policies"),
        ({"policies": {"sft": "m"}}, "policies needs baseline"),
        ({"policy": "m"}, "needs policy and baseline"),
        ({"against": ["m"], "baseline": "b"}, "needs policy and baseline"),
        ({"policy": "m", "baseline": "b", "policies": {"a": "m"}}, "give one form"),
        ({"policy": "m", "baseline": "m"}, "the same thing twice"),
        ({"policy": "m", "baseline": "b", "judge": "j", "pair_judge": "p"}, "give one of them"),
        ({"policy": "m", "baseline": "b", "pair_judge": "http://h/v1"}, "give judge_model"),
        ({"policy": "m", "baseline": "b", "pair_judge": "m:f", "judge_model": "x"}, "judge_model has no effect"),
        ({"policy": "m", "baseline": "b", "judge_rubric": "x"}, "judge_rubric has no effect"),
        ({"policy": "m", "baseline": "b", "rank_by": "who"}, "rank_by has no effect"),
        ({"policy": "m", "baseline": "b", "labels": "l"}, "labels has no effect"),
        ({"policy": "m", "baseline": "b", "reference": "z"}, "reference 'z' is not among the policies"),
        ({"reward_model": "rm", "pair_judge": "m:f"}, "pair_judge has no effect without policies"),
        ({"reward_model": "rm", "reward_ensemble": "median"}, "no such way to combine"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvalConfig(data="pairs.jsonl", **options)


def test_policy_and_against_are_short_for_policies() -> None:
    short = EvalConfig(
        policy="runs/dpo/model",
        baseline="runs/sft/model",
        against=["ppo/completions.jsonl", "org/base"],
        data="p.jsonl",
        reference="org/base",
    )
    named = {"sft": "runs/sft/model", "dpo": "runs/dpo/model", "ppo": "ppo/completions.jsonl", "base": "org/base"}
    assert dict(short.policies) == named
    assert list(short.policies) == list(named)
    assert (short.baseline, short.reference, short.policy, short.against) == ("sft", "base", None, [])
    assert EvalConfig(policies=named, baseline="sft", reference="base", data="p.jsonl") == short


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/model", "b/model"], ["a", "b"]),
        (["x/a/model", "y/a/model"], ["x/a", "y/a"]),
        (["new.jsonl.gz", "old.jsonl"], ["new", "old"]),
        (["model", "a.jsonl"], ["model", "a"]),
        (["one/a.jsonl", "one/a.jsonl.gz"], ["one/a.jsonl", "one/a.jsonl.gz"]),
    ],
)
def test_a_paths_name_says_what_it_is(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names
