"""Writes the pipeline file of a plan: YAML for `assent run`, with the reasons as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from assent.planning.choice import Choice
from assent.planning.stages import PlannedStage

WIDTH = 100


def pipeline_text(
    stages: Sequence[PlannedStage], *, name: str, choice: Choice, output_dir: str, variables: Mapping[str, Any]
) -> str:
    """The file as text. `assent run` executes it as it stands; paths are as the user gave them."""
    head = [f"Written by assent plan: {choice.title}.", *(f"- {r.text} [{r.source}]" for r in choice.reasons)]
    head += [f"Would change to {change}." for change in choice.changes]
    lines = [line for text in head for line in commented(text)]
    lines += [dumped({"name": name, "output_dir": output_dir, "seed": 0})]
    if variables:
        lines += ["# The gates' limits; --set NAME=VALUE gives another.", dumped({"variables": dict(variables)})]
    return "\n".join([*lines, "stages:", *stage_lines(stages)]) + "\n"


def stage_lines(stages: Sequence[PlannedStage], *, fast: bool = True) -> list[str]:
    """The stages, each below its reason. `fast`: with the options of a smoke test."""
    lines: list[str] = []
    for stage in stages:
        lines += ["", *(f"  {line}" for line in commented(stage.why, WIDTH - 2))]
        entry = {"name": stage.name, "command": stage.command, "options": dict(stage.options)}
        entry |= {"fast": stage.fast} if fast and stage.fast else {}
        lines.append(textwrap.indent(dumped([entry]), "  "))
    return lines


def commented(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def dumped(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000).rstrip()
