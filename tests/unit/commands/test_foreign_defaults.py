"""`convert-config` writes what LLaMA-Factory and axolotl would do where a file of theirs says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from assent.commands.convert_config import convert_config
from assent.config.commands import ConvertConfig
from assent.config.loading import parse_options
from assent.pipelines.steps import STEPS

LLAMA_FACTORY = {"model_name_or_path": "org/m", "dataset": "a.json", "output_dir": "out", "template": "default"}
AXOLOTL = {"base_model": "org/m", "datasets": [{"path": "org/d"}], "output_dir": "out", "learning_rate": 1e-4}


@pytest.fixture
def convert(tmp_path: Path) -> Any:
    """What a file becomes, as our parser takes it: the options, and what is said of them."""

    def read(options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        file = tmp_path / "theirs.yaml"
        file.write_text(yaml.safe_dump(options))
        document, _ = convert_config(ConvertConfig(file=str(file)))
        parse_options(STEPS[document["for"]].config_class(), document["options"])
        return document["options"], document["changed"]

    return read


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("sft", {}),
        ("rm", {}),
        ("kto", {"beta": 0.1}),
        ("dpo", {"beta": 0.1, "loss_type": "sigmoid"}),
        (
            "ppo",
            {"max_new_tokens": 1024, "temperature": 0.95, "trunk": "shared", "kl_coef": 0.2, "kl_target": 6.0,
             "kl_horizon": 10000.0, "num_completions": 1},
        ),
    ],
)  # fmt: skip
def test_llama_factory_s_defaults(convert: Any, stage: str, expected: dict[str, Any]) -> None:
    reward = {"reward_model": "saves/rm"} if stage == "ppo" else {}
    options, changed = convert({**LLAMA_FACTORY, "stage": stage, **reward})
    common = {"learning_rate": 5e-5, "seed": 42, "max_length": 2048, "batch_size": 8, "lora_r": 8}
    passes = {} if stage == "ppo" else {"num_train_epochs": 3.0}
    assert {name: options.get(name) for name in common | passes | expected} == common | passes | expected
    assert "lora_alpha" not in options  # twice the rank there too
    assert "max_length 2048: the file leaves it unset, and this is their default" in changed


def test_axolotl_s_defaults(convert: Any) -> None:
    batch = {"micro_batch_size": 2, "gradient_accumulation_steps": 4}
    options, changed = convert({**AXOLOTL, **batch})
    expected = {"num_train_epochs": 1.0, "seed": 42, "max_length": 512, "lr_scheduler_type": "cosine",
                "warmup_ratio": 0.03, "mixed_precision": "bf16", "batch_size": 8}  # fmt: skip
    assert {name: options.get(name) for name in expected} == expected
    assert any(line.startswith("warmup_ratio 0.03") and line.endswith("at most 100 steps") for line in changed)
    for rl in ("dpo", "ipo", "orpo", "kto"):
        assert convert({**AXOLOTL, **batch, "rl": rl})[0]["beta"] == 0.1
    grpo = convert({**AXOLOTL, **batch, "rl": "grpo", "trl": {"reward_funcs": ["my.f"]}})[0]
    expected = {"num_completions": 8, "kl_coef": 0.0, "loss_type": "dapo", "max_new_tokens": 512, "max_length": 1024}
    assert {name: grpo.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ({"warmup_steps": 0}, "warmup_ratio"),
        ({"warmup_steps": 10}, "warmup_ratio"),
        ({"bf16": False}, "mixed_precision"),
        ({"fp16": True}, "mixed_precision"),
        ({"lr_scheduler": "rex"}, "lr_scheduler_type"),
    ],
)
def test_a_default_says_nothing_where_the_file_does(convert: Any, given: dict[str, Any], absent: str) -> None:
    assert absent not in convert({**AXOLOTL, "micro_batch_size": 1, **given})[0]


def test_simpo_s_two_numbers_are_theirs(convert: Any) -> None:
    options, _ = convert({**LLAMA_FACTORY, "stage": "dpo", "pref_loss": "simpo"})
    assert (options["loss_type"], options["beta"], options["hyperparameters"]) == ("simpo", 0.1, {"simpo_gamma": 0.5})
    options, _ = convert({**LLAMA_FACTORY, "stage": "dpo", "pref_loss": "simpo", "simpo_gamma": 1.2, "pref_beta": 2.5})
    assert (options["beta"], options["hyperparameters"]) == (2.5, {"simpo_gamma": 1.2})


def test_axolotl_s_whole_batch_and_all_linear_layers_are_read(convert: Any) -> None:
    assert convert({**AXOLOTL, "batch_size": 32, "micro_batch_size": 4})[0]["batch_size"] == 32
    assert convert({**AXOLOTL, "batch_size": 32, "gradient_accumulation_steps": 4})[0]["batch_size"] == 32
    lora = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "micro_batch_size": 4, "lora_target_modules": ["q_proj"]}
    assert convert({**AXOLOTL, **lora})[0]["lora_target_modules"] == ["q_proj"]
    assert "lora_target_modules" not in convert({**AXOLOTL, **lora, "lora_target_linear": True})[0]


def test_llama_factory_s_buffer_of_ppo_is_more_updates_in_a_round(convert: Any) -> None:
    ppo = {**LLAMA_FACTORY, "stage": "ppo", "reward_model": "saves/rm", "per_device_train_batch_size": 2}
    options, changed = convert({**ppo, "ppo_buffer_size": 3})
    assert (options["batch_size"], options["num_mini_batches"]) == (6, 3)
    assert any("x 3 buffered = 6 rows per update" in line for line in changed)
