"""Rows of other trainers whose meaning is certain, as rows of our layouts.

LLaMA-Factory     `kto_tag` (true, false) judges the last turn of `conversations` or `messages`, or `completion`
ms-swift          `label` (true, false) judges the last turn of `messages`; `rejected_response` is the worse one of the
                  last turn, or of `response`; `rejected_messages` is the worse conversation
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from assent.data import texts
from assent.data.texts import RowError
from assent.data.unread import is_empty

_CONVERSATIONS = ("messages", "conversations")
_ANSWERS = ("completion", "response", "chosen_response")
_OURS = ("prompt", "completion", "completions", "chosen", "rejected")


def as_ours(row: Mapping[str, Any], required: Collection[str] = ()) -> Mapping[str, Any]:
    """The row as one of ours; the row itself where it is none of these, or would lack a column of `required`."""
    if _FOREIGN.isdisjoint(row):
        return row
    ours = _translated({name: value for name, value in row.items() if name not in _FOREIGN or not is_empty(value)})
    return row if ours is None or not ours.keys() >= set(required) else ours


_FOREIGN = frozenset({"kto_tag", "label", "rejected_response", "rejected_messages"})


def _translated(row: dict[str, Any]) -> dict[str, Any] | None:
    judged = [name for name in sorted(_FOREIGN) if name in row]
    if len(judged) != 1:  # none, or two of them, which may contradict each other
        return None
    name = judged[0]
    if name == "kto_tag":
        texts.parse_boolean(row[name], name, expected="true (desirable) or false")
    rest = {key: value for key, value in row.items() if key != name}
    conversation = [key for key in _CONVERSATIONS if not is_empty(row.get(key))]
    if len(conversation) == 1 and not any(not is_empty(row.get(key)) for key in _OURS):
        return _of_conversation(name, row[name], conversation[0], {k: v for k, v in rest.items() if k not in _OURS})
    if conversation or is_empty(row.get("prompt")):
        return None
    if name == "kto_tag" and "completion" in row:
        return {**rest, "label": row[name]}
    answers = [key for key in _ANSWERS if not is_empty(row.get(key))]
    several = isinstance(row[name], list | tuple) and not all(isinstance(turn, Mapping) for turn in row[name])
    if name == "rejected_response" and len(answers) == 1 and is_empty(row.get("chosen")) and not several:
        return {**{k: v for k, v in rest.items() if k != answers[0]}, "chosen": row[answers[0]], "rejected": row[name]}
    return None


def _of_conversation(name: str, value: object, column: str, rest: dict[str, Any]) -> dict[str, Any] | None:
    turns = rest.pop(column)
    if name == "rejected_messages":
        return {**rest, "chosen": turns, "rejected": value}
    if (name == "label" and not isinstance(value, bool)) or (
        name == "rejected_response" and not isinstance(value, str)
    ):
        return None  # a class, or several answers: the refusal of unread judgements says so
    last = turns[-1] if isinstance(turns, list | tuple) and turns else None
    role = last.get("role", last.get("from")) if isinstance(last, Mapping) else None
    if not isinstance(role, str) or texts.SHAREGPT_ROLES.get(role) != "assistant":
        raise RowError(
            f"`{name}` judges no assistant turn",
            f"`{name}` judges the last turn of `{column}`, which is no assistant turn",
            got=texts.shorten(last),
            expected="a conversation that ends with the assistant's answer",
        )
    prompt, answer = list(turns[:-1]), [last]
    if name == "rejected_response":
        return {**rest, "prompt": prompt, "chosen": answer, "rejected": [{"role": "assistant", "content": value}]}
    return {**rest, "prompt": prompt, "completion": answer, "label": value}
