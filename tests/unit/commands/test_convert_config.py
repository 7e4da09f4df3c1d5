"""`convert-config`: configurations of the four trainers, as their examples have them, become ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.commands.convert_config import convert_config
from assent.config.commands import ConvertConfig
from assent.config.loading import parse_options, read_yaml
from assent.errors import ConfigError
from assent.pipelines.steps import STEPS
from tests.support.cli import said

HERE = sorted(path.name for path in (Path(__file__).parents[2] / "support" / "foreign").iterdir())
UNKNOWN_HERE = {"trl_any.yaml": {"command": "sft"}}
"""A file that does not say what it trains."""


@pytest.fixture(autouse=True)
def every_extra_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: object())


def converted(name, **options):
    path = Path(__file__).parents[2] / "support" / "foreign" / name
    return convert_config(ConvertConfig(file=str(path), **UNKNOWN_HERE.get(name, {}), **options))


@pytest.mark.parametrize("name", HERE)
def test_our_parser_accepts_what_is_written(name, tmp_path):
    document, lines = converted(name, output=str(tmp_path / "ours.yaml"))
    assert [line for line in document["to_do"] if "output_dir" not in line and "warmup_ratio" not in line] == []
    written = read_yaml(tmp_path / "ours.yaml")
    assert written == document["options"]
    assert parse_options(STEPS[document["for"]].config_class(), written)
    assert not any(line.endswith(": unknown") for line in document["left"]), document["left"]
    assert name.split("_")[0] in document["trainer"].lower().replace("-", "_")
    assert lines[0].startswith("# From ")


@pytest.mark.parametrize("trainer", ["trl", "llama_factory", "axolotl", "openrlhf"])
def test_there_are_four_of_each_trainer(trainer):
    assert sum(name.startswith(trainer) for name in HERE) >= 4


@pytest.mark.parametrize(
    ("name", "command", "options"),
    [
        (
            "llama_factory_dpo.yaml",
            "dpo",
            {
                "beta": 0.1,
                "loss_type": "sigmoid",
                "lora_r": 8,
                "batch_size": 8,
                "max_length": 2048,
                "warmup_ratio": 0.1,
            },
        ),
        ("llama_factory_sft_full.yaml", "sft", {"batch_size": 2, "mixed_precision": "bf16", "lora_r": None}),
        ("llama_factory_sft_qlora.yaml", "sft", {"load_in_4bit": True, "lora_r": 8, "eval_fraction": 0.1}),
        ("llama_factory_ppo.yaml", "ppo", {"max_new_tokens": 512, "lora_r": 8, "num_completions": 1}),
        ("axolotl_kto.yaml", "kto", {"beta": 0.5, "desirable_weight": 0.2, "load_in_4bit": True, "split": "train"}),
        (
            "axolotl_dpo.yml",
            "dpo",
            {"columns": {"conversation": "prompt"}, "load_in_4bit": None, "optim": "adamw_8bit"},
        ),
        (
            "axolotl_gdpo.yaml",
            "grpo",
            {"data": "openai/gsm8k:main", "batch_size": 4, "num_completions": 2, "total_steps": 100, "kl_coef": 0.001},
        ),
        (
            "openrlhf_ppo_ray.sh",
            "ppo",
            {"batch_size": 1024, "num_mini_batches": 8, "total_steps": 98, "max_length": 2048},
        ),
        ("openrlhf_sft.sh", "sft", {"columns": {"question": "prompt", "response": "completion"}, "batch_size": 256}),
        ("openrlhf_rm.sh", "reward", {"mixed_precision": "bf16", "data": "a/b"}),
        ("trl_dpo_lora.sh", "dpo", {"lora_r": 32, "batch_size": 16, "eval_split": "test", "max_length": 1024}),
        ("trl_grpo.sh", "grpo", {"batch_size": 4, "num_completions": 8, "kl_coef": 0.0, "sampler": "vllm"}),
        ("trl_ppo.sh", "ppo", {"batch_size": 16, "total_steps": 625, "temperature": 0.7, "max_new_tokens": 53}),
        ("trl_dpo_qlora.yaml", "dpo", {"split": "train_prefs", "eval_split": "test_prefs", "save_total_limit": 2}),
        ("trl_dpo_apo.yaml", "dpo", {"loss_type": "apo_zero", "lr_scheduler_type": "cosine", "revision": "it-SFT"}),
    ],
)
def test_values_mean_here_what_they_meant_there(name, command, options):
    document, _ = converted(name)
    assert document["for"] == command
    assert {option: document["options"].get(option) for option in options} == options


def test_devices_multiply_the_batch():
    document, _ = converted("llama_factory_dpo.yaml", num_devices=4)
    assert document["options"]["batch_size"] == 32
    assert any("x 4 devices = 32 rows" in line for line in document["changed"])


def test_what_has_no_counterpart_and_what_changes_is_said():
    document, lines = converted("axolotl_dpo.yml")
    left = {line.split(":")[0] for line in document["left"]}
    assert {"lora_dropout", "flash_attention"} <= left
    assert any(line.startswith("warmup_ratio: give ") for line in document["to_do"])
    assert not left & {"tf32", "load_in_4bit"}, "what is off there is not missed"
    assert "# No counterpart:" in lines
    document, _ = converted("trl_any.yaml")
    assert "num_train_epochs 3.0: the file leaves it unset, and this is their default" in document["changed"]


def test_a_file_that_does_not_say_what_it_trains_needs_the_command(tmp_path):
    path = tmp_path / "any.yaml"
    path.write_text("model_name_or_path: m\nlearning_rate: 1e-4\n")
    with pytest.raises(ConfigError, match="does not say what it trains"):
        convert_config(ConvertConfig(file=str(path)))
    assert convert_config(ConvertConfig(file=str(path), command="reward"))[0]["for"] == "reward"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: 1\n", "not a configuration that is known"), ("stage: pt\n", "no command for their stage pt")],
)
def test_what_is_none_of_them_is_refused(text, message, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        convert_config(ConvertConfig(file=str(tmp_path / "x.yaml")))
    with pytest.raises(ConfigError, match="no file"):
        convert_config(ConvertConfig(file=str(tmp_path / "none.sh")))


def test_the_command_writes_what_the_other_commands_take(tmp_path, capsys):
    path, out = Path(__file__).parents[2] / "support/foreign/llama_factory_dpo.yaml", tmp_path / "ours.yaml"
    status, printed, err = said(["convert-config", path, "--output", out], capsys)
    assert (status, err) == (0, "")
    assert "learning_rate" not in printed
    assert printed.splitlines()[0] == f"convert-config -> {out}"
    assert printed.splitlines()[-1] == f"  assent dpo --config {out} --data FILE"  # the name is one of theirs
    assert f"#   assent dpo --config {out}" in out.read_text(encoding="utf-8").splitlines()
    assert "learning_rate: 5.0e-06" in said(["convert-config", path], capsys)[1]
    status, _, err = said(["convert-config", path, "--output", out], capsys)
    assert status == 2
    assert "exists already" in err


def test_foreign_flags_and_files_are_answered_whole(tmp_path, capsys):
    argv = ["sft", "--model", "m", "--lr", "1e-4", "--use_peft", "--bf16", "true", "--per-device-train-batch-size", "4"]
    status, _, err = said(argv, capsys)
    assert status == 2
    for name, ours in (("--lr", "learning_rate"), ("--use_peft", "lora_r"), ("--bf16", "mixed_precision")):
        assert any(line.split()[:2] == [name, ours] for line in err.splitlines()), err
    assert "--per-device-train-batch-size" in err
    path = Path(__file__).parents[2] / "support/foreign/llama_factory_dpo.yaml"
    status, _, err = said(["dpo", "--config", path], capsys)
    assert status == 2
    lines = [line.split()[0] for line in err.splitlines()[1:-1]]
    assert lines == [name for name in read_yaml(path) if name in lines]
    assert {"model_name_or_path", "cutoff_len", "stage", "logging_steps"} <= set(lines)
    assert f"assent convert-config {path}" in err


THEIRS = """
model_name_or_path: m
dataset_name: d
output_dir: o
beta: 0.1
learning_rate: 5.0e-7
num_train_epochs: 3
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
warmup_steps: 20
optim: adamw_torch
report_to: wandb
"""


def test_what_is_to_do_says_why_the_exit_status_is_1(tmp_path, capsys, monkeypatch):
    """Steps of warm-up are a share of rows x epochs / batch: 20 / (R x 3 / 16) = 106.7 / R."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "wandb" else object())
    path, out = tmp_path / "trl_dpo.yaml", tmp_path / "ours.yaml"
    path.write_text(THEIRS)
    status, printed, _ = said(["convert-config", path, "--output", out], capsys)
    assert status == 1
    text = " ".join(printed.split())
    assert "give 20 x batch_size / (num_train_epochs x rows of the data), here 106.7 / rows" in text
    assert "tracker wandb is not installed; expected: package wandb; to do: pip install wandb" in text
    assert "exit status 1: assent dpo" in text
    written = read_yaml(out)
    assert written["optim"] == "adamw"
    assert "warmup_ratio" not in written
    assert not any(line.startswith("#   warmup_steps") for line in out.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", {}),
        ("ref_model_sync_steps: 64\n", {}),
        ("sync_ref_model: true\n", {"reference_sync_steps": 512, "reference_mixup_alpha": 0.6}),
        (
            "sync_ref_model: true\nref_model_sync_steps: 64\nref_model_mixup_alpha: 0.9\n",
            {"reference_sync_steps": 64, "reference_mixup_alpha": 0.9},
        ),
    ],
)
def test_a_reference_moves_here_only_where_it_moves_there(more, found, tmp_path):
    path = tmp_path / "trl_dpo.yaml"
    path.write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\nlearning_rate: 1.0e-6\n" + more)
    document, _ = convert_config(ConvertConfig(file=str(path)))
    assert {name: value for name, value in document["options"].items() if name.startswith("reference")} == found
    path.write_text(path.read_text().replace("dataset_name: d", "dataset_config: main\ndataset_name: a/d"))
    assert convert_config(ConvertConfig(file=str(path)))[0]["options"]["data"] == "a/d:main"


def test_a_mixture_of_experts_keeps_its_balance(tmp_path):
    path = tmp_path / "sft.sh"
    path.write_text("python -m openrlhf.cli.train_sft --pretrain m --dataset d --aux_loss_coef 0.001 --save_path o\n")
    assert convert_config(ConvertConfig(file=str(path)))[0]["options"]["router_aux_loss_coef"] == 0.001


def test_a_loss_that_is_only_near_is_said_to_have_changed(tmp_path):
    path = tmp_path / "dpo.yaml"
    path.write_text("model_name_or_path: m\nstage: dpo\ndataset: d\noutput_dir: o\npref_loss: kto_pair\n")
    document, _ = convert_config(ConvertConfig(file=str(path)))
    assert document["options"]["loss_type"] == "apo_zero"
    assert any(line.startswith("loss_type apo_zero: their kto_pair without") for line in document["changed"])
