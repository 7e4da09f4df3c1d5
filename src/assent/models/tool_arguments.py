"""Arguments of a tool call that are a string of JSON, as OpenAI's API sends them.

Some templates write such a string as it is, and some need it (they add strings). Others write `arguments | tojson`,
which makes JSON of the JSON: "{\\"city\\": …}". There the arguments are given as the object that they spell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from assent.data import json_text
from assent.data.texts import RowError

Turns = list[dict[str, Any]]


def encoded_once(turns: Turns, apply: Callable[[Turns], str]) -> str:
    """The rendered turns; rendered again, with objects for strings, where the template encoded a string twice."""
    text = apply(turns)
    strings = [arguments for arguments in _arguments_of(turns) if _parsed(arguments) is not arguments]
    return apply(_with_objects(turns)) if any(_is_encoded(arguments, text) for arguments in strings) else text


def _is_encoded(arguments: str, text: str) -> bool:
    return json.dumps(arguments, ensure_ascii=False) in text or json.dumps(arguments) in text


def _parsed(arguments: Any) -> Any:
    """The object that a string spells; anything else as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json_text.loads(arguments)
    except (ValueError, RecursionError, RowError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _calls_of(turn: dict[str, Any]) -> list[Any]:
    calls = turn.get("tool_calls")
    return list(calls) if isinstance(calls, list | tuple) else []


def _arguments_of(turns: Turns) -> Iterator[str]:
    for turn in turns:
        for call in _calls_of(turn):
            for holder in (call, call.get("function")) if isinstance(call, dict) else ():
                if isinstance(holder, dict) and isinstance(holder.get("arguments"), str):
                    yield holder["arguments"]


def _with_objects(turns: Turns) -> Turns:
    return [turn | {"tool_calls": [_of_call(call) for call in calls]} if (calls := _calls_of(turn)) else turn
            for turn in turns]  # fmt: skip


def _of_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    made = dict(call)
    if "arguments" in made:
        made["arguments"] = _parsed(made["arguments"])
    if isinstance(made.get("function"), dict):
        made["function"] = _of_call(made["function"])
    return made
