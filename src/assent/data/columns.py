"""Columns under other names: `--columns question=prompt` reads the file's `question` as our `prompt`.

A name with dots leads into nested rows: `outputs.0.text=answer_a` is the `text` of the first of `outputs`. The rest of
`outputs` stays with the row, as columns with such names. What the values of a judgement mean follows a colon:
`vote=winner:left=a|right=b`, `rating=label:up=true|down=false`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from assent.data import texts
from assent.data.foreign import ASKS, FOREIGN
from assent.data.formats import COMMON_COLUMNS, LAYOUTS, detect_layout
from assent.data.judged_pairs import COLUMNS, JUDGES, TIES
from assent.data.overlooked import Overlooked
from assent.data.texts import RowError
from assent.data.unread import is_empty
from assent.errors import DataError, UsageError

OURS = frozenset(
    {name for layout in LAYOUTS.values() for name in (*layout.required, *layout.optional)}
    | {*COMMON_COLUMNS, *FOREIGN, *ASKS, *COLUMNS, "input", "output", "answer", "history"}
)
"""Names that a column may be given: those of our layouts, and those of other trainers that are read."""

THUMBS = frozenset({"label", "kto_tag"})
"""Columns of a thumb. Their values may have meanings, as those of a judgement: true or false."""
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

TWICE = "two columns "
MISSPELT = 0.9
"""How alike two names are (difflib's ratio, 1: equal) of which one is the other misspelt."""


class Renaming:
    """The columns of one file under our names.

    own    the file must have all of them. Another file of the same command is read with those that it has.
    """

    def __init__(self, columns: Mapping[str, str], *, own: bool = True) -> None:
        self._given, self._own = dict(columns), own
        self.columns = {theirs: ours.partition(":")[0] for theirs, ours in columns.items()}
        self._meanings = {theirs: _meanings(theirs, ours) for theirs, ours in columns.items() if ":" in ours}
        self._answers = {_key(theirs): ours for theirs, ours in self.columns.items() if ours in COLUMNS - JUDGES}
        self._seen: set[str] = set()
        self._overlooked = Overlooked(self.columns)
        for theirs, ours in self.columns.items():
            if ours not in OURS:
                close = texts.nearest(ours, OURS)
                raise UsageError(
                    f"columns: {theirs}={ours} names no column that is read"
                    + (f"; did you mean {theirs}={close}?" if close else ""),
                    got=ours,
                    expected="THEIRS=OURS, ours one of " + ", ".join(sorted(OURS)),
                )
        twice = [ours for ours in self.columns.values() if list(self.columns.values()).count(ours) > 1]
        if twice:
            raise UsageError(f"columns: two columns are to be read as {twice[0]}", fix="give each another name")

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row under our names. Raises RowError where two columns would have the same name."""
        if not self.columns:
            return row
        self._seen.update(row)
        self._overlooked.add(row)
        kept = {name: value for name, value in row.items() if name not in self.columns}
        for theirs, ours in self.columns.items():
            if theirs in row:
                value = row[theirs]
            elif (found := _taken(kept, theirs)) is not None:
                self._seen.add(theirs)
                value, others, left = found
                if twice := sorted(left.keys() & others.keys()):
                    raise RowError(
                        f"{TWICE}`{twice[0]}`",
                        f"`{theirs}` leaves a column `{twice[0]}`, but the row has one too",
                        fix=f"give the column `{twice[0]}` another name in the file",
                    )
                kept = {**others, **left}
            else:
                continue
            if theirs in self._meanings:
                value = self._meant(theirs, value)
            elif ours in JUDGES:
                value = self._answers.get(_key(value), value)  # a judgement may name the answer's own column
            if not is_empty(kept.get(ours)):
                raise RowError(
                    f"{TWICE}`{ours}`",
                    f"`{theirs}` is to be read as `{ours}`, but the row has a column `{ours}` too",
                    got=texts.shorten(kept[ours]),
                    fix=f"leave {theirs}={ours} out, or give `{ours}` another name too",
                )
            kept[ours] = value
        return kept

    def _meant(self, theirs: str, value: object) -> object:
        """What the value of a judgement means. Raises RowError for one that is not listed, unless it is a tie or, as a
        word, a meaning itself; a number may mean something else there."""
        meanings, key = self._meanings[theirs], _key(value)
        if key in meanings and self.columns[theirs] in THUMBS:
            return BOOLEANS[meanings[key]]
        is_meaning = key in map(str.casefold, meanings.values()) and not key.isdecimal()
        if key not in meanings and key in self._answers:
            return self._answers[key]
        if key in meanings or is_empty(value) or key in TIES or is_meaning:
            return meanings.get(key, value)
        raise RowError(
            f"bad `{self.columns[theirs]}`",
            f"`{theirs}` has a value whose meaning is not given",
            got=texts.shorten(value),
            expected=", ".join(meanings),
            fix=f"give its meaning too: --columns '{theirs}={self._given[theirs]}|{value}=…'",
        )

    def in_their_names(self, error: RowError) -> RowError:
        """The error with the file's own column names in the place of ours."""
        if not self.columns or error.reason.startswith(TWICE):  # that error speaks of both names
            return error
        theirs = {f"`{ours}`": f"`{name}`" for name, ours in self.columns.items()}
        said = re.compile("|".join(re.escape(ours) for ours in theirs))

        def named(text: object) -> object:
            return said.sub(lambda found: theirs[found[0]], text) if isinstance(text, str) else text

        fix = error.fix
        for name, ours in self.columns.items():
            fix = None if fix is None else fix.replace(f"THEIRS={ours}:", f"{name}={ours}:")
        return RowError(
            str(named(error.reason)), str(named(error.what)), got=error.got, expected=error.expected, fix=fix
        )

    def missing(self, path: str) -> DataError | None:
        """The error for named columns that no row has had so far; None if there are none."""
        missing = [name for name in self.columns if name not in self._seen]
        if not self._seen or not missing:
            return None
        if not self._own:  # it need not have them, but must not have one misspelt
            others = self._seen.difference(self.columns, OURS)  # one of ours is no other name misspelt
            missing = [name for name in missing if texts.nearest(name, others, cutoff=MISSPELT)]
            return self._absent(f"{path} has no", missing, others) if missing else None
        return self._absent(f"{path} has no", missing, self._seen)

    def _absent(self, which: str, missing: Sequence[str], seen: Collection[str]) -> DataError:
        close = texts.nearest(missing[0], seen)
        fix = f"did you mean {close}={self.columns[missing[0]]}?" if close else "name a column of the file"
        if self._own and len(missing) == len(self.columns) and (layout := _layout_of(seen)) is not None:
            fix = f"the file is already in layout {layout}: leave --columns out"
        them = "it" if len(missing) == 1 else "them"
        return DataError(
            f"{which} column {', '.join(missing)}, but the option `columns` names {them}",
            got="columns " + ", ".join(sorted(seen)),
            expected=", ".join(f"{name}={self.columns[name]}" for name in missing) + ": the file's name, then ours",
            fix=fix,
        )

    def note(self) -> list[str]:
        """What to say of it; nothing where no named column is in the file."""
        if not (used := self.used):
            return []
        absent = [name for name in self.columns if name not in used]
        without = f"; not in this file: {', '.join(absent)}" if absent else ""
        said = f"columns: {', '.join(f'{theirs} as {self.columns[theirs]}' for theirs in used)}{without}"
        return [said, *self._overlooked.notes(self._seen)]

    @property
    def used(self) -> dict[str, str]:
        """The pairs whose column is in the file, as they were given."""
        return {theirs: ours for theirs, ours in self._given.items() if theirs in self._seen}


def _layout_of(columns: Collection[str]) -> str | None:
    """The layout that columns without other names have; None if they have none."""
    try:
        return detect_layout(columns).name
    except RowError:
        return None


def _key(value: object) -> str:
    """The value as people write it: 1.0, which pandas makes of 1 in a column with missing values, is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _meanings(theirs: str, named: str) -> dict[str, str]:
    """The file's values, each with its meaning: `winner:left=a|right=b` as {left: a, right: b}."""
    ours, _, listed = named.partition(":")
    pairs = [pair.rpartition("=") for pair in listed.split("|")]
    found = {_key(value): meaning.strip() for value, _, meaning in pairs}
    known = ours in JUDGES or (ours in THUMBS and BOOLEANS.keys() >= set(found.values()))
    if not known or not all(found) or not all(found.values()) or len(found) < len(pairs):
        raise UsageError(
            f"columns: {theirs}={named} does not say what a judgement's values mean",
            got=listed,
            expected=f"each value once, after one of {', '.join(sorted(JUDGES))}: {theirs}=winner:left=a|right=b; "
            f"or after {' or '.join(sorted(THUMBS, reverse=True))}: {theirs}=label:up=true|down=false",
        )
    return found


def require_in_one(files: Sequence[Renaming]) -> None:
    """Raises DataError for a named column that none of these files has."""
    seen = {name for file in files for name in file._seen}
    if missing := [name for name in files[0].columns if name not in seen]:
        raise files[0]._absent("none of the files has a", missing, seen)


def _taken(row: dict[str, Any], path: str) -> tuple[Any, dict[str, Any], dict[str, Any]] | None:
    """What lies at the path in objects and lists, the row's other columns, and what is left of this one, as columns of
    its own: of {"text": …, "model": "m1"}, `outputs.0.model`. None if there is nothing."""
    words = path.split(".")
    for known in range(len(words), 0, -1):
        column, further = ".".join(words[:known]), words[known:]
        if column in row and (found := _found(row[column], further, column)) is not None:
            value, left = found
            return value, {name: other for name, other in row.items() if name != column}, left
    return None


def _found(nested: Any, path: Sequence[str], name: str) -> tuple[Any, dict[str, Any]] | None:
    """The value at the path, and what lies beside it, by names with dots."""
    if not path:
        return nested, {}
    items: dict[str, Any]
    if isinstance(nested, list | tuple):
        items = {str(place): item for place, item in enumerate(nested)}
    elif isinstance(nested, Mapping):
        items = dict(nested)
    else:
        return None
    first, *further = path
    if first not in items:
        return None
    found = _found(items.pop(first), further, f"{name}.{first}")
    if found is None:
        return None
    return found[0], {**{f"{name}.{key}": item for key, item in items.items()}, **found[1]}
