"""The column layouts: which columns a file may have, and what a row means.

A layout is a pair of inverse functions: a row to a `PromptGroup`, and back. Files are read in `readers.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from assent.data import foreign, json_text, rows_read, rows_write, texts, unread
from assent.data.rows_read import Parts, Row
from assent.data.texts import RowError
from assent.errors import DataError, UsageError
from assent.types import Message, Preference, PromptGroup, Text

COMMON_COLUMNS = ("weight", "annotator", "system", "tools", "chat_template_kwargs")
PAIR_COLUMNS = ("margin", "chosen_probability", "chosen_logps", "rejected_logps")


@dataclass(frozen=True)
class Layout:
    """One column layout. Where a file has the columns of several layouts, the highest `tier` wins.

    A file of comparisons may also have `messages` (UltraFeedback does), and any file may have `prompt`.
    """

    name: str
    required: tuple[str, ...]
    parse: Callable[[Row], Parts]
    write: Callable[[PromptGroup], dict[str, Any]]
    optional: tuple[str, ...] = ()
    tier: int = 2

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.required)}"


_LAYOUTS = (
    Layout("demonstrations", ("prompt", "completion"), rows_read.single, rows_write.single, ("logp",)),
    Layout("messages", ("messages",), rows_read.conversation("messages"), rows_write.messages, tier=1),
    Layout("comparisons", ("prompt", "chosen", "rejected"), rows_read.comparison, rows_write.comparison, PAIR_COLUMNS),
    Layout(
        "implicit_comparisons",
        ("chosen", "rejected"),
        rows_read.implicit_comparison,
        rows_write.implicit_comparison,
        PAIR_COLUMNS,
    ),
    Layout("rankings", ("prompt", "completions", "ranking"), rows_read.ranking, rows_write.ranking, ("logps",)),
    Layout("scores", ("prompt", "completions", "scores"), rows_read.scores, rows_write.scores, ("logps",)),
    Layout("thumbs", ("prompt", "completion", "label"), rows_read.thumbs, rows_write.thumbs, ("logp",)),
    Layout("ratings", ("prompt", "completion", "score"), rows_read.rating, rows_write.rating, ("logp",)),
    Layout("stepwise", ("prompt", "completions", "labels"), rows_read.stepwise, rows_write.stepwise),
    Layout(
        "sharegpt_comparisons",
        ("conversations", "chosen", "rejected"),
        rows_read.sharegpt_comparison,
        rows_write.sharegpt_comparison,
        PAIR_COLUMNS,
    ),
    Layout("sharegpt", ("conversations",), rows_read.conversation("conversations"), rows_write.sharegpt, tier=1),
    Layout("prompts", ("prompt",), rows_read.prompt_only, rows_write.prompt_only, tier=0),
)
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _LAYOUTS}
CANDIDATES = Layout("candidates", ("prompt", "completions"), rows_read.many, rows_write.many, ("logps",), tier=1)
"""Completions that nobody has judged: for whoever is about to judge them. Nothing trains on them, so elsewhere a file
with these columns lacks one."""


def get_layout(name: str) -> Layout:
    if name not in LAYOUTS:
        close = texts.nearest(name, LAYOUTS)
        raise UsageError(
            f"there is no layout {name!r}" + (f"; did you mean {close!r}?" if close else ""),
            expected=", ".join(LAYOUTS),
        )
    return LAYOUTS[name]


MISSING_COLUMN = "missing column"

_DECISIVE = {2: frozenset[str](), 1: frozenset({"chosen", "rejected", "completions"})}
_KNOWN = frozenset(name for layout in _LAYOUTS for name in layout.required)


def detect_layout(columns: Collection[str], *, is_to_be_judged: bool = False) -> Layout:
    """The layout of a file with these columns. Raises RowError if no layout fits, or more than one.

    is_to_be_judged   several completions need no judgement (`CANDIDATES`)

    A file that lacks a column of one layout is not read as a layout with fewer columns: `prompt, chosen, rejcted` is a
    file of comparisons with a misspelt column, not a file of prompts.
    """
    names = set(columns)
    known = (*_LAYOUTS, CANDIDATES) if is_to_be_judged else _LAYOUTS
    fitting = [layout for layout in known if names.issuperset(layout.required)]
    if not fitting:
        raise missing_columns(names)
    tier = max(layout.tier for layout in fitting)
    fitting = [layout for layout in fitting if layout.tier == tier]
    fitting = [one for one in fitting if not any(set(one.required) < set(other.required) for other in fitting)]
    if len(fitting) > 1:
        raise RowError(
            "more than one layout",
            "the columns fit more than one layout",
            got=texts.listed(sorted(names)),
            expected="one of " + " · ".join(layout.name for layout in fitting),
            fix="keep the columns of one of them",
        )
    spare = names.difference(fitting[0].required)
    suspicious = spare & _DECISIVE.get(tier, _KNOWN - {"label", "labels", "score", "scores"})
    if tier == 0:
        suspicious |= {name for name in spare if texts.nearest(name.lower(), _TEXT_COLUMNS, cutoff=0.9)}
    if suspicious:
        raise missing_columns(names)
    return fitting[0]


_TEXT_COLUMNS = ("completion", "completions", "chosen", "rejected", "messages", "conversations")


def missing_columns(names: Collection[str], layout: Layout | None = None) -> RowError:
    """The error for columns that fit no layout: the nearest layout, the missing columns, a likely misspelling."""
    return RowError(MISSING_COLUMN, **_missing(frozenset(names), layout))


@lru_cache(maxsize=256)
def _missing(names: frozenset[str], layout: Layout | None) -> dict[str, Any]:
    """The parts of that error. Kept, since all rows of a file may lack the same column."""
    spare = {name.lower(): name for name in names if name not in _KNOWN}

    def likeness(candidate: Layout) -> float:
        lacking = [name for name in candidate.required if name not in names]
        misspelt = sum(texts.nearest(name, spare) is not None for name in lacking)
        return len(candidate.required) - len(lacking) + 0.5 * misspelt - (len(lacking) - misspelt)

    best = layout or max((one for one in _LAYOUTS if not set(one.required) <= set(names)), key=likeness)
    lacking = []
    for name in best.required:
        if name not in names:
            close = texts.nearest(name, spare)
            lacking.append(f"`{name}`" + (f" (is `{spare[close]}` meant?)" if close else ""))
    known = layout is not None or likeness(best) > 0
    lack = f"missing column {', '.join(lacking)} for the layout {best.name}"
    return {
        "what": lack if known else "the columns fit no layout",
        "got": "columns " + (texts.listed(sorted(names)) or "(none)"),
        "expected": f"the columns of {best}"
        if layout
        else "one of " + " · ".join([*(", ".join(x.required) for x in _LAYOUTS), *foreign.LAYOUTS]),
        "fix": "rename or add the column; --columns THEIRS=OURS reads it under another name"
        if known
        else "name the columns of one layout: --columns THEIRS=OURS,…",
    }


def parse_row(row: Row, layout: Layout, *, source: str = "") -> PromptGroup:
    """The group that a row holds. Raises RowError."""
    parts = layout.parse(row)
    prompt, templated = parts.prompt, not isinstance(parts.prompt, str)
    given = {name: row[name] for name in ("system", "tools", "chat_template_kwargs") if row.get(name)}
    if given and not templated:
        raise RowError(
            "template column beside raw text",
            f"`{next(iter(given))}` is for a chat template, but the prompt is raw text, to which none is applied",
            fix="write the texts as lists of messages, or drop the column",
        )
    if "system" in given:
        prompt = _with_system(given["system"], prompt)
    known = dict(parts.known)
    if row.get("weight") is not None:
        expected = "0, or a number from 1e-9 to 1e9"  # float32 sums these without overflow and does not round them to 0
        weight = texts.parse_number(row["weight"], "weight", low=0.0, high=1e9, expected=expected)
        known["weight"] = texts.parse_number(row["weight"], "weight", low=1e-9 if weight else 0.0, expected=expected)
    if row.get("annotator") is not None:
        known["annotator"] = str(row["annotator"])
    used = {*layout.required, *layout.optional, *COMMON_COLUMNS}
    columns = {name: value for name, value in row.items() if name not in used}
    unread.refuse_columns(columns, demonstration=bool(parts.completions) and not parts.known)
    unread.refuse_keys(prompt, parts.completions)
    return PromptGroup(
        prompt=prompt,
        completions=parts.completions,
        preference=Preference(**known) if known else None,
        logps=parts.logps,
        steps=parts.steps,
        tools=_parse_tools(given["tools"]) if "tools" in given else None,
        chat_template_kwargs=_parse_mapping(given.get("chat_template_kwargs", {})),
        columns=columns,
        source=source,
    )


def _with_system(system: object, prompt: Text) -> Text:
    assert not isinstance(prompt, str)
    if not isinstance(system, str):
        raise RowError(texts.NOT_TEXT, "`system` is not text", got=texts.shorten(system), expected="a string")
    if prompt and prompt[0].role == "system":
        raise RowError(
            "two system messages",
            "`system` and the conversation both have a system message",
            got=texts.shorten(system),
            fix="keep one of them",
        )
    return (Message("system", system), *prompt)


def _parse_json(value: object, column: str) -> object:
    """Files often hold tools as a string of JSON, since their schemas differ from row to row."""
    if not isinstance(value, str):
        return value
    try:
        return json_text.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"bad `{column}`", f"`{column}` is not valid JSON: {error}", got=texts.shorten(value)) from None
    except (RecursionError, ValueError):  # Python refuses integers of more than 4300 digits
        raise RowError(
            f"bad `{column}`", f"`{column}` is nested too deeply or has an endless number", got=texts.shorten(value)
        ) from None


def _parse_tools(value: object) -> tuple[Mapping[str, Any], ...] | None:
    tools = _parse_json(value, "tools")
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError("bad `tools`", "`tools` is not usable", got=texts.shorten(value), expected="a list of schemas")
    return tuple(tools) or None


def _parse_mapping(value: object) -> Mapping[str, Any]:
    options = _parse_json(value, "chat_template_kwargs")
    if not isinstance(options, Mapping):
        raise RowError(
            "bad `chat_template_kwargs`",
            "`chat_template_kwargs` is not usable",
            got=texts.shorten(value),
            expected="a mapping of names to values",
        )
    return dict(options)


def write_row(group: PromptGroup, layout: Layout) -> dict[str, Any]:
    """The inverse of `parse_row`. Raises DataError if the layout has no column for something the group holds."""
    try:
        row = layout.write(group) if layout.name == "prompts" or group.completions else _no_completions()
        preference = group.preference or Preference()
        row |= {"weight": preference.weight} if preference.weight != 1.0 else {}
        row |= {"annotator": preference.annotator} if preference.annotator is not None else {}
        row |= {"tools": list(group.tools)} if group.tools else {}
        row |= {"chat_template_kwargs": dict(group.chat_template_kwargs)} if group.chat_template_kwargs else {}
        row |= {name: value for name, value in group.columns.items() if name not in row}
        row = json.loads(json.dumps(row, allow_nan=False))
        again = parse_row(row, layout, source=group.source)
    except (RowError, TypeError, ValueError) as error:
        raise DataError(
            f"a group cannot be written in the layout {layout.name}: {error}", got=group.source or texts.shorten(group)
        ) from None
    lost = [name for name in _FIELDS if not _same(getattr(group, name), getattr(again, name))]
    if lost:
        raise DataError(
            f"the layout {layout.name} cannot hold the {lost[0]} of a group",
            got=f"{group.source} {texts.shorten(getattr(group, lost[0]))}".strip(),
            expected=f"what would be read back: {texts.shorten(getattr(again, lost[0]))}",
            fix="write another layout",
        )
    return row


_FIELDS = ("prompt", "completions", "preference", "logps", "steps", "tools", "chat_template_kwargs", "columns")


def _same(before: object, after: object) -> bool:
    """Equality after a round trip: a tuple inside `columns` may become a list, a default preference None."""
    if isinstance(before, Mapping):
        return bool(json.loads(json.dumps(before)) == after)
    if isinstance(before, Preference) and after is None:
        return before == Preference()
    return before == after


def _no_completions() -> dict[str, Any]:
    raise RowError("no completions", "the group has no completions")
