"""data check: what is in a file, and what is wrong with it."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import DataCheckConfig
from assent.pipelines.tools import check_data


@command(DataCheckConfig, positional="file")
def check(config: DataCheckConfig) -> Outcome:
    document, lines = check_data(config)
    status = 1 if document["findings"] else 0
    return Outcome({"command": "data check", **document}, "\n".join(lines), exit_status=status)
