"""Questions and answers of a chat: as groups, as rows, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assent.types import Message, Preference, PromptGroup, Text

Row = dict[str, Any]


def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    """Messages from roles and contents."""
    return tuple(Message(role, content) for role, content in pairs)


def pair(prompt: Text, chosen: str, rejected: str, **more: Any) -> PromptGroup:
    """Two replies to a conversation, or to one message of the user. The first is preferred."""
    return PromptGroup(
        prompt=turns(("user", prompt)) if isinstance(prompt, str) else prompt,
        completions=(turns(("assistant", chosen)), turns(("assistant", rejected))),
        preference=Preference(ranking=(1, 2)),
        **more,
    )


def group(
    number: int, *completions: str, preference: Preference | None = None, logps: tuple[float, ...] | None = None
) -> PromptGroup:
    """The question of this number and some answers."""
    return PromptGroup(
        prompt=turns(("user", f"what is {number} plus {number}?")),
        completions=tuple(turns(("assistant", text)) for text in completions),
        preference=preference,
        logps=logps,
        source=f"rows.jsonl:{number + 1}",
    )


def comparison(number: int, **preference: Any) -> PromptGroup:
    chosen = f"it is {2 * number}." if number % 3 else f"it is {2 * number}. it is {2 * number}."
    return group(number, chosen, "no" * (1 + number % 4), preference=Preference(ranking=(1, 2), **preference))


def question(number: int) -> list[Row]:
    return [message.as_dict() for message in group(number).prompt]


def answer(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def answers(number: int) -> tuple[list[Row], list[Row]]:
    """The good answer to the question of this number, and the bad one."""
    good, bad = ([message.as_dict() for message in completion] for completion in comparison(number).completions)
    return good, bad


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: str | Path) -> list[Row]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def prompts(path: Path, count: int = 6, *, first: int = 0) -> Path:
    return write_rows(path, ({"prompt": question(i)} for i in range(first, first + count)))


def demonstrations(path: Path, count: int = 6, *, first: int = 0) -> Path:
    rows = ({"prompt": question(i), "completion": answers(i)[0]} for i in range(first, first + count))
    return write_rows(path, rows)


def comparisons(path: Path, count: int = 6, *, first: int = 0) -> Path:
    rows = (
        {"prompt": question(i), "chosen": good, "rejected": bad}
        for i in range(first, first + count)
        for good, bad in [answers(i)]
    )
    return write_rows(path, rows)


def thumbs(path: Path, count: int = 6) -> Path:
    """Good and bad answers in turn."""
    rows = ({"prompt": question(i), "completion": answers(i)[1 - i % 2], "label": i % 2 == 1} for i in range(count))
    return write_rows(path, rows)
