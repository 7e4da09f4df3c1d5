"""What the pages name exists (commands, options, outputs, layouts), and every command is in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from assent.cli.entry import COMMANDS, DATA_COMMANDS
from assent.cli.flags import flag
from assent.config.commands import (
    ConvertConfig,
    DataCheckConfig,
    DataShowConfig,
    DataSplitConfig,
    DemoConfig,
    ReportConfig,
    RunConfig,
)
from assent.config.doctor import DoctorConfig
from assent.config.explain import ExplainConfig
from assent.config.iterate import IterateConfig
from assent.config.label import LabelConfig
from assent.config.monitor import MonitorConfig
from assent.config.plan import PlanConfig
from assent.config.sandbox import SandboxLabelsConfig
from assent.config.serving import ServeCheckConfig
from assent.config.update import RollbackConfig, UpdateConfig
from assent.data.formats import LAYOUTS
from assent.pipelines.steps import STEPS
from tests.support.docs import IDS, PAGES, ROOT, commands, first_column, quoted

NAMES = [name for name, *_ in COMMANDS] + [f"data {name}" for name, *_ in DATA_COMMANDS]
CONFIGS: list[type[BaseModel]] = [
    DataCheckConfig,
    DataSplitConfig,
    DemoConfig,
    ExplainConfig,
    IterateConfig,
    DoctorConfig,
    PlanConfig,
    MonitorConfig,
    ReportConfig,
    RunConfig,
]
CONFIGS += [ConvertConfig, DataShowConfig, LabelConfig, ServeCheckConfig, UpdateConfig, RollbackConfig]
CONFIGS += [step.config_class() for name, step in STEPS.items() if name in NAMES]
EVERYWHERE = {"--config", "--json", "--verbose", "--debug", "--help", "--version"}


def all_flags() -> set[str]:
    flags = {flag(name) for config_class in CONFIGS for name in config_class.model_fields}
    return flags | {"--no-" + name.removeprefix("--") for name in flags} | EVERYWHERE


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    text = [*quoted(page), *(" ".join(words) for words in commands(page))]
    named = {option for part in text for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", part)}
    assert named <= all_flags(), sorted(named - all_flags())


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    named = [part.removeprefix("assent ") for part in quoted(page) if part.startswith("assent ")]
    unknown = [part for part in named if not any(f"{part} ".startswith(f"{name} ") for name in [*NAMES, "COMMAND"])]
    assert not unknown


def test_the_readme_lists_every_command() -> None:
    listed = [name.removeprefix("assent ") for name in first_column(ROOT / "README.md", "command")]
    assert sorted(listed) == sorted(NAMES)


def test_the_page_of_data_lists_every_layout() -> None:
    assert sorted(first_column(ROOT / "docs/data.md", "layout")) == sorted(LAYOUTS)


def test_the_page_of_pipelines_lists_every_step_and_its_outputs() -> None:
    rows = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8").split("| command of a stage |")[1].splitlines()[2:]
    said = {}
    for row in rows:
        if not row.startswith("|"):
            break
        names, outputs = (re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:3])
        said |= {name: tuple(outputs) for name in names}
    assert said == {name: step.outputs for name, step in STEPS.items()}


def test_the_page_of_the_sandbox_lists_every_knob_of_the_labels() -> None:
    knobs = set(SandboxLabelsConfig.model_fields) - {"model", "output_dir", "seed", "world_seed", "max_new_tokens"}
    knobs -= {"device", "dtype", "allow_slow_dtype", "mixed_precision", "micro_batch_tokens", "gradient_checkpointing"}
    assert set(first_column(ROOT / "docs/sandbox.md", "option of `sandbox-labels`")) == knobs
