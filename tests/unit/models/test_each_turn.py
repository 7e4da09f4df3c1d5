"""Templates that take the reasoning out of earlier turns: each assistant turn in a row of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerBase

from assent.errors import TemplateError
from assent.models.templates import resolve_template
from assent.models.tokenizing import encode_prompt
from assent.stages.selecting import to_turns
from assent.types import PromptGroup
from tests.support.rows import turns
from tests.support.tokenizers import byte_bpe, tokenize


def spelled(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


STRIPPING = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endfor -%}
{%- set users = namespace(seen=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'user' %}{% set users.seen = users.seen + 1 %}{% endif -%}
{%- set parts = m.content.split('</think>') -%}
{%- set keep = users.seen == ns.last and parts|length > 1 -%}
<|im_start|>{{ m.role }}
{{ '<think>' + parts[0].split('<think>')[-1] + '</think>' if keep else '' }}{{ parts[-1] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
"""Qwen3's kind: reasoning stands only in the turns after the last user turn."""


def test_a_template_that_strips_earlier_reasoning_reads_each_turn_in_a_row_of_its_own() -> None:
    """Each turn once, with its reasoning; earlier reasoning as the model sees it when it answers: gone."""
    tokenizer = byte_bpe(template=STRIPPING)
    chat = turns(
        ("user", "hello"), ("assistant", "<think>a b</think>hi"), ("user", "ok"), ("assistant", "<think>c</think>yes")
    )
    row = PromptGroup(prompt=chat[:1], completions=(chat[1:],), source="f:1")
    with pytest.raises(TemplateError, match="--train-on each"):
        tokenize([row], tokenizer)
    rows, _ = to_turns([row])
    found = tokenize(rows, tokenizer)
    assert [spelled(tokenizer, group.completions[0].ids) for group in found.groups] == [
        "<think>a b</think>hi<|im_end|>",
        "<think>c</think>yes<|im_end|>",
    ]
    assert all(group.completions[0].mask is None for group in found.groups)
    template = resolve_template(tokenizer)
    assert [group.prompt_ids for group in found.groups] == [
        encode_prompt(chat[:1], template=template),
        encode_prompt(chat[:3], template=template),
    ]
    assert "a b" not in spelled(tokenizer, found.groups[1].prompt_ids)
    assert [group.source for group in found.groups] == ["f:1, turn 2", "f:1, turn 4"]
