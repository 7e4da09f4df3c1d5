"""A chat template's control tokens stand in the text, as letters."""

from __future__ import annotations

import re

from assent.data import texts
from assent.data.texts import counted
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import data_of, place, rows_example, sample_pair, sample_pairs
from assent.diagnosis.rule import Rule

CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|user|assistant|system|end)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|\A<s>|</s>\s*\Z"
)


def check(case: Case) -> Finding | None:
    rows = data_of(case)
    found: dict[str, str] = {}
    count = 0
    for group in rows.dataset:
        match = next(
            (m for text in (group.prompt, *group.completions) if (m := CONTROL.search(texts.visible(text)))), None
        )
        if match is not None:
            count += 1
            found.setdefault(match.group().strip(), place(group.source))
    if not count:
        return None
    return Finding(
        severity="fault" if count > len(rows) / 2 else "warning",
        confidence="likely",
        verdict=f"control tokens stand in the text of {counted(count, 'row')}: "
        + ", ".join(f"{token} ({source})" for token, source in found.items()),
        evidence=(Evidence(metric="rows with control tokens in the text", value=count, expected="0"),),
        cause="the file was written with a chat template applied, and training applies it again",
        next_action="give lists of messages without control tokens: the model's own template writes them. Left in, the "
        "prompt begins twice, and is not what the model sees when it serves",
    )


RULE = Rule(
    name="control_tokens",
    title="a template's control tokens in the text",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("a file with the template applied",),
    source="failures D11 and D12; axolotl #1616, TRL #1591",
)

FIRES = rows_example([*sample_pairs(24), sample_pair(24, better="Look again.<|im_end|>")])
QUIET = rows_example(sample_pairs(24))
