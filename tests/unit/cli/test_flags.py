"""Flags and YAML make the same configuration; the flag wins; every mistake is one message and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.cli import training
from assent.cli.flags import flag
from assent.config.online import A2cConfig, GrpoConfig, PpoConfig, RlooConfig
from assent.config.stages import PreferenceConfig, RewardConfig, SftConfig
from tests.support.cli import said

CONFIGS = {"sft": SftConfig, "reward": RewardConfig, "dpo": PreferenceConfig, "ppo": PpoConfig}
CONFIGS |= {"a2c": A2cConfig, "grpo": GrpoConfig, "rloo": RlooConfig}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the training commands would have run."""
    calls: list[tuple[str, Any]] = []

    def record(name: str, config: Any) -> dict[str, Any]:
        calls.append((name, config))
        return {"output_dir": "o", "model_path": "o/model", "steps": 3, "metrics": {"loss": 0.5}}

    monkeypatch.setattr(training, "run_step", record)
    return calls


def test_every_field_of_every_configuration_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for name, config_class in CONFIGS.items():
        status, out, _ = said([name, "--help"], capsys)
        assert status == 0
        shown = " ".join(out.replace("│", " ").split())
        for field in config_class.model_fields:
            assert flag(field) in shown, (name, field)


def test_flags_are_read_by_the_fields_types(parsed: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["dpo", "--model", "m", "--data", "d", "--output-dir", "o", "--learning-rate", "2e-5", "--beta=0.3"]
    argv += ["--no-shuffle", "--gradient-checkpointing", "--max-steps", "7", "--dtype", "bfloat16"]
    argv += ["--chat-template-kwargs.thinking", "off", "--eval-data", "-e.jsonl"]
    assert said(argv, capsys)[0] == 0
    name, config = parsed[0]
    assert name == "dpo"
    given = {"learning_rate": 2e-5, "beta": 0.3, "shuffle": False, "gradient_checkpointing": True, "max_steps": 7}
    given |= {"dtype": "bfloat16", "chat_template_kwargs": {"thinking": "off"}, "eval_data": "-e.jsonl"}
    assert config == PreferenceConfig(model="m", data="d", output_dir="o", **given)


def test_a_flag_wins_over_yaml_and_yaml_over_the_default(
    parsed: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("model: m\ndata: d\noutput_dir: o\nlearning_rate: 1e-3\nbatch_size: 2\nshuffle: false\n")
    assert said(["sft", "--config", file, "--batch-size", "4", "--shuffle"], capsys)[0] == 0
    config = parsed[0][1]
    assert (config.learning_rate, config.batch_size, config.shuffle, config.max_length) == (1e-3, 4, True, 1024)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["sft", "--learnin-rate", "1"], ["--learnin-rate", "Did you mean --learning-rate"]),
        (["sftt"], ["sftt", 'Did you mean "sft"']),
        (["data", "chek"], ["chek", "check"]),
        ([], ["no command given", "sft, reward, dpo, kto, online-dpo, ppo, a2c, grpo, rloo"]),
        (["sft"], ["options missing: --output-dir, --model, --data"]),
        (["sft", "--batch-size", "-1"], ["--batch-size", "'-1'", "greater than or equal to 1", "--model"]),
        (["sft", "--learning-rate"], ["--learning-rate"]),
        (["sft", "--dtype", "float16"], ["--dtype", "'float32' or 'bfloat16'"]),
        (["sft", "stray"], ["words that no option takes", "stray"]),
        (["new-model", "a", "--output-dir", "b"], ["words that no option takes", "a"]),
        (["sft", "--config", "none.yaml"], ["no configuration file none.yaml"]),
        (["data", "check"], ["option missing: FILE"]),
        (["data", "check", "f", "--max-length", "3"], ["max_length has no effect without model"]),
        (["run", "--set", "a.b=1"], ["option missing: FILE"]),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    argv: list[str], parts: list[str], parsed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(argv, capsys)
    assert (status, out, parsed) == (2, "", [])
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert all(part in err for part in parts), err


def test_an_unknown_yaml_key_names_the_file_and_the_nearest(
    parsed: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("learnin_rate: 1e-3\n")
    status, _, err = said(["sft", "--config", file], capsys)
    assert status == 2
    assert f"unknown option: learnin_rate in {file}" in err
    assert "did you mean learning_rate?" in err
    file.write_text("learning_rate: -1\nmodel: m\ndata: d\noutput_dir: o\n")
    assert f"learning_rate in {file} is not right" in said(["sft", "--config", file], capsys)[2]


def test_json_is_one_document_on_stdout_whatever_a_library_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy(name: str, config: Any) -> dict[str, Any]:
        print("a library prints")
        return {"output_dir": "o", "model_path": "o/model", "steps": 3, "metrics": {"loss": 0.5}}

    monkeypatch.setattr(training, "run_step", noisy)
    options = ["--model", "m", "--data", "d", "--output-dir", "o"]
    for argv in (["sft", *options, "--json"], ["--json", "sft", *options]):
        status, out, err = said(argv, capsys)
        assert status == 0
        assert json.loads(out)["metrics"] == {"loss": 0.5}
        assert out.count("\n") == 1
        assert "a library prints" in err
    assert "3 steps -> o/model" in said(["sft", *options], capsys)[1]


def test_only_the_main_process_speaks_on_stdout(
    parsed: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sft", "--model", "m", "--data", "d", "--output-dir", "o", "--json"]
    monkeypatch.setenv("RANK", "1")
    assert said(argv, capsys)[:2] == (0, "")
    monkeypatch.setenv("RANK", "0")
    assert json.loads(said(argv, capsys)[1])["steps"] == 3


def test_a_value_that_needs_no_flag_takes_its_flag_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`new-model DIR` and `new-model --output-dir DIR`: both reach the file that is not there."""
    for place in (["m"], ["--output-dir", "m"]):
        status, _, err = said(["new-model", *place, "--text-files", tmp_path / "none.txt"], capsys)
        assert status == 2
        assert "the text file does not exist" in err
    assert "there is no file" in said(["data", "check", "--file", tmp_path / "none"], capsys)[2]
