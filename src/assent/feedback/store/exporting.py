"""From judgements to rows that training reads, and the account of which judgements were taken."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from assent.data.formats import LAYOUTS, get_layout, write_row
from assent.data.loading import write_groups
from assent.data.texts import counted
from assent.errors import DataError
from assent.feedback.store.database import Database, revision_of
from assent.feedback.store.reading import Item, Judgement, counting, names_of, read_items
from assent.feedback.store.schema import ADJUDICATION, FIRST, exports
from assent.feedback.tasks import MORE_FIELDS, VALUE_FIELDS, Value, normal
from assent.judging.collecting import columns_in_order
from assent.runs.files import replacing, write_json
from assent.types import Preference, PromptGroup

Aggregate = Literal["each", "majority"]
KIND_OF_LAYOUT = {
    "comparisons": "ranking",
    "implicit_comparisons": "ranking",
    "sharegpt_comparisons": "ranking",
    "rankings": "ranking",
    "scores": "scores",
    "ratings": "scores",
    "thumbs": "thumbs",
    "stepwise": "step_labels",
}
"""Layouts that hold a judgement, and which."""
GOLD, REPEAT, DECIDED, SPLIT = "gold question", "repeated item", "decided by an adjudicator", "no majority"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a spreadsheet run a cell; the last four are those of full width."""


@dataclass(slots=True)
class Taken:
    """One row of an export: the group, and the numbers of the judgements in it."""

    group: PromptGroup
    judgements: list[int]


@dataclass(slots=True)
class Selection:
    rows: list[Taken] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Why, and which judgements."""
    revision: str = ""


def select(database: Database, *, aggregate: Aggregate = "each", only: Collection[int] | None = None) -> Selection:
    """The judgements that count, as groups.

    only       numbers of the items to take; None: all
    each       a row for each review, with its annotator; an adjudicator's decision stands in place of an item's reviews
    majority   a row for each item: the adjudicator's decision, else what most reviews say; of rankings of more than two
               the order of the mean ranks, of ratings their mean. Items without a majority are left out.

    Gold questions and repeated items measure the annotators, and are left out.
    """
    found = Selection()
    for item, own, names in judged_items(database, found, only=only):
        if aggregate == "each":
            for one in own:
                name = names.get(one.annotator_id, f"annotator {one.annotator_id}")
                group = _group(item, one.value, name, f"judgement {one.id}", comment=one.comment)
                found.rows.append(Taken(group, [one.id]))
            continue
        numbers = [one.id for one in own]
        value = majority([one.value for one in own])
        if value is None:
            found.left_out[SPLIT] += numbers
        else:
            found.rows.append(Taken(_group(item, value, None, f"item {item.id}"), numbers))
    found.rows.sort(key=lambda row: row.judgements[0])
    return found


def as_taken(judged: Sequence[tuple[Item, Sequence[Judgement], Mapping[int, str]]]) -> list[Taken]:
    """One row for each judgement, for the account of an export in another format."""
    return [Taken(_group(item, one.value, None, ""), [one.id]) for item, own, _ in judged for one in own]


def judged_items(
    database: Database, found: Selection, *, only: Collection[int] | None = None
) -> Iterator[tuple[Item, list[Judgement], Mapping[int, str]]]:
    """Each judged item (of those in `only`) with the judgements to take, and the annotators' names. `found` gets what
    is left out."""
    with database.reading() as connection:
        found.revision = revision_of(connection)
        names = names_of(connection)
        own: dict[int, list[Judgement]] = defaultdict(list)
        for judgement in counting(connection):
            if only is None or judgement.item_id in only:
                own[judgement.item_id].append(judgement)
        items = read_items(connection, sorted(own))
    for number, item in items.items():
        if item.gold is not None:
            found.left_out[GOLD] += [one.id for one in own[number]]
            continue
        found.left_out[REPEAT] += [one.id for one in own[number] if one.occasion > FIRST]
        firsts = [one for one in own[number] if one.occasion == FIRST]
        decisions = [one for one in own[number] if one.occasion == ADJUDICATION]
        if decisions:
            found.left_out[DECIDED] += [one.id for one in firsts]
        taken = decisions[-1:] or firsts
        if taken:
            yield item, taken, names


def majority(values: Sequence[Value]) -> Value | None:
    """What most of the judgements of one item say; None if they are split."""
    if len(values) == 1:
        return values[0]
    kind = next(name for name in VALUE_FIELDS if name in values[0])
    if kind == "scores":
        return {"scores": [statistics.fmean(column) for column in zip(*(v["scores"] for v in values), strict=True)]}
    if kind == "ranking" and len(values[0]["ranking"]) > 2:
        means = [statistics.fmean(column) for column in zip(*(v["ranking"] for v in values), strict=True)]
        return {"ranking": [1 + sum(other < mean for other in means) for mean in means]}
    counts = Counter(json.dumps(v[kind]) for v in values)
    (said, most), *others = counts.most_common()
    return None if others and others[0][1] == most else {kind: json.loads(said)}


def _group(item: Item, value: Value, annotator: str | None, source: str, *, comment: str | None = None) -> PromptGroup:
    known: dict[str, Any] = {name: value[name] for name in MORE_FIELDS if name in value}
    for name in VALUE_FIELDS:
        if name in value:
            entries = normal(value[name]) if name == "ranking" else value[name]
            known[name] = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in entries)
    extra = item.extra
    order: Sequence[int] = range(len(item.completions))
    if "ranking" in known:  # best first, as comparisons are written
        order = sorted(order, key=lambda place: known["ranking"][place])
        known["ranking"] = tuple(known["ranking"][place] for place in order)
    logps = extra.get("logps")
    return PromptGroup(
        prompt=item.prompt,
        completions=tuple(item.completions[place] for place in order),
        preference=Preference(**known, annotator=annotator),
        logps=tuple(logps[place] for place in order) if logps else None,
        steps=tuple(tuple(steps) for steps in extra["steps"]) if "steps" in extra else None,
        tools=tuple(item.tools) if item.tools else None,
        chat_template_kwargs=item.chat_template_kwargs,
        columns=columns_in_order(_columns(item, comment), order),
        source=source,
    )


def _columns(item: Item, comment: str | None) -> dict[str, Any]:
    """The item's own, `model` (who wrote each completion, where that is known) and the annotator's comment."""
    models = list(item.models) if len(item.models) > 1 else item.models[0]
    known: dict[str, Any] = {"model": models} if any(item.models) else {}
    return known | item.extra.get("columns", {}) | ({"comment": comment} if comment else {})


def choose_layout(rows: Sequence[Taken]) -> str:
    """The layout that holds them all. Raises DataError where one file cannot."""
    kinds = Counter(row.group.preference.kind if row.group.preference else "" for row in rows)
    if len(kinds) > 1:
        listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        raise DataError(
            "one file holds one kind of judgement", got=listed, fix="name one: --layout comparisons, ratings or thumbs"
        )
    (kind,) = kinds
    is_single = all(len(row.group.completions) == 1 for row in rows)
    if kind == "ranking":
        return "comparisons" if all(_is_pair(row.group) for row in rows) else "rankings"
    return {"scores": "ratings" if is_single else "scores", "thumbs": "thumbs", "step_labels": "stepwise"}[kind]


def _is_pair(group: PromptGroup) -> bool:
    return group.preference is not None and group.preference.ranking == (1, 2)


def keep_layout(found: Selection, layout: str) -> None:
    """Leaves out, with the reason, the rows that this layout cannot hold."""
    kind = KIND_OF_LAYOUT.get(get_layout(layout).name)
    if kind is None:
        raise DataError(
            "this layout holds no judgement", got=layout, expected=", ".join(n for n in LAYOUTS if n in KIND_OF_LAYOUT)
        )
    kept = []
    for row in found.rows:
        own = row.group.preference.kind if row.group.preference else ""
        if own != kind:
            found.left_out[f"a judgement of another kind ({own})"] += row.judgements
        elif layout.endswith("comparisons") and not _is_pair(row.group):
            is_tie = len(row.group.completions) == 2
            found.left_out["a tie" if is_tie else "a ranking of more than two"] += row.judgements
        else:
            kept.append(row)
    found.rows = kept


def write_export(database: Database, file: str, found: Selection, layout: str) -> dict[str, Any]:
    """Writes the rows as JSONL (also gzipped) or CSV, and beside it FILE.manifest.json, which says what was taken."""
    groups = [row.group for row in found.rows]
    if Path(file).suffix == ".csv":
        _write_csv(Path(file), groups, layout)
    else:
        write_groups(file, groups, layout)
    return record_export(database, file, found, layout)


def record_export(database: Database, file: str, found: Selection, layout: str) -> dict[str, Any]:
    """Writes the manifest, into the store as well."""
    manifest = {
        "store": database.name,
        "layout": layout,
        "rows": len(found.rows),
        "judgements": ranges([number for row in found.rows for number in row.judgements]),
        "left_out": {reason: ranges(numbers) for reason, numbers in found.left_out.items() if numbers},
        "revision": found.revision,
        "created": database.clock(),
    }
    write_json(Path(f"{file}.manifest.json"), manifest)
    with database.writing() as connection:
        connection.execute(sa.insert(exports).values(file=file, manifest=manifest, created=manifest["created"]))
    return manifest


def ranges(numbers: Sequence[int]) -> list[list[int]]:
    """[[1, 3], [7, 7]] of 1, 2, 3 and 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def lines_of(found: Selection, file: str, layout: str) -> list[str]:
    lines = [f"{counted(len(found.rows), 'row')} ({layout}) -> {file}"]
    lines += [f"  left out: {counted(len(n), 'judgement')}, {reason}" for reason, n in found.left_out.items() if n]
    return lines


def neutral(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: one that could be gets a leading apostrophe."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _write_csv(target: Path, groups: Sequence[PromptGroup], layout: str) -> None:
    rows = [write_row(group, get_layout(layout)) for group in groups]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([neutral(name) for name in names])
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> str:
    """Numbers stay numbers: a negative one is no formula."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return neutral(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
