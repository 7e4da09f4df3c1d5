"""What a stage may read of every training command's configuration, whether or not the command has it as an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.config.loading import parse_options
from assent.config.online import A2cConfig, GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.options import Options, StageDefaults, StageOptions, fixed
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.errors import ConfigError

COMMANDS = [SftConfig, RewardConfig, PreferenceConfig, KtoConfig, OnlineDpoConfig, PpoConfig, A2cConfig, GrpoConfig,
            RlooConfig]  # fmt: skip
DECLARED = [name for name, value in vars(StageDefaults).items() if isinstance(value, fixed)]


def configured(kind: type[Options], **options: Any) -> Any:
    given = {"model": "a", "data": "b", "output_dir": "c", "reward": "json:dumps", "num_completions": 2, **options}
    return kind.model_validate({name: value for name, value in given.items() if name in kind.model_fields})


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_option_that_a_command_lacks_has_a_value_and_is_in_no_record(kind: type[Options]) -> None:
    config, bare = configured(kind), StageDefaults()
    assert isinstance(config, StageOptions)
    lacking = [name for name in DECLARED if name not in kind.model_fields]
    assert lacking
    for name in lacking:
        assert getattr(config, name) == getattr(bare, name)
        with pytest.raises(ValueError, match=name):
            configured(kind).model_validate({**config.model_dump(), name: getattr(bare, name)})
    assert not set(lacking) & set(config.model_dump())
    assert set(kind.model_fields) >= set(config.model_dump())


@pytest.mark.parametrize("name", DECLARED)
def test_some_command_has_what_is_declared_as_an_option_and_it_goes_before(name: str) -> None:
    value = {"str": "d", "int": 3, "float": 0.5, "bool": True}
    owners = [kind for kind in COMMANDS if name in kind.model_fields]
    assert owners
    for kind in owners:
        default = kind.model_fields[name].default
        given = value.get(type(default).__name__, 7)
        assert getattr(kind.model_construct(**{name: given}), name) == given != default


@pytest.mark.parametrize("kind", [PpoConfig, A2cConfig, GrpoConfig, RlooConfig])
def test_what_only_some_online_commands_have_is_read_of_all(kind: type[OnlineOptions]) -> None:
    config = configured(kind)
    declared = [name for name, value in vars(OnlineOptions).items() if isinstance(value, fixed)]
    expected = {"algorithm": config.command, "loss_type": "grpo" if kind is GrpoConfig else "dapo", "target_kl": None,
                "scale_scores": False, "mask_truncated_completions": False,
                "critic": None, "critic_warmup_steps": 0, "bootstrap_truncated": False,
                "potential": None}  # fmt: skip
    assert {name: getattr(config, name) for name in declared} == expected


def test_updates_per_round_are_those_of_the_algorithm() -> None:
    assert configured(PpoConfig, batch_size=8, num_mini_batches=2).passes == (4, 2)
    assert configured(PpoConfig, algorithm="a2c").passes == (1, 1)
    assert configured(A2cConfig).passes == (1, 1)
    assert configured(GrpoConfig, num_ppo_epochs=3).passes == (3, 1)


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(AttributeError, match="trnk"):
        configured(SftConfig).trnk  # noqa: B018
    with pytest.raises(AttributeError, match="trunk"):
        SftConfig.trunk  # noqa: B018 - of the class, as of a field


@pytest.mark.parametrize("kind", [PreferenceConfig, KtoConfig, PpoConfig, GrpoConfig])
def test_none_is_not_the_name_of_a_reference(
    kind: type[Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = {"model": "a", "data": "b", "output_dir": "c", "reward": "json:dumps", "num_completions": 2}
    given = {name: value for name, value in usual.items() if name in kind.model_fields}
    with pytest.raises(ConfigError, match=r"reference: this names no model(.|\n)*None(.|\n)*loss_type orpo"):
        parse_options(kind, {**given, "reference": "None"})
    (tmp_path / "None").mkdir()
    assert parse_options(kind, {**given, "reference": "None"}).reference == "None"
    assert parse_options(kind, {**given, "reference": None}).reference is None
