"""Turns rows into ids (law 8), here and only here: `tokenize_groups` for data, `encode_prompt`, `decode` for sampling.

Legend: K completions of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from assent.errors import DataError, TemplateError, UsageError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.cutting import CompletionText, RefusedRowError, RowText, last_turn_only, row_text
from assent.models.encoding import OPEN
from assent.models.templates import Template
from assent.models.token_report import TokenReport
from assent.models.truncation import RowIds, fit
from assent.types import PromptGroup, Text

SAMPLE = 256
"""The number of rows, evenly spaced, whose joint tokenization is compared with ours."""

UNSAID = {"weight": 1.0, "margin": 0.0, "chosen_probability": 1.0}
"""The values of rows without a number that other rows have."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """`groups` are in the order of the data, `kept[i]` is the index of `groups[i]` in it, `report` covers the rest."""

    groups: list[TokenGroup]
    kept: list[int]
    report: TokenReport


def tokenize_groups(
    groups: Sequence[PromptGroup],
    *,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_length: int,
    train_on: Literal["all", "last", "each"] = "all",
    max_new_tokens: int | None = None,
    compared: int = SAMPLE,
) -> Tokenized:
    """Ids of prompts and completions, cut to `max_length` tokens of prompt and completion together.

    train_on   last: earlier turns become the prompt; each: the rows have one assistant turn already
    compared   rows whose joint tokenization is compared with ours

    With `max_new_tokens` the data's completions are not read, and prompts leave that much room for sampling.
    Raises TemplateError for a template that cannot be used. Rows that cannot be used are refused and counted.
    """
    if template.tokenizer is not tokenizer:
        raise UsageError("the template belongs to a different tokenizer")
    if max_new_tokens is not None and max_new_tokens >= max_length:
        raise UsageError(
            "max_new_tokens leaves no room for a prompt", got=max_new_tokens, expected=f"below max_length, {max_length}"
        )
    report = TokenReport(max_length=max_length)
    texts: list[RowText] = []
    usable: list[tuple[int, PromptGroup, str]] = []
    for i, group in enumerate(groups):
        source = group.source or f"row {i + 1}"
        if max_new_tokens is not None:
            group = _prompt_only(group)
        elif train_on == "last":
            group = last_turn_only(group)
        try:
            texts.append(row_text(group, template))
            usable.append((i, group, source))
        except RefusedRowError as refusal:
            report.refused.setdefault(refusal.reason, []).append(source)
        except TemplateError as error:
            raise TemplateError(
                f"{error.what} ({source})", got=error.got, expected=error.expected, fix=error.fix
            ) from error
    rows = encode_rows(texts, template)
    _compare_joint([source for _, _, source in usable], texts, rows, template, report, compared)
    out, kept = [], []
    for (i, group, source), text, row in zip(usable, texts, rows, strict=True):
        report.measure(row)
        try:
            shortened = fit(
                row,
                group,
                max_length=max_length,
                room=max_new_tokens,
                start=template.encoder.start_ids,
                again=lambda g: encode_rows([row_text(g, template)], template)[0],
            )
            token_group = _token_group(group, shortened.row, source, cut=shortened.changed)
        except RefusedRowError as refusal:
            report.refused.setdefault(refusal.reason, []).append(source)
            continue
        report.add(text, row, shortened, tokenizer.bos_token_id)
        out.append(token_group)
        kept.append(i)
    return Tokenized(_with_the_same_fields(out), kept, report)


def encode_prompt(
    prompt: Text,
    *,
    template: Template,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """Ids of one prompt: rendered with the generation prompt, or a raw string with the tokenizer's start (BOS)."""
    group = PromptGroup(
        prompt=prompt,
        tools=None if tools is None else tuple(tools),
        chat_template_kwargs=dict(chat_template_kwargs or {}),
    )
    return encode_rows([row_text(group, template)], template)[0].prompt


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of ids, without control tokens and with blanks unchanged."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_rows(texts: Sequence[RowText], template: Template) -> list[RowIds]:
    """Ids of the texts, uncut. It takes two batched passes of the tokenizer, and one more for each further piece."""
    encoder = template.encoder
    prompts = [_with_start(ids, text, template) for ids, text in zip(
        encoder.starting([t.prompt for t in texts]), texts, strict=True)]  # fmt: skip
    chains = [(row, c) for row, text in enumerate(texts) for c in text.completions]
    ids: list[list[int]] = [[] for _ in chains]
    masks: list[list[bool]] = [[] for _ in chains]
    ends: list[list[int]] = [[] for _ in chains]
    for depth in range(max((len(c.pieces) for _, c in chains), default=0)):
        at = [n for n, (_, c) in enumerate(chains) if depth < len(c.pieces)]
        before = [ids[n] or prompts[chains[n][0]] for n in at]
        encoded = encoder.following([chains[n][1].pieces[depth].text for n in at], before)
        for n, piece_ids in zip(at, encoded, strict=True):
            ids[n] += piece_ids
            masks[n] += [chains[n][1].pieces[depth].counted] * len(piece_ids)
            ends[n] += [len(ids[n]) - 1] if chains[n][1].pieces[depth].ends_step else []
    completions: list[list[TokenCompletion]] = [[] for _ in texts]
    for (row, text), i, m, e in zip(chains, ids, masks, ends, strict=True):
        completions[row].append(_completion(text, i, m, e, template))
    return [RowIds(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)]


def _with_start(ids: list[int], text: RowText, template: Template) -> list[int]:
    """Puts the tokenizer's start (BOS, if it adds one) before a raw prompt, once. A rendered prompt is unchanged."""
    start = template.encoder.start_ids
    if text.raw and tuple(ids[: len(start)]) != start:
        ids = [*start, *ids]
    bos = template.tokenizer.bos_token_id
    if not ids and bos is not None:
        return [bos]  # an empty prompt: the first token must be predicted from something
    return ids


def _completion(
    text: CompletionText, ids: list[int], mask: list[bool], ends: list[int], template: Template
) -> TokenCompletion:
    if text.append_eos:
        ids, mask = [*ids, template.eos_id], [*mask, True]
    step_ends = (*ends[:-1], len(ids) - 1) if ends else ()
    return TokenCompletion(tuple(ids), None if all(mask) else tuple(mask), step_ends=step_ends)


def _prompt_only(group: PromptGroup) -> PromptGroup:
    return PromptGroup(
        prompt=group.prompt,
        tools=group.tools,
        chat_template_kwargs=group.chat_template_kwargs,
        columns=group.columns,
        source=group.source,
    )


def _compare_joint(
    sources: Sequence[str],
    texts: Sequence[RowText],
    rows: Sequence[RowIds],
    template: Template,
    report: TokenReport,
    compared: int,
) -> None:
    """Counts the rows of a sample whose ids differ if prompt and completion are encoded as one text."""
    step = max(1, len(texts) // compared)
    at = [
        (i, k)
        for i in range(0, len(texts), step)
        for k, c in enumerate(texts[i].completions)
        if OPEN not in texts[i].prompt and all(OPEN not in p.text for p in c.pieces)
    ]
    whole = [texts[i].prompt + "".join(p.text for p in texts[i].completions[k].pieces) for i, k in at]
    differing: dict[int, None] = {}
    for (i, k), joint in zip(at, template.encoder.starting(whole), strict=True):
        ours = [*rows[i].prompt, *rows[i].completions[k].ids]
        if texts[i].completions[k].append_eos:
            ours.pop()
        if _with_start(joint, texts[i], template) != ours:
            differing[i] = None
    report.boundary_checked = len({i for i, _ in at})
    report.boundary_differs = [sources[i] for i in differing]


def _token_group(group: PromptGroup, row: RowIds, source: str, *, cut: bool) -> TokenGroup:
    """The ids with what the row says about its completions. Raises RefusedRowError if it cannot be trained on."""
    preference = group.preference
    if preference is not None and preference.weight == 0:
        raise RefusedRowError("its weight is 0: nothing is learned from it")
    if not row.prompt:
        raise RefusedRowError("the prompt is empty and the tokenizer has no BOS")
    if any(c.num_counted == 0 for c in row.completions):
        raise RefusedRowError("a completion has no token that counts")
    compared = preference is not None and (preference.ranking is not None or preference.scores is not None)
    if compared and len(row.completions) > 1 and len({c.ids for c in row.completions}) == 1:
        raise RefusedRowError("completions do not differ" + (" after they were cut" if cut else ""))
    if cut and group.logps is not None:
        raise RefusedRowError("too long, and its logged log-probabilities are of the whole text")
    completion: dict[str, np.ndarray] = {}
    value: dict[str, float] = {}
    if group.logps is not None:
        completion["logp"] = np.asarray(group.logps, dtype=np.float64)
    if preference is not None:
        for name, numbers in (
            ("rank", preference.ranking),
            ("score", preference.scores),
            ("thumb", preference.thumbs),
        ):
            if numbers is not None:
                completion[name] = np.asarray(numbers, dtype=np.float64)
        for name in ("margin", "chosen_probability", "weight"):
            number = getattr(preference, name)
            if number is not None:
                value[name] = float(number)
    if len(completion.get("rank", row.completions)) != len(row.completions):
        raise DataError(f"ranks and completions differ in number ({source})")
    token = _step_labels(row, preference.step_labels) if preference and group.steps and preference.step_labels else {}
    return TokenGroup(row.prompt, row.completions, token=token, completion=completion, value=value, source=source)


def _step_labels(row: RowIds, labels: Sequence[Sequence[float]]) -> dict[str, list[np.ndarray]]:
    """`step_label`: each step's label at its last token, NaN elsewhere. Steps that were cut off have no label."""
    if not all(completion.step_ends for completion in row.completions):
        raise RefusedRowError("its first step does not end within max_length")
    arrays = [np.full(len(completion.ids), np.nan) for completion in row.completions]
    for array, completion, given in zip(arrays, row.completions, labels, strict=True):
        array[list(completion.step_ends)] = given[: len(completion.step_ends)]
    return {"step_label": arrays}


def _with_the_same_fields(groups: list[TokenGroup]) -> list[TokenGroup]:
    """Gives all rows the same fields. A missing number of a row becomes `UNSAID`, one of a completion becomes NaN."""
    values = {name for group in groups for name in group.value}
    numbers = {name for group in groups for name in group.completion}
    return [
        group
        if values == group.value.keys() and numbers == group.completion.keys()
        else replace(
            group,
            value={name: UNSAID[name] for name in values} | dict(group.value),
            completion={name: np.full(len(group.completions), np.nan) for name in numbers} | dict(group.completion),
        )
        for group in groups
    ]
