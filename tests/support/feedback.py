"""Stores with questions to judge, and rows for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from assent.feedback.store.database import Database
from assent.feedback.store.items import add_items
from assent.feedback.store.labelling import Assignment, answer, next_assignment
from assent.feedback.store.people import ensure_annotator
from assent.feedback.store.reading import current_guidelines
from assent.feedback.tasks import to_items
from assent.types import PromptGroup
from tests.support.rows import group


def questions(count: int, answers: int = 2) -> list[PromptGroup]:
    """Questions with different answers, none of them judged."""
    return [group(n, *(f"it is {n + k}." for k in range(answers))) for n in range(count)]


def fill(database: Database, count: int, *, reviews: int = 1, task: Any = "compare", answers: int = 2) -> None:
    items, _ = to_items(questions(count, answers), task)
    add_items(database, items, task=task, reviews=reviews)


def people(database: Database, count: int) -> list[int]:
    return [ensure_annotator(database, f"annotator {n}").id for n in range(count)]


def label_all(database: Database, annotator: int, choose: Any = lambda _: [1, 2], mix: Any = None) -> list[int]:
    """Answers until nothing is left; the items in the order in which they were given."""
    done = []
    options = () if mix is None else (mix,)
    while (given := next_assignment(database, annotator, *options)) is not None:
        assert say(database, given, choose(given)) == "stored"
        done.append(given.item_id)
    return done


def say(database: Database, given: Assignment, ranking: Sequence[int] | None, **more: Any) -> str:
    """Answers beside the instructions of this moment."""
    more = {"guideline_id": read(database, current_guidelines)[0], **more}
    value = None if ranking is None else {"ranking": list(ranking)}
    return answer(database, given.id, given.annotator_id, revision=given.revision, value=value, **more)


def read(database: Database, ask: Callable[..., Any], *given: Any) -> Any:
    """What a question of the store says."""
    with database.reading() as connection:
        return ask(connection, *given)


HOSTILE_SEEDS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\"><circle r=9></svg>",
    "<svg><a xlink:href=\"javascript:document.title='owned'\"><text>press</text></a></svg>",
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>",
    "<body onload=\"document.title='owned'\">",
    "<details open ontoggle=\"document.title='owned'\">",
    "<form action=\"javascript:document.title='owned'\"><button name=choice value=1>press</button></form>",
    '<base href="https://example.org/">',
    '<meta http-equiv=refresh content="0;url=https://example.org/">',
    '<link rel=stylesheet href="https://example.org/x.css">',
    "<style>body{display:none}</style>",
    '<div style="position:fixed;inset:0;background:red">over all</div>',
    "<input autofocus onfocus=\"document.title='owned'\">",
    "<a href=\"javascript:document.title='owned'\">press</a>",
    "[press](javascript:document.title='owned')",
    "[press](  JaVaScRiPt:document.title='owned')",
    "[press](data:text/html,<script>document.title='owned'</script>)",
    "![picture](https://example.org/track.png)",
    "![picture](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "<https://example.org/>",
    '[press][one]\n\n[one]: https://example.org/ "title"',
    "| a | b |\n|:-:|--:|\n| 1 | <script>document.title='owned'</script> |",
    "```html\n<script>document.title='owned'</script>\n```",
    "```\"><script>document.title='owned'</script>\nx\n```",
    "    <script>document.title='owned'</script>",
    "`<img src=x onerror=document.title='owned'>`",
    "answer \u202egnp.exe\u202c reversed",
    "\u2066isolate\u2069 and \u2067another",
    "null \x00 bell \x07 escape \x1b[31m red",
    "&lt;script&gt;document.title='owned'&lt;/script&gt;",
    "&#60;script&#62;document.title='owned'&#60;/script&#62;",
    "</textarea><script>document.title='owned'</script>",
    "</section></form><script>document.title='owned'</script>",
    "<!-- hidden --> seen",
    "{{ 7 * 7 }} {% include 'base.html.jinja' %}",
    "<math><mtext><table><mglyph><style><img src=x onerror=document.title='owned'>",
    "<object data=\"data:text/html,<script>document.title='owned'</script>\"></object>",
    "<noscript><p title=\"</noscript><img src=x onerror=document.title='owned'>\">",
    "\ufeff<script>document.title='owned'</script>",
)


def hostile() -> list[str]:
    """A hundred completions that try to be more than text."""
    nested = [">" * depth + " - " * depth + seed for depth, seed in zip((5, 19, 60, 400), HOSTILE_SEEDS, strict=False)]
    quoted = [f"> {seed}\n>\n> 1. {seed}" for seed in HOSTILE_SEEDS[:36]]
    deep = ["*" * 300 + "deep" + "*" * 300, "[" * 500 + "x" + "](javascript:1)" * 500]
    long = ["a" * 30_000 + "<script>document.title='owned'</script>", "\n".join(f"# {seed}" for seed in HOSTILE_SEEDS)]
    many = [f"**{seed}**" for seed in HOSTILE_SEEDS[:16]]
    found = [*HOSTILE_SEEDS, *nested, *quoted, *deep, *long, *many]
    assert len(found) == 100
    return found
