"""convert-config: another trainer's configuration in our names."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import ConvertConfig


@command(ConvertConfig, positional="file")
def convert_config(config: ConvertConfig) -> Outcome:
    from assent.commands.convert_config import convert_config as convert

    document, lines = convert(config)
    head = [] if config.output is None else [f"convert-config -> {config.output}", ""]
    return Outcome({"command": "convert-config", **document}, "\n".join([*head, *lines]), int(bool(document["to_do"])))
