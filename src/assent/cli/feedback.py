"""The command about people's preferences: label."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.label import LabelConfig


@command(LabelConfig)
def label(config: LabelConfig) -> Outcome:
    from assent.commands.label import label as run

    document, lines = run(config)
    return Outcome({"command": "label", **document}, "\n".join(lines))
