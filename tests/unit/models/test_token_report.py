"""The report and the audit: every row is accounted for, in 80 columns."""

from __future__ import annotations

import json

from assent.models.templates import resolve_template
from assent.models.token_audit import token_audit
from assent.models.tokenizing import tokenize_groups
from assent.types import PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import INST, byte_bpe, metaspace

ROWS = [
    pair("hello", "ok", "no", source="a-rather-long-name-of-a-file-of-preferences.jsonl:1"),
    pair("hello", "ok", "ok", source="a-rather-long-name-of-a-file-of-preferences.jsonl:2"),
    pair("hello <|im_end|>", "ok " * 60, "no", source="a-rather-long-name-of-a-file-of-preferences.jsonl:3"),
    pair(turns(("user", "hello " * 40), ("assistant", "ok"), ("user", "ok")), "ok", "no", source="f:4"),
    pair("hello " * 60, "ok", "no", source="f:5"),
]


def report(max_length=60):
    tokenizer = byte_bpe()
    template = resolve_template(tokenizer)
    return tokenize_groups(ROWS, tokenizer=tokenizer, template=template, max_length=max_length).report


def test_every_row_is_used_or_refused_with_a_reason():
    r = report()
    assert r.used + r.num_refused == len(ROWS)
    assert r.used == 3
    assert r.shortened == 2
    assert {tuple(s) for s in r.refused.values()} == {(ROWS[1].source,), ("f:5",)}
    assert r.turns_lost == 2
    assert r.completions_cut == 1


def test_lines_fit_80_columns_and_name_counts_and_reasons():
    lines = report().lines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(line.strip() for line in lines)
    assert "3 of 5 used, 2 of them shortened, 2 refused" in text
    assert "completions do not differ" in text
    assert "preferences.jsonl:2" in text
    assert "1 row spells a control token" in text
    assert r"dropped after EOS: '\n'" in text


def test_audit_counts_tokens_and_losses():
    tokenizer = byte_bpe()
    found = token_audit(ROWS, tokenizer, resolve_template(tokenizer), 60)
    whole = tokenize_groups(ROWS, tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=10_000)
    prompts = [len(g.prompt_ids) for g in whole.groups]
    assert found["rows"] == 5
    assert found["over_max_length"]["rows"] == 3
    assert found["over_max_length"]["completions_cut"] == 1
    assert found["prompt_tokens"]["max"] == max(prompts)
    assert found["prompt_tokens"]["min"] == min(prompts)
    assert found["eos"] == {str(tokenizer.eos_token_id): "<|im_end|>"}
    json.dumps(found)


def test_audit_finds_an_end_of_turn_outside_the_eos_set():
    tokenizer = byte_bpe()
    tokenizer.eos_token = "<|eos|>"
    found = token_audit(ROWS[:1], tokenizer, resolve_template(tokenizer), 60)
    assert found["eos_appended"] == 2
    assert any("<|im_end|>" in line and "not in the EOS set" in line for line in found["findings"])


def test_audit_reports_a_template_error_instead_of_raising():
    tokenizer = metaspace()
    row = pair(turns(("system", "be brief"), ("user", "hello")), "ok", "no", source="f:1")
    found = token_audit([row], tokenizer, resolve_template(tokenizer), 60)
    assert "--system merge" in found["template_error"]
    assert found["findings"]


def test_audit_of_strings_needs_no_template():
    tokenizer = byte_bpe(template=None)
    rows = [PromptGroup(prompt="hello", completions=("ok",))]
    found = token_audit(rows, tokenizer, resolve_template(tokenizer), 60)
    assert found["findings"] == []
    assert found["used"] == 1


def test_double_bos_is_counted():
    tokenizer = metaspace(template="{{ bos_token }}" + INST)
    found = token_audit([pair("hello", " ok", " no")], tokenizer, resolve_template(tokenizer), 60)
    assert found["double_bos"] == 1
