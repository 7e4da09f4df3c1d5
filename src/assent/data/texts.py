"""Turns the values of a row into `Text`: strings stay raw text, message lists become tuples of `Message`.

ShareGPT's keys and role names (`from`/`value`, human, gpt …) are translated here, and only here.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

from assent.types import Message, Text

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}


class RowError(Exception):
    """A row that cannot be used. The loader adds the file and the line.

    reason      short, and the same for all rows with the same fault, so that rows are counted by it
    """

    def __init__(
        self, reason: str, what: str, *, got: object = None, expected: object = None, fix: str | None = None
    ) -> None:
        self.reason, self.what, self.got, self.expected, self.fix = reason, what, got, expected, fix
        super().__init__(what)


IDENTICAL = "chosen and rejected are identical"
EMPTY_COMPLETION = "empty completion"
EMPTY_PROMPT = "empty prompt"
NOT_TEXT = "not text"


def shorten(value: object, width: int = 80) -> str:
    """`repr`, shortened so that a message stays on one line."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 4]} …{text[-1]}"


def shorten_middle(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def shown(prompt: Text, completion: object) -> str:
    """A completion and its prompt for a message, both shortened in the middle."""
    return f"completion {shorten_middle(str(completion))!r} of prompt {shorten_middle(last_content(prompt))!r}"


def last_content(text: Text) -> str:
    """A string as it is, else the content of the last message."""
    return text if isinstance(text, str) else text[-1].content if text else ""


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def some(sources: Sequence[str], most: int = 3) -> str:
    """The first sources, and a sign that there are more."""
    return ", ".join(sources[:most]) + (", …" if len(sources) > most else "")


def listed(names: Iterable[str], most: int = 40) -> str:
    """The first names, and how many there are where there are more."""
    names = list(names)
    more = f" … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(shorten_middle(name, 60) for name in names[:most]) + more


def nearest(word: str, options: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The option that is spelt most like the word. Of many options only the first thousand are tried."""
    near = [option for option in islice(options, 1000) if abs(len(option) - len(word)) <= len(word) + 8]
    matches = difflib.get_close_matches(word, near, n=1, cutoff=cutoff)
    return matches[0] if matches else None


_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")


def parse_text(value: object, column: str) -> Text:
    """A string, a list of messages, or a single message (ShareGPT's `chosen`)."""
    if isinstance(value, str):
        if _MESSAGES_AS_TEXT.match(value):
            raise RowError(
                "messages written as text",
                f"`{column}` is one string that spells a list of messages, which would be read as raw text",
                got=shorten(value),
                expected="a list of messages {role, content}, not in quotes",
                fix="write the lists as JSON, not as text (pandas' to_csv writes them as Python shows them)",
            )
        return _valid_unicode(value, column)
    if isinstance(value, Mapping):
        return (_parse_message(value, column),)
    if isinstance(value, list | tuple):
        return tuple(_parse_message(message, column) for message in value)
    if value is None:
        raise RowError(
            EMPTY_PROMPT if column in ("prompt", "conversations") else EMPTY_COMPLETION,
            f"`{column}` is empty",
            got="null",
            expected="text",
            fix=f"give `{column}` text, or remove the row",
        )
    raise RowError(
        NOT_TEXT,
        f"`{column}` is not text",
        got=f"{type(value).__name__} {shorten(value)}",
        expected="a string, or a list of messages {role, content}",
        fix=f"give `{column}` text, or remove the row",
    )


def parse_messages(value: object, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        raise RowError(
            "not a list of messages",
            f"`{column}` is a plain string",
            got=shorten(value),
            expected="a list of messages {role, content}, or of {from, value}",
        )
    text = parse_text(value, column)
    assert not isinstance(text, str)
    return text


def _parse_message(value: object, column: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(
            NOT_TEXT,
            f"`{column}` holds something that is not a message",
            got=f"{type(value).__name__} {shorten(value)}",
            expected="messages {role, content}, or {from, value}",
        )
    if "role" in value:
        role_key, content_key, names = "role", "content", {role: role for role in ROLES}
    elif "from" in value:
        role_key, content_key, names = "from", "value", SHAREGPT_ROLES
    else:
        raise RowError(
            "message without role",
            f"a message of `{column}` has no role",
            got=f"keys {', '.join(map(str, value)) or '(none)'}",
            expected="{role, content}, or {from, value}",
            fix="rename the keys of each message in the file to role and content (--columns renames columns alone)",
        )
    role = value[role_key]
    if not isinstance(role, str) or role not in names:
        close = nearest(role, names) if isinstance(role, str) else None
        raise RowError(
            "unknown role",
            f"unknown role in `{column}`" + (f" (did you mean {close!r}?)" if close else ""),
            got=shorten(role),
            expected=", ".join(names),
        )
    content = value.get(content_key)
    extra = {key: item for key, item in value.items() if key not in (role_key, content_key)}
    if content is None and extra:  # an assistant turn that only calls tools
        content = ""
    if not isinstance(content, str):
        kinds = [str(part.get("type")) for part in content if isinstance(part, Mapping)] if _is_parts(content) else []
        only_text = bool(kinds) and set(kinds) <= {"text"}
        raise RowError(
            NOT_TEXT,
            f"the content of a {names[role]} message of `{column}` is not text",
            got=f"parts: {', '.join(kinds)}" if kinds else f"{type(content).__name__} {shorten(content)}",
            expected="a string",
            fix="leave nothing but `type` and `text` in the parts, or write their text as one string"
            if only_text
            else "remove such rows: Assent trains on text alone"
            if kinds
            else None,
        )
    return Message(names[role], _valid_unicode(content, column), extra)


def _is_parts(content: object) -> TypeGuard[list[object]]:
    """A list of content parts, {"type": "text", …}, {"type": "image", …}."""
    return isinstance(content, list) and bool(content) and all(isinstance(p, Mapping) and "type" in p for p in content)


def _valid_unicode(text: str, column: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            NOT_TEXT,
            f"`{column}` holds half of a surrogate pair, which no tokenizer can read",
            got=f"{text[error.start : error.end]!r} at character {error.start}",
            expected="valid Unicode",
        ) from None
    return text


def require_prompt(prompt: Text, column: str) -> Text:
    blank = not prompt.strip() if isinstance(prompt, str) else not any(m.content.strip() or m.extra for m in prompt)
    if blank:
        raise RowError(EMPTY_PROMPT, f"`{column}` is empty", got=shorten(as_plain(prompt)), expected="text")
    return prompt


def require_completion(completion: Text, column: str) -> Text:
    """Raises RowError if the completion is blank, has a blank assistant turn or begins with another role's turn."""
    if isinstance(completion, str):
        blank = not completion.strip()
    else:
        blank = not completion or any(
            m.role == "assistant" and not m.content.strip() and not _says_more(m) for m in completion
        )
    if blank:
        raise RowError(
            EMPTY_COMPLETION,
            f"`{column}` is empty",
            got=shorten(as_plain(completion)),
            expected="text with at least one visible character, or a tool call",
            fix="remove the row, or give it a completion",
        )
    if not isinstance(completion, str) and completion[0].role != "assistant":
        raise RowError(
            "completion does not begin with an assistant turn",
            f"`{column}` begins with a {completion[0].role} turn",
            got=" → ".join(m.role for m in completion),
            expected="an assistant turn first: earlier turns belong to the prompt",
        )
    return completion


_SPEECH = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys of a turn that a template may write in the place of its content."""


def _says_more(message: Message) -> bool:
    return any(message.extra.get(key) for key in _SPEECH)


def require_same_kind(prompt: Text, completion: Text, column: str) -> None:
    if isinstance(prompt, str) != isinstance(completion, str):
        kinds = ["a plain string" if isinstance(text, str) else "a list of messages" for text in (prompt, completion)]
        raise RowError(
            "prompt and completion of different kinds",
            f"the prompt is {kinds[0]}, but `{column}` is {kinds[1]}",
            expected="two plain strings (raw text, no template), or two lists of messages",
            fix="write both in the same form",
        )


def as_plain(text: Text) -> Any:
    """The JSON value of `text` in a file: a string, or a list of messages."""
    return text if isinstance(text, str) else [message.as_dict() for message in text]


def as_sharegpt(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [{"from": SHAREGPT_NAMES[m.role], "value": m.content, **m.extra} for m in messages]


def key(text: Text) -> str:
    """A string that is equal for two texts if and only if the texts are equal."""
    return text if isinstance(text, str) else json.dumps(as_plain(text), sort_keys=True, default=str)


def visible(text: Text) -> str:
    """The text without roles, in which words and characters are counted."""
    return text if isinstance(text, str) else "\n".join(message.content for message in text)


def parse_number(
    value: object, column: str, *, low: float = -math.inf, high: float = math.inf, expected: str = "a finite number"
) -> float:
    try:
        number = None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # a whole number beyond all floats
        number = None
    if number is None or not math.isfinite(number) or not low <= number <= high:
        raise RowError(f"bad `{column}`", f"`{column}` is not usable", got=shorten(value), expected=expected)
    return number


def parse_thumb(value: object, column: str) -> bool:
    """True or false, or the numbers 1 and 0 that some files have instead."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise RowError(
        f"bad `{column}`",
        f"`{column}` is not usable",
        got=shorten(value),
        expected="true (desirable) or false",
        fix=f"say what the values mean: --columns 'THEIRS={column}:up=true|down=false'",
    )


def parse_list(value: object, column: str, *, length: int | None = None, of: str = "completions") -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise RowError(f"bad `{column}`", f"`{column}` is not a list, or is an empty one", got=shorten(value))
    if length is not None and len(value) != length:
        raise RowError(
            f"bad `{column}`",
            f"`{column}` has {len(value)} entries for {length} {of}",
            got=shorten(value),
            expected=f"one entry for each of the {of}",
        )
    return list(value)
