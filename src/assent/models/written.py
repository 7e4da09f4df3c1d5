"""Checks that a template writes what it is given (law 12): contents, reasoning, and tools' names and arguments.

There are two checks. `check_turn` looks for a turn's own text where it belongs. `check_shape` renders a copy of the
conversation whose texts are replaced by unique words, once for each shape of conversation. So a tool call cannot be
mistaken for the list of tools, or a number for the same number in another turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assent.errors import TemplateError
from assent.models.encoding import CLOSE, OPEN
from assent.models.templates import Template
from assent.types import Message

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold its reasoning apart from its content."""
REASONING_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""The tags that models write around their reasoning."""
FIX = "use a template that writes it with --chat-template FILE, or remove it from the data"


@dataclass(slots=True)
class Changes:
    """Changes that a template may make, counted in turns of one row."""

    reasoning: int = 0
    """Earlier turns whose reasoning it leaves out."""
    white_space: int = 0
    """Turns in which it changes white space."""


def check_turn(message: Message, text: str, *, number: int, trained: bool, changes: Changes) -> None:
    """Looks for a turn's content and reasoning in `text`. `number` counts turns from 1.

    Raises TemplateError if the content is missing, or the reasoning of a turn that is trained on.
    """
    lost_reasoning = False
    for key in REASONING_KEYS:
        reasoning = message.extra.get(key)
        lost_reasoning |= isinstance(reasoning, str) and _find(reasoning, text) == "missing"
    found = _find(message.content, text)
    changes.white_space += found == "white space"
    if found == "missing":
        parts = _parts(message.content)
        if all(_find(part, text) != "missing" for part in parts[1:]) and len(parts) > 1:
            lost_reasoning |= _find(parts[0], text) == "missing"
        else:
            raise TemplateError(
                f"the chat template does not write the content of turn {number} ({message.role})",
                got=short(message.content),
                expected="a template that writes all of what it is given",
                fix=FIX,
            )
    if lost_reasoning and trained:
        raise TemplateError(
            f"the chat template leaves out the reasoning of turn {number} ({message.role}), which is trained on",
            got=short(message.content),
            fix=FIX,
        )
    changes.reasoning += lost_reasoning


def check_shape(
    messages: Sequence[Message], template: Template, *, add_generation_prompt: bool, options: Mapping[str, Any]
) -> None:
    """Checks with unique words that every content, tool name and argument reaches the text.

    Raises TemplateError, which names the turn and what is missing.
    """
    key = (_shape(list(messages)), add_generation_prompt, _shape(dict(options)))
    if key not in template.unwritten:
        probes = _Probes()
        copy = [probes.of_message(message, number) for number, message in enumerate(messages, start=1)]
        try:
            text = template.render(copy, add_generation_prompt=add_generation_prompt, **options)
        except TemplateError:
            text = None  # it treats these words differently, so `check_turn` must do
        lost = [] if text is None else [place for word, place in probes.places.items() if word not in text]
        template.unwritten[key] = lost[0] if lost else None
    place = template.unwritten[key]
    if place is not None:
        what, number = place
        message = messages[number - 1]
        calls = message.extra.get("tool_calls") or message.extra.get("function_call")
        raise TemplateError(
            f"the chat template does not write {what} of turn {number} ({message.role})",
            got=short(message.content if what == "the content" else json.dumps(calls, ensure_ascii=False, default=str)),
            expected="a template that writes all of what it is given",
            fix=FIX,
        )


def open_reasoning(prompt: str) -> tuple[str, str, str] | None:
    """(opening tag, closing tag, blanks after the opening tag) if the prompt ends inside a block of reasoning."""
    text = prompt.rstrip()
    return next((
        (start, end, prompt[len(text) :]) for start, end in REASONING_TAGS if text.endswith(start)
    ), None)  # fmt: skip


def closed_reasoning(prompt: str) -> str | None:
    """The opening tag if a rendered prompt ends with a block of reasoning that is already closed."""
    text = prompt.rstrip()
    return next((start for start, end in REASONING_TAGS if text.endswith(end)), None)


def short(text: str, limit: int = 160) -> str:
    text = unmarked(text)
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def unmarked(text: str) -> str:
    """Text without the marks around control tokens that it spells."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def _find(wanted: str, text: str) -> str:
    """Looks for a text: "there" (its ends may lack white space), "white space" (also changed inside), or "missing"."""
    stripped = wanted.strip()
    if stripped in text:
        return "there"
    stripped, text = unmarked(stripped), unmarked(text)
    forms = (stripped, json.dumps(stripped, ensure_ascii=False)[1:-1], json.dumps(stripped)[1:-1])
    if any(form in text for form in forms):
        return "there"
    squeezed = _squeeze(text)
    if any(_squeeze(form) in squeezed for form in forms):
        return "white space"
    parts = _parts(stripped)
    if len(parts) > 1 and all(_squeeze(part) in squeezed for part in parts):
        return "white space"  # reasoning and answer, each in the place that the template has for it
    return "missing"


def _parts(content: str) -> list[str]:
    """[reasoning, the rest] of a content that begins with reasoning, else [content]."""
    content = unmarked(content)
    for start, end in REASONING_TAGS:
        before, tag, after = content.partition(end)
        if tag:
            return [before.strip().removeprefix(start), after]
    return [content]


def _squeeze(text: str) -> str:
    return "".join(text.split())


class _Probes:
    """Puts unique words in place of texts. `places`: word -> what it replaces, and the turn's number."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}

    def of_message(self, message: Message, number: int) -> Message:
        content = self._word("the content", number) if message.content.strip() else message.content
        extra = dict(message.extra)
        calls = extra.get("tool_calls")
        if isinstance(calls, (list, tuple)):
            extra["tool_calls"] = [self._of_call(call, number) for call in calls]
        if isinstance(extra.get("function_call"), Mapping):
            extra["function_call"] = self._of_function(extra["function_call"], number)
        return Message(message.role, content, extra)

    def _of_call(self, call: Any, number: int) -> Any:
        if not isinstance(call, Mapping):
            return call
        if isinstance(call.get("function"), Mapping):
            return {**call, "function": self._of_function(call["function"], number)}
        return self._of_function(call, number)

    def _of_function(self, function: Mapping[str, Any], number: int) -> dict[str, Any]:
        out = dict(function)
        if isinstance(out.get("name"), str):
            out["name"] = self._word("the tool's name in a tool call", number)
        if "arguments" in out:
            out["arguments"] = self._of_arguments(out["arguments"], number)
        return out

    def _of_arguments(self, value: Any, number: int) -> Any:
        if isinstance(value, str):
            try:
                inner = json.loads(value)
            except ValueError:
                inner = None
            if isinstance(inner, (dict, list)):
                return json.dumps(self._of_arguments(inner, number))
        if isinstance(value, Mapping):
            return {key: self._of_arguments(part, number) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._of_arguments(part, number) for part in value]
        if value is None or isinstance(value, bool):
            return value
        return self._word("an argument of a tool call", number)

    def _word(self, what: str, number: int) -> str:
        word = f"zqxv{len(self.places)}probe"
        self.places[word] = (what, number)
        return word


def _shape(value: Any) -> Any:
    """A value without its texts. Templates branch on kinds, keys and emptiness."""
    if isinstance(value, Message):
        return (value.role, bool(value.content.strip()), _shape(dict(value.extra)))
    if isinstance(value, Mapping):
        return tuple((key, _shape(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_shape(part) for part in value)
    return value if value is None or isinstance(value, bool) else (type(value).__name__, bool(value))
