"""From YAML, flags and keywords to a configuration: one rule, one message."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from assent.config import loading
from assent.config.loading import parse_options, read_value, read_yaml
from assent.config.online import PpoConfig
from assent.config.options import Options
from assent.config.stages import SftConfig
from assent.errors import ConfigError

GIVEN = {"model": "m", "data": "d", "output_dir": "o"}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "options.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_yaml_means_what_people_mean(tmp_path: Path) -> None:
    text = "a: no\nb: 1e-5\nc: 12\nd: 1.5\ne: true\nf: on\ng: null\nh: [1, x]\ni: 0x10\nj: -3.5e-2\nk: 1.2.3\nl: 1e\n"
    assert read_yaml(written(tmp_path, text)) == {
        **{"a": "no", "b": 1e-5, "c": 12, "d": 1.5, "e": True, "f": "on", "g": None},
        **{"h": [1, "x"], "i": 16, "j": -0.035, "k": "1.2.3", "l": "1e"},
    }
    options = {**read_yaml(written(tmp_path, "learning_rate: 1e-5\nmixed_precision: no\n")), **GIVEN}
    config = parse_options(SftConfig, options)
    assert (config.learning_rate, config.mixed_precision) == (1e-5, "no")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 1e-5, no, true]", [1, 1e-5, "no", True]),
        ("{a: [x]}", {"a": ["x"]}),
        ("null", None),
        ("", ""),
        ("a: b", "a: b"),
        ("module:function", "module:function"),
        ("${stage.output}", "${stage.output}"),
        ('["${stage.output}"]', ["${stage.output}"]),
    ],
)
def test_a_value_on_the_command_line_is_a_list_or_a_mapping_where_it_is_written_as_one(text: str, value: Any) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["[1", "{a: 1, a: 2}", "[${stage.output}]"])
def test_a_broken_value_on_the_command_line_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_value(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a is given twice"),
        ("x: {a: 1, a: 2}\n", "a is given twice"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- 1\n", "is not a configuration"),
        ("just text\n", "is not a configuration"),
        ("1: one\n", "is not a configuration"),
        ("a: [1\n", "not valid YAML"),
        ("a: 1\nb: {\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"a: \xff\xfe\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: &x [*x]\n", "too many values"),
        ("a: " + "[" * 3000, "not valid YAML"),
        ("a: " + "x" * loading.MAX_YAML_BYTES, "too large"),
        ("a: 0x" + "f" * 10_000, "number beyond reason"),
        ("a: " + "9" * 10_000, "not valid YAML"),
        ("a: !!int 'x'\n", "not valid YAML"),
        ("a: !!bool 'x'\n", "not valid YAML"),
        ("a: !!timestamp 'x'\n", "not valid YAML"),
        ("a: !!int ''\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_yaml(written(tmp_path, text))


def test_a_small_file_that_stands_for_a_billion_values_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="too many values"):
        read_yaml(written(tmp_path, "\n".join(lines)))


def test_merged_keys_that_write_out_to_any_number_of_values_are_refused_soon(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 20)}]}}" for i in range(1, 20)]
    with pytest.raises(ConfigError, match="merged keys make more than"):
        read_yaml(written(tmp_path, "\n".join(lines)))


def test_merged_keys_are_read(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
    assert read_yaml(written(tmp_path, text))["b"] == {"x": 1, "y": 3}


def test_numbers_with_colons_are_text_and_numbers_stay_numbers(tmp_path: Path) -> None:
    text = "a: 1:30\nb: " + "1:" * 5000 + "1\nc: [0, -7, +3, 1_000, 0x1F, 0b11, 010]\n"
    loaded = read_yaml(written(tmp_path, text))
    assert loaded["a"] == "1:30"
    assert isinstance(loaded["b"], str)
    assert loaded["c"] == [0, -7, 3, 1000, 31, 3, 8]


def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "pipe.yaml")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("options", "what", "got", "expected"),
    [
        ({"learning_rate": -1}, "learning_rate is not right", "-1", "a number greater than 0"),
        ({"batch_size": 0}, "batch_size is not right", "0", "a number greater than or equal to 1"),
        ({"batch_size": "many"}, "batch_size is not right", "'many'", "a valid integer"),
        ({"batch_size": True}, "batch_size is not right", "True", "a number"),
        ({"warmup_ratio": False}, "warmup_ratio is not right", "False", "a number"),
        ({"batch_size": 1.5}, "batch_size is not right", "1.5", "a valid integer"),
        ({"warmup_ratio": 1.5}, "warmup_ratio is not right", "1.5", "a number less than or equal to 1"),
        ({"learning_rate": "nan"}, "learning_rate is not right", "'nan'", "a finite number"),
        ({"dtype": "float16"}, "dtype is not right", "'float16'", "'float32' or 'bfloat16'"),
        ({"resume": "perhaps"}, "resume is not right", "'perhaps'", "a valid boolean"),
        ({"model": 3}, "model is not right", "3", "a valid string"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs is not right", "[1]", "a valid dictionary"),
    ],
)
def test_a_wrong_value_is_told_with_option_got_and_expected(
    options: dict[str, object], what: str, got: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(SftConfig, {**GIVEN, **options})
    assert (caught.value.what, caught.value.got, caught.value.expected) == (what, got, expected)


class Nested(Options):
    """Numbers wherever they may stand."""

    rate: Annotated[float, Field(gt=0)] | None = None
    """A number or none."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Numbers by name."""
    sizes: tuple[int, ...] = ()
    """Numbers in a row."""
    anything: dict[str, Any] = Field(default_factory=dict)
    """Not only numbers."""
    fine: bool = False
    """None at all."""


def test_a_boolean_is_no_number_wherever_one_is_asked_for() -> None:
    plain = parse_options(
        Nested, {"rate": "2", "weights": {"a": 1}, "sizes": ["3"], "anything": {"b": True}, "fine": True}
    )
    assert (plain.rate, plain.weights, plain.sizes, plain.anything, plain.fine) == (
        2,
        {"a": 1},
        (3,),
        {"b": True},
        True,
    )
    for name, value in (("rate", True), ("weights", {"a": True}), ("sizes", [1, False])):
        with pytest.raises(ConfigError, match=f"{name} is not right") as caught:
            parse_options(Nested, {name: value})
        assert caught.value.expected == "a number"


def test_every_option_at_fault_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(SftConfig, {"batch_size": 0, "learning_rate": 0, "model": "m"})
    assert all(name in str(caught.value) for name in ("batch_size", "learning_rate", "output_dir", "data"))
    with pytest.raises(ConfigError, match="options of stage one missing: output_dir, data"):
        parse_options(SftConfig, {"model": "m"}, where=" of stage one")
    with pytest.raises(ConfigError, match="seed of stage one is not right"):
        parse_options(SftConfig, {**GIVEN, "seed": -1}, where=" of stage one")


def test_an_unknown_option_names_the_nearest_in_its_own_spelling() -> None:
    def flag(name: str) -> str:
        return "--" + name.replace("_", "-")

    with pytest.raises(ConfigError) as caught:
        parse_options(SftConfig, {**GIVEN, "learnin_rate": 1}, show=flag, where=" in a.yaml")
    assert caught.value.what == "unknown option: --learnin-rate in a.yaml"
    assert caught.value.fix == "did you mean --learning-rate?"
    with pytest.raises(ConfigError, match="--adam-beta1"):  # nothing is near: all are listed
        parse_options(SftConfig, {**GIVEN, "zzzz": 1}, show=flag)


def test_a_rule_about_two_options_keeps_its_own_words() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(PpoConfig, {**GIVEN, "reward": "r", "kl_horizon": 10})
    assert caught.value.what.startswith("kl_horizon has no effect without kl_target")


def test_updates_that_do_not_divide_a_rounds_prompts_are_refused_before_anything_is_read() -> None:
    given = {**GIVEN, "reward": "r", "batch_size": 4, "num_completions": 8}
    assert parse_options(PpoConfig, {**given, "num_mini_batches": 4})
    for number in (3, 5, 8):
        with pytest.raises(ConfigError, match=rf"num_mini_batches \({number}\) must divide batch_size \(4\)"):
            parse_options(PpoConfig, {**given, "num_mini_batches": number})


@pytest.mark.parametrize("options", [{"kl_coef": 0}, {"batch_size": 64, "num_completions": 80}])
def test_an_adaptive_kl_that_cannot_work_is_refused_before_the_run(options: dict[str, int]) -> None:
    given = {**GIVEN, "reward": "r", **options}
    assert parse_options(PpoConfig, given)
    with pytest.raises(ConfigError, match=r"cannot adapt|above 1024"):
        parse_options(PpoConfig, {**given, "kl_target": 5})
