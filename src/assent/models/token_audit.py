"""What a model's tokenizer and template do to a dataset, for `data check --model`. Writes nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from assent.data.texts import counted
from assent.errors import TemplateError
from assent.models.templates import Template
from assent.models.token_report import WIDTH, TokenReport
from assent.models.tokenizing import tokenize_groups
from assent.models.unread_keys import unread_keys_line
from assent.types import PromptGroup


def token_audit(
    groups: Sequence[PromptGroup], tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int
) -> dict[str, Any]:
    """Token lengths, what `max_length` cuts, EOS, BOS, pad and template findings, as plain numbers and strings (JSON).

    A template that cannot render the data is a finding (`template_error`), not an exception.
    """
    eos = {i: tokenizer.convert_ids_to_tokens(i) for i in sorted(template.eos_ids)}
    out: dict[str, Any] = {
        "max_length": max_length,
        "eos": {str(i): token for i, token in eos.items()},
        "pad": tokenizer.pad_token,
        "bos": tokenizer.bos_token,
        "has_template": template.source is not None,
    }
    findings = _template_findings(groups, tokenizer, template) if template.source is not None else []
    try:
        report = tokenize_groups(groups, tokenizer=tokenizer, template=template, max_length=max_length).report
    except TemplateError as error:
        return out | {
            "template_error": str(error),
            "findings": [*findings, error.what],
            "lines": textwrap.wrap(str(error).splitlines()[0], WIDTH) + str(error).splitlines()[1:],
        }
    unread = unread_keys_line(groups, template)
    lines = report.lines() if unread is None else [*report.lines(), unread]
    return out | _numbers(report) | {"findings": [*findings, *_row_findings(report)], "lines": lines}


def _numbers(report: TokenReport) -> dict[str, Any]:
    return {
        "rows": report.used + report.num_refused,
        "used": report.used,
        "refused": {reason: len(sources) for reason, sources in report.refused.items()},
        "prompt_tokens": _spread(report.prompt_lengths),
        "completion_tokens": _spread(report.completion_lengths),
        "row_tokens": _spread(report.row_lengths),
        "over_max_length": {
            "rows": sum(n > report.max_length for n in report.row_lengths),
            "prompts_shortened": report.prompts_shortened,
            "prompt_tokens_lost": report.prompt_tokens_lost,
            "turns_lost": report.turns_lost,
            "completions_cut": report.completions_cut,
            "completion_tokens_lost": report.completion_tokens_lost,
        },
        "boundary": {"compared": report.boundary_checked, "differ": len(report.boundary_differs)},
        "eos_appended": report.eos_appended,
        "turns_ended_by_marker": sum(report.markers.values()),
        "turns_without_end": report.open_ends,
        "reasoning_closed": report.reasoning_closed,
        "reasoning_left_out": report.reasoning_left_out,
        "white_space_changed": report.white_space_changed,
        "double_bos": report.double_bos,
        "literal_controls": report.literal_controls,
        "raw_controls": report.raw_controls,
    }


def _spread(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {}
    low, median, high, top = np.percentile(lengths, [0, 50, 95, 100])
    return {
        "min": int(low),
        "median": float(median),
        "mean": round(float(np.mean(lengths)), 2),
        "p95": float(high),
        "max": int(top),
        "sum": int(np.sum(lengths)),
    }


def _template_findings(
    groups: Sequence[PromptGroup], tokenizer: PreTrainedTokenizerBase, template: Template
) -> list[str]:
    out = []
    end = template.end_of_turn
    if end is not None and template.encoder.control[end] not in template.eos_ids:
        out.append(
            f"the template ends a turn with {end!r}, which is not in the EOS set, so generation would run on after it; "
            "add its id to eos_token_id in generation_config.json"
        )
    elif end is None:
        out.append("the template writes no control token after an assistant turn, so EOS is appended")
    start = template.encoder.start_ids
    rendered = any(not isinstance(g.prompt, str) for g in groups)
    if start and rendered and not template.writes_bos:
        out.append(
            f"the tokenizer begins raw strings with {tokenizer.convert_ids_to_tokens(list(start))}, but the template "
            "does not write it"
        )
    return out


def _row_findings(report: TokenReport) -> list[str]:
    out = [f"{counted(len(sources), 'row')} refused: {reason}" for reason, sources in report.refused.items()]
    if report.completions_cut:
        out.append(f"cut at max_length {report.max_length}: the end of {counted(report.completions_cut, 'completion')}")
    if report.boundary_differs:
        out.append(
            "prompt and completion have different ids when they are encoded as one text: "
            f"{len(report.boundary_differs)} of {counted(report.boundary_checked, 'row')}"
        )
    if report.double_bos:
        out.append(f"two BOS at the start: {counted(report.double_bos, 'prompt')}")
    return out
