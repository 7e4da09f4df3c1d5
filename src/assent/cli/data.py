"""data show, data check and data split: how a model reads rows; what is wrong with a file; a file split in two."""

from __future__ import annotations

import os
import sys

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.commands.tools import check_data, lines_of_split, split_data
from assent.config.commands import DataCheckConfig, DataShowConfig, DataSplitConfig


@command(DataShowConfig, positional="file")
def show(config: DataShowConfig) -> Outcome:
    from assent.commands.data_show import show_data
    from assent.commands.data_show_text import lines_of

    document = show_data(config)
    lines = lines_of(document, colour=_has_colour(), whole=config.row is not None)
    refused = any("refused" in row for row in document["rows"])
    return Outcome({"command": "data show", **document}, "\n".join(lines), exit_status=int(refused))


def _has_colour() -> bool:
    """Colour for a terminal that can show it, unless NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@command(DataCheckConfig, positional="file")
def check(config: DataCheckConfig) -> Outcome:
    document, lines = check_data(config)
    found = [finding for finding in document["findings"] if finding["severity"] != "info"]
    status = int(bool(found or document.get("tokens", {}).get("findings")))
    return Outcome({"command": "data check", **document}, "\n".join(lines), exit_status=status)


@command(DataSplitConfig, positional="file")
def split(config: DataSplitConfig) -> Outcome:
    result = split_data(config)
    return Outcome({"command": "data split", **result}, "\n".join(lines_of_split(result)))
