"""Options of the data that a command reads: its split, and the names of its columns. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from assent.config.options import Options


def read_columns(value: Any) -> Any:
    """`question=prompt,response_j=chosen`, or a list of such pairs, as a mapping of the file's names to ours."""
    return read_pairs(value, "pairs of the file's name and ours: question=prompt,response_j=chosen", split=_column)


def _column(pair: str) -> tuple[str, str, str]:
    """`THEIRS=OURS`; after OURS may stand what the values mean: `vote=winner:left=a|right=b`."""
    with_values = re.fullmatch(r"(.+?)(=)(\w+:.*=.*)", pair)
    return (with_values[1], with_values[2], with_values[3]) if with_values else pair.rpartition("=")


def read_pairs(
    value: Any,
    expected: str = "pairs with = between the two, and commas between pairs",
    *,
    split: Callable[[str], tuple[str, str, str]] = lambda pair: pair.rpartition("="),
) -> Any:
    """`a=b,c=d`, or a list of such texts, as a mapping; anything else as it is. ValueError for a text without `=`."""
    if isinstance(value, Mapping):
        return value
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
        return value
    pairs = [pair.strip() for part in listed for pair in part.split(",") if pair.strip()]
    found: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = (part.strip() for part in split(pair))
        if not (theirs and equals and ours):
            raise ValueError(expected)
        if theirs in found:
            raise ValueError(f"each one once, but {theirs} is named twice")
        found[theirs] = ours
    return found


Columns = Annotated[dict[str, str], BeforeValidator(read_columns)]


class DataOptions(Options):
    """Which part of the data to read, and what its columns are called."""

    split: str | None = None
    """Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one."""
    columns: Columns = Field(default_factory=dict)
    """Columns of the data that have other names, as THEIRS=OURS with commas between: question=prompt,reply=completion.
    They hold for all data that the command reads. The file of --data must have all of them; any other file is read with
    those that it has. What a judgement's values mean follows a colon: vote=winner:left=a|right=b|both=tie."""
