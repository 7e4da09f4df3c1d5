"""data check and data split: what is in a file and what is wrong with it; a file split in two."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.commands.tools import check_data, split_data
from assent.config.commands import DataCheckConfig, DataSplitConfig


@command(DataCheckConfig, positional="file")
def check(config: DataCheckConfig) -> Outcome:
    document, lines = check_data(config)
    status = 1 if document["findings"] else 0
    return Outcome({"command": "data check", **document}, "\n".join(lines), exit_status=status)


@command(DataSplitConfig, positional="file")
def split(config: DataSplitConfig) -> Outcome:
    result = split_data(config)
    lines = [f"{result['rows'][part]:,} rows -> {result[part]}" for part in ("train", "eval")]
    if result["refused"]:
        lines.append(f"{result['refused']:,} rows refused: identical completions")
    return Outcome({"command": "data split", **result}, "\n".join(lines))
