"""A verdict on two answers that nothing reads, while `--columns` says which column holds the better answer.

Frage=prompt, Antwort A=chosen, Antwort B=rejected      beside a column Urteil with the values a, b and tie
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from assent.data.formats import COMMON_COLUMNS, LAYOUTS
from assent.data.judged_pairs import ENDS, TIES
from assent.data.unread import is_empty

WARNING = "warning: "
"""How the note begins."""
MOST_VALUES = 5
"""Different values of a column that may be such a verdict."""
_READ = frozenset({*COMMON_COLUMNS, *(name for layout in LAYOUTS.values() for name in layout.optional)})
_ROLES = ("chosen", "rejected", "completion")


class Overlooked:
    """Gathers the values of the columns that are not named, as far as they are few. `columns` as in --columns."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._named = frozenset(columns)
        self._roles = {ours: theirs for theirs, ours in columns.items() if ours in _ROLES}
        self._values: dict[str, set[str]] = {}
        self._no_verdict: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items() if self._roles else ():
            if name in self._no_verdict or name in self._named or name in _READ or is_empty(value):
                continue
            values = self._values.setdefault(name, set())
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                values.add(_spoken(value))
            if not 0 < len(values) <= MOST_VALUES:
                self._no_verdict.add(name)
                del self._values[name]

    def notes(self, columns: Collection[str]) -> list[str]:
        """A warning for each such column. `columns`: those of the file."""
        return [self._warning(name, values) for name, values in self._values.items() if self._judges(values, columns)]

    def _judges(self, values: set[str], columns: Collection[str]) -> bool:
        """Whether all of them name answers or a tie, and one names an answer that is not read as the better."""
        stems = {_parted(name)[0] for name in self._roles.values()} - {""}
        answers = {name for name in columns if name in self._roles.values() or _parted(name)[0] in stems}
        named = [{name for name in answers if _names(value, name)} for value in values - _TIES]
        better = {self._roles.get("chosen"), self._roles.get("completion")}
        return all(named) and any(names - better for names in named)

    def _warning(self, column: str, values: set[str]) -> str:
        better = self._roles.get("chosen", self._roles.get("completion"))
        pair = [name for role in ("chosen", "rejected") if (name := self._roles.get(role))]
        ends = [_parted(name)[1] for name in pair]
        fix = ""
        known = values <= {*ends, *(f"model {end}" for end in ends), *_TIES}
        if known and len(pair) == 2 and (ENDS.get(ends[0]) == ends[1] or ENDS.get(ends[1]) == ends[0]):
            answers = ",".join(f"{name}=answer_{end}" for name, end in zip(pair, ends, strict=True))
            fix = f": --columns …,{answers},{column}=winner"
        return (
            f"{WARNING}nothing reads `{column}`, whose values ({', '.join(sorted(values))}) name answers; every row is "
            f"read as if `{better}` were the good one. If `{column}` says which is better, read it as winner{fix}"
        )


def _spoken(value: object) -> str:
    """A name or a value in lower case, with one space for whatever parts its words; 2.0 as 2."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(re.sub(r"[\W_]+", " ", str(value)).lower().split())


_TIES = frozenset(map(_spoken, TIES))


def _parted(name: str) -> tuple[str, str]:
    """`Answer A` as `answer` and `a`."""
    stem, _, end = _spoken(name).rpartition(" ")
    return stem, end


def _names(value: str, column: str) -> bool:
    """Whether a value is a column's name, or its last word: `a`, `answer a`, or `model a` for `Answer A`."""
    return value == _spoken(column) or value.removeprefix("model ") == _parted(column)[1]
