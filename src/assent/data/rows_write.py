"""Writes a group as the columns of a row, one function for each layout."""

from __future__ import annotations

from typing import Any

from assent.data import texts
from assent.data.texts import RowError
from assent.types import Message, Preference, PromptGroup, Text


def single(group: PromptGroup) -> dict[str, Any]:
    (completion,) = group.completions
    row = {"prompt": texts.as_plain(group.prompt), "completion": texts.as_plain(completion)}
    return row | ({"logp": group.logps[0]} if group.logps else {})


def thumbs(group: PromptGroup) -> dict[str, Any]:
    return single(group) | {"label": _entry(group, "thumbs")[0]}


def rating(group: PromptGroup) -> dict[str, Any]:
    return single(group) | {"score": _entry(group, "scores")[0]}


def _entry(group: PromptGroup, name: str) -> tuple[Any, ...]:
    value = getattr(group.preference, name, None)
    if value is None:
        raise RowError(f"no {name}", f"the group has no {name}", got=shown(group.preference))
    return tuple(value)


def shown(preference: Preference | None) -> str:
    return "no preference" if preference is None else texts.shorten(preference)


def _conversation(group: PromptGroup) -> tuple[Message, ...]:
    (completion,) = group.completions
    return (*_messages(group.prompt), *_messages(completion))


def _messages(text: Text) -> tuple[Message, ...]:
    if isinstance(text, str):
        raise RowError("raw text", "raw text cannot be written as messages", got=texts.shorten(text))
    return text


def _pair_columns(group: PromptGroup) -> dict[str, Any]:
    if len(group.completions) != 2 or _entry(group, "ranking") != (1, 2):
        raise RowError("not a comparison", "a comparison has two completions, ranked (1, 2)")
    assert group.preference is not None
    row: dict[str, Any] = {
        name: value
        for name in ("margin", "chosen_probability")
        if (value := getattr(group.preference, name)) is not None
    }
    if group.logps:
        row |= {"chosen_logps": group.logps[0], "rejected_logps": group.logps[1]}
    return row


def comparison(group: PromptGroup) -> dict[str, Any]:
    extra = _pair_columns(group)
    prompt, chosen, rejected = (texts.as_plain(text) for text in (group.prompt, *group.completions))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | extra


def implicit_comparison(group: PromptGroup) -> dict[str, Any]:
    extra = _pair_columns(group)
    prompt, chosen, rejected = (texts.as_plain(text) for text in (group.prompt, *group.completions))
    return {"chosen": prompt + chosen, "rejected": prompt + rejected} | extra


def sharegpt_comparison(group: PromptGroup) -> dict[str, Any]:
    extra = _pair_columns(group)
    prompt, chosen, rejected = (texts.as_sharegpt(_messages(text)) for text in (group.prompt, *group.completions))
    single = len(chosen) == len(rejected) == 1
    return {
        "conversations": prompt,
        "chosen": chosen[0] if single else chosen,
        "rejected": rejected[0] if single else rejected,
    } | extra


def many(group: PromptGroup) -> dict[str, Any]:
    row = {"prompt": texts.as_plain(group.prompt), "completions": [texts.as_plain(text) for text in group.completions]}
    return row | ({"logps": list(group.logps)} if group.logps else {})


def stepwise(group: PromptGroup) -> dict[str, Any]:
    (labels,) = _entry(group, "step_labels")
    if group.steps is None:
        raise RowError("no steps", "the group has no steps")
    boolean = all(label in (0.0, 1.0) for label in labels)
    return {
        "prompt": texts.as_plain(group.prompt),
        "completions": list(group.steps[0]),
        "labels": [bool(label) for label in labels] if boolean else list(labels),
    }


def messages(group: PromptGroup) -> dict[str, Any]:
    return {"messages": texts.as_plain(_conversation(group))}


def sharegpt(group: PromptGroup) -> dict[str, Any]:
    return {"conversations": texts.as_sharegpt(_conversation(group))}


def ranking(group: PromptGroup) -> dict[str, Any]:
    return many(group) | {"ranking": list(_entry(group, "ranking"))}


def scores(group: PromptGroup) -> dict[str, Any]:
    return many(group) | {"scores": list(_entry(group, "scores"))}


def prompt_only(group: PromptGroup) -> dict[str, Any]:
    return {"prompt": texts.as_plain(group.prompt)}


def context(group: PromptGroup) -> dict[str, Any]:
    """The prompt with the other columns of its row: the first columns of a row of sampled completions."""
    optional = {"tools": group.tools and list(group.tools), "chat_template_kwargs": dict(group.chat_template_kwargs)}
    return {**group.columns, **{k: v for k, v in optional.items() if v}, "prompt": texts.as_plain(group.prompt)}


def as_prompt_is(prompt: Text, completion: str) -> Any:
    """A sampled text as a column value: text after a text prompt, an assistant turn after a conversation."""
    return completion if isinstance(prompt, str) else texts.as_plain((Message("assistant", completion),))
