"""Names of other trainers are answered from one table, each with a name of ours or a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.config.foreign import FOREIGN, LOSSES, OURS_TOO, answer, foreign_error
from assent.config.loading import parse_options
from assent.config.losses import PREFERENCE_LOSSES
from assent.config.stages import PreferenceConfig, SftConfig
from assent.errors import ConfigError
from assent.pipelines.steps import STEPS

OURS = {name for step in STEPS.values() for name in step.config_class().model_fields}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("per_device_train_batch_size", "batch_size"),
        ("gradient_accumulation_steps", "batch_size"),
        ("micro_train_batch_size", "micro_batch_tokens"),
        ("lr", "learning_rate"),
        ("ref_model", "reference"),
        ("use_peft", "lora_r"),
        ("finetuning_type", "lora_r"),
        ("bf16", "mixed_precision"),
        ("pref_beta", "beta"),
        ("logging_steps", None),
        ("lora_dropout", None),
        ("vllm_tensor_parallel_size", None),
    ],
)
def test_what_people_type_first_is_answered(theirs, ours):
    for written in (theirs, "--" + theirs.replace("_", "-")):
        found = answer(written)
        assert found is not None
        assert found.ours == ours
        assert found.ours or found.says


def test_every_answer_is_an_option_of_ours_or_a_reason():
    for theirs, found in FOREIGN.items():
        assert found.says or found.ours, theirs
        assert found.ours is None or found.ours.partition(".")[0] in OURS, theirs
    assert set(LOSSES.values()) <= set(PREFERENCE_LOSSES)
    assert set(FOREIGN) & OURS == OURS_TOO, "a name of ours is not another trainer's"


@pytest.mark.parametrize("theirs", ["fsdp", "fsdp_config", "deepspeed", "deepspeed_config", "zero_stage"])
def test_who_cuts_weights_elsewhere_is_told_of_the_option_that_cuts_them_here(theirs):
    assert "sharding" in SftConfig.model_fields
    assert "sharding shard cuts the weights" in str(answer(theirs))


def test_one_error_answers_all_unknown_names():
    with pytest.raises(ConfigError) as raised:
        parse_options(
            SftConfig, {"model": "m", "data": "d", "output_dir": "o", "lr": 1e-4, "bf16": True, "nonsense": 1}
        )
    said = str(raised.value)
    assert "lr        learning_rate" in said
    assert "bf16      mixed_precision (bf16" in said
    assert "nonsense  unknown" in said
    assert "convert-config" in said


def test_a_name_that_no_trainer_has_is_still_answered_with_the_nearest():
    assert foreign_error(["learning_rat"]) is None
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        parse_options(SftConfig, {"learning_rat": 1e-4})


def test_their_names_of_losses():
    with pytest.raises(ConfigError, match="did you mean sigmoid"):
        parse_options(PreferenceConfig, {"model": "m", "data": "d", "output_dir": "o", "loss_type": "dpo"})


def test_the_options_of_their_documentation_are_answered_or_ours():
    listed = (Path(__file__).parents[2] / "support" / "foreign_options.txt").read_text(encoding="utf-8")
    names = {name for line in listed.splitlines() if not line.startswith("#") for name in line.split()}
    assert len(names) > 500
    assert sorted(name for name in names if answer(name) is None and name not in OURS) == []


def test_a_name_that_begins_with_no_is_looked_up_whole_first():
    assert answer("--no-cuda").ours == "device"
    assert answer("--no-use-peft").ours == "lora_r"
