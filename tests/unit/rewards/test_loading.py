"""How rewards are written, what is refused, rules by hand, and several rewards as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.config.completions import BestOfNConfig
from assent.config.evaluation import EvalConfig
from assent.config.loading import parse_options
from assent.config.online import GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.rewards import RULES as RULE_NAMES
from assent.config.rewards import SOURCES, kind_of, read_source, read_sources, written
from assent.errors import ConfigError, NonFiniteError, RunError
from assent.metrics import lookup
from assent.rewards.base import Scores, joined
from assent.rewards.combined import WeightedReward
from assent.rewards.function import FunctionReward
from assent.rewards.loading import check_reward, judges_alone, load_reward, reward_hash
from assent.rewards.rules import RULES, rule_of

GIVEN = {"model": "m", "data": "d", "output_dir": "o"}
BREVITY = "tests.support.stages:brevity"
LETTERS = "tests.support.stages:letters"


def test_what_was_hardly_meant_as_a_folder_gets_a_hint() -> None:
    for name, meant in {"lenght": "length", "rw.short": "rw:short", "./rw.py:short": "rw:short, with its"}.items():
        with pytest.raises(ConfigError, match=rf"(?s)no such reward.*did you mean {meant}"):
            check_reward(name)
    with pytest.raises(ConfigError, match=r"(?s)the beta that its policy was trained with.*beta: 0.1"):
        read_source("implicit:a,b")


def test_what_a_text_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    meanings = {
        "runs/rm/model": "model",
        "owner/name": "model",
        "a:b": "model",  # there is such a folder
        "./length": "model",
        "package.module:function": "function",
        "length": "length",
        "https://judge.example/score": "endpoint",
        "implicit:runs/dpo/model,runs/sft/model": "implicit",
        "ensemble": "ensemble",
        "${reward.model}": "model",
    }
    assert {text: kind_of(text) for text in meanings} == meanings
    assert set(RULE_NAMES) == RULES.keys()
    assert set(RULE_NAMES) < SOURCES.keys()


def test_flags_yaml_and_python_say_the_same() -> None:
    as_flags = ["runs/rm/model", "{reward: length, maximum: 60, weight: 0.1}"]
    as_yaml = ["runs/rm/model", {"reward": "length", "maximum": 60, "weight": 0.1}]
    configs = [PpoConfig(**GIVEN, reward=given) for given in (as_flags, as_yaml, read_sources(as_yaml))]
    assert configs[0] == configs[1] == configs[2]
    dumped = configs[0].model_dump()["reward"]
    assert dumped == [
        "runs/rm/model",
        {"reward": "length", "weight": 0.1, "maximum": 60, "unit": "words"},
    ]
    assert PpoConfig(**GIVEN, reward=json.loads(json.dumps(dumped))) == configs[0]
    assert PpoConfig(**GIVEN, reward="runs/rm/model").model_dump()["reward"] == "runs/rm/model"
    nested = {"reward": "ensemble", "members": ["a/model", {"reward": "b/model", "weight": 2}], "combine": "min"}
    assert written(read_sources(nested))["members"] == [
        "a/model",
        {"reward": "b/model", "weight": 2.0, "supervision": "outcome"},
    ]
    assert EvalConfig(data="d", reward_model="r").judge is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no reward is given"),
        ("", "not a reward"),
        ({"weight": 1}, "not a reward"),
        ("{reward: length, maximum: [}", "not valid YAML"),
        ({"reward": "length"}, "needs a minimum, a maximum, or both"),
        ({"reward": "length", "minimum": 9, "maximum": 3}, "minimum 9 is above maximum 3"),
        ({"reward": "length", "maximum": 0}, "maximum of reward length is not right"),
        ({"reward": "length", "maximun": 3}, "unknown option: maximun of reward length"),
        ({"reward": "m:f", "beta": 1}, "unknown option: beta of reward m:f"),
        ({"reward": "regex", "pattern": "("}, "not a valid regular expression"),
        ("regex", "missing: pattern"),
        ("format", "needs one form"),
        ({"reward": "format", "tags": ["a"], "json_keys": []}, "needs one form"),
        ({"reward": "format", "tags": ["a b"]}, "is not right"),
        ({"reward": "m:f", "weight": 0}, "would not count"),
        ({"reward": "m:f", "weight": "nan"}, "weight of reward m:f is not right"),
        ({"reward": "m:f", "name": "chosen"}, "cannot be called chosen"),
        ({"reward": "m:f", "name": "a/b"}, "name of reward m:f is not right"),
        (["m:f", "n:f"], "two rewards are called f"),
        (["a/model", {"reward": "ensemble", "members": ["b/model", "x/a"]}], "two rewards are called a"),
        ("implicit:a,b", "needs the beta"),
        ({"reward": "implicit:a", "beta": 1}, "names two models"),
        ({"reward": "implicit:a,b", "beta": 0}, "beta of reward implicit:a,b is not right"),
        ({"reward": "ensemble", "members": ["m:f"]}, "two members or more"),
        ({"reward": "ensemble", "members": ["m:f", "n:g"], "combine": "median"}, "no such way to combine"),
        ({"reward": "ensemble", "members": ["m:f", "n:g"], "combine": "weights:1,2"}, "give each member its weight"),
        ({"reward": "ensemble", "members": ["m:f", {"reward": "n:g", "supervision": "process"}]}, "must give one"),
        ("http://", "no server name"),
        ({"reward": "http://a.example", "retries": -1}, "retries of reward http://a.example is not right"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(PpoConfig, {**GIVEN, "reward": given})
    assert message in str(caught.value).replace("\n", " ")


@pytest.mark.parametrize(
    "address", ["me:secret@a.example", "secret@a.example", "a.example?key=secret", "a.example#secret"]
)
def test_an_address_holds_no_key_and_the_message_does_not_show_it(address: str) -> None:
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        parse_options(PpoConfig, {**GIVEN, "reward": f"https://{address}"})
    assert "secret" not in str(caught.value)


def process(reward: str = "m:f") -> dict[str, str]:
    return {"reward": reward, "supervision": "process"}


def test_rewards_of_steps_are_refused_where_they_would_not_be_placed() -> None:
    for config_class in (PpoConfig, GrpoConfig):
        assert parse_options(config_class, {**GIVEN, "reward": process()}).reward[0].is_process
    refused: list[tuple[type, dict[str, Any]]] = [
        (RlooConfig, {}),
        (PpoConfig, {"algorithm": "rloo", "num_completions": 2}),
        (BestOfNConfig, {}),
        (OnlineDpoConfig, {}),
    ]
    for config_class, more in refused:
        with pytest.raises(ConfigError, match="supervision process"):
            parse_options(config_class, {**GIVEN, **more, "reward": process()})
    with pytest.raises(ConfigError, match="must not hold the KL penalty"):
        parse_options(GrpoConfig, {**GIVEN, "reward": process(), "kl_penalty": "reward"})
    fine: OnlineOptions = parse_options(GrpoConfig, {**GIVEN, "reward": "m:f", "kl_penalty": "reward"})
    assert not fine.reward[0].is_process


def score(text: str, **source: Any) -> float:
    return rule_of(read_source(source)).score([""], [text])[0]


def test_rules_by_hand() -> None:
    limits = {"reward": "length", "minimum": 2, "maximum": 4}
    assert [score(text, **limits) for text in ("", "a", "a b", "a b c d", "a b c d e f")] == [-1.0, -0.5, 0, 0, -0.5]
    assert score("four", reward="length", maximum=2, unit="characters") == -1.0
    assert score("a b\nc", reward="regex", pattern="b.c") == 1.0
    assert score(" abc ", reward="regex", pattern="b", match="fullmatch") == 0.0
    assert score(" abc ", reward="regex", pattern="a.c", match="fullmatch") == 1.0
    assert score("a b a b a b", reward="repetition", ngram_size=2) == pytest.approx(2 / 5 - 1)  # ab ba of five
    assert score("A b a B", reward="repetition", ngram_size=1) == -0.5
    assert score("a b", reward="repetition") == 0.0


def test_formats_by_hand() -> None:
    tags = {"reward": "format", "tags": ["think", "answer"]}
    assert score("<think>a\nb</think>\n<answer>4</answer>", **tags) == 1.0
    for wrong in (
        "<answer>4</answer><think>a</think>",
        "<think>a</think>so <answer>4</answer>",
        "<think>a</think><answer>4</answer> bye",
        "<think>a<think>b</think></think><answer>4</answer>",
        "<think>a</think><answer>4",
    ):
        assert score(wrong, **tags) == 0.0, wrong
    texts = ('{"a": 1, "b": 2}', '{"b": 1}', "[1]", "{a")
    assert [score(text, reward="format", json_keys=["a"]) for text in texts] == [1, 0, 0, 0]
    assert score("[1]", reward="format", json_keys=[]) == 1.0


def test_a_weighted_sum_keeps_each_part_by_its_name() -> None:
    texts = ["it is", "1234"]
    reward = load_reward(read_sources([BREVITY, {"reward": LETTERS, "weight": -2}, {"reward": "length", "maximum": 1}]))
    assert not judges_alone(reward)  # functions may look at the whole round
    found = reward.score(["a", "b"], texts)
    assert isinstance(found, Scores)
    assert found.parts == {"brevity": [-0.5, -0.4], "letters": [0.8, 0.0], "length": [-1.0, 0.0]}
    assert found == pytest.approx([-0.5 - 1.6 - 1.0, -0.4])
    metrics = found.metrics()
    assert metrics["rewards/letters"] == pytest.approx(0.4)
    assert metrics["rewards/letters/std"] == pytest.approx(0.4)
    assert all(lookup(name) for name in metrics)
    assert found.of(1)["rewards"] == {"brevity": -0.4, "letters": 0.0, "length": 0.0}
    single = load_reward(read_sources({"reward": LETTERS, "weight": 3}))
    assert single.score(["a"], ["it"]) == [3.0]


def test_an_ensemble_of_rewards_is_combined_and_tells_its_disagreement() -> None:
    """Members 2 · 0.8 and -0.5 of "it is"; half their distance is the deviation."""
    members = [{"reward": LETTERS, "weight": 2}, BREVITY]
    for combine, expected in {"min": -0.5, "mean": 0.55, "mean-std:1": 0.55 - 1.05}.items():
        source = {"reward": "ensemble", "members": members, "combine": combine}
        found = load_reward(read_sources(source)).score(["a"], ["it is"])
        assert found == pytest.approx([expected])
        assert isinstance(found, Scores)
        assert found.metrics()["ensemble_std"] == pytest.approx(1.05)
        assert found.parts == {"letters": [0.8], "brevity": [-0.5]}
    both = load_reward(read_sources([source, {"reward": "length", "maximum": 1}])).score(["a"], ["it is"])
    assert isinstance(both, Scores)
    assert both.metrics()["rewards/ensemble/ensemble_std"] == pytest.approx(1.05)
    assert set(both.parts) == {"ensemble", "letters", "brevity", "length"}
    assert all(lookup(name) for name in both.metrics())


def test_scores_of_several_calls_are_joined() -> None:
    one, two = (
        Scores([1.0, 2.0], parts={"a": [1, 2]}, steps=[[1], [1, 1]]),
        Scores([3.0], parts={"a": [3]}, steps=[[3]]),
    )
    both = joined([one, two])
    assert (both, both.parts, both.steps) == ([1.0, 2.0, 3.0], {"a": [1, 2, 3]}, [[1], [1, 1], [3]])
    assert joined([]) == []


def test_a_part_that_fails_is_named_with_the_completion() -> None:
    def fragile(prompts: list, completions: list[str]) -> list[float]:
        return [float("nan") if c == "bad" else 1.0 / len(c) for c in completions]

    parts = {
        "brevity": (1.0, FunctionReward(lambda p, c: [0.0] * len(c), name="b")),
        "f": (1.0, FunctionReward(fragile, name="m:f")),
    }
    reward = WeightedReward(parts, name="sum")
    with pytest.raises(NonFiniteError, match="m:f returned nan for completion 'bad'"):
        reward.score(["a", "b"], ["fine", "bad"])
    with pytest.raises(RunError, match="m:f raised ZeroDivisionError"):
        reward.score(["a", "b"], ["fine", ""])


def test_options_are_part_of_what_a_run_is_tied_to() -> None:
    specs: list[Any] = [
        BREVITY,
        {"reward": BREVITY, "weight": 2},
        [BREVITY, LETTERS],
        {"reward": "length", "maximum": 3},
    ]
    specs += [{"reward": "length", "maximum": 4}, "http://a.example/s", "http://a.example/t"]
    assert len({reward_hash(read_sources(spec)) for spec in specs}) == len(specs)


def test_reward_ensemble_is_of_a_single_reward_model() -> None:
    for spec in ([BREVITY, LETTERS], [{"reward": "a/model", "combine": "min"}]):
        with pytest.raises(ConfigError, match="applies to a single reward model with several heads"):
            check_reward(read_sources(spec), ensemble="min")
