"""A chat template is a program that came with a model: within a budget it writes what transformers writes, beyond it
fails."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from assent.errors import TemplateError
from assent.models import bounded_jinja
from assent.models.bounded_jinja import bounded
from assent.models.templates import CHATML, read_template, resolve_template
from assent.types import Message
from tests.support.tokenizers import byte_bpe

TURNS = (Message("user", "question"), Message("assistant", "answer"))
DOUBLED = "{% set n = namespace(s='x' * 1000, l=[1]) %}{% for _ in range(60) %}"
WIDE = (
    "{% set ns = namespace(x=[1], y=[1]) %}"
    "{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
LONG = "{% set a = 'a' * 10**6 %}{% for i in range(90000) %}B{% endfor %}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop with a condition": "{% for a in range(9999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "doubling with ~": DOUBLED + "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling with +": DOUBLED + "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling with *": DOUBLED + "{% set n.s = n.s * 2 %}{% endfor %}",
    "doubling with join": DOUBLED + "{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "doubling with join's text": DOUBLED + "{% set n.s = n.s.join(['', '', '']) %}{% endfor %}",
    "doubling with format": DOUBLED + "{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "doubling with format's method": DOUBLED + "{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
    "doubling with a filter": DOUBLED + "{% set n.s = '%s%s' | format(n.s, n.s) %}{% endfor %}",
    "doubling with replace": DOUBLED + "{% set n.s = n.s.replace('x', 'xxxx') %}{% endfor %}",
    "doubling with the filter replace": DOUBLED + "{% set n.s = n.s | replace('x', 'xxxx') %}{% endfor %}",
    "doubling with a block": DOUBLED + "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "doubling a list": DOUBLED + "{% set n.l = n.l + n.l %}{% endfor %}",
    "a list of lists, written": DOUBLED + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "a list of lists, as JSON": DOUBLED + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | tojson }}",
    "a list of lists, joined": DOUBLED + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ 'a' ~ n.l }}",
    "times": "{{ 'x' * 10 ** 10 }}",
    "a constant's width": "{{ 'x' | center(9999999999) }}",
    "a method's width": "{{ 'x'.ljust(9999999999) }}",
    "a format's width": "{{ '%9999999999d' % 1 }}",
    "a given width": "{{ '%*d' % (999999999, 1) }}",
    "a field's width": "{{ '{:9999999999}'.format(1) }}",
    "a power": "{{ 9 ** 999999999 }}",
    "squares": "{% set n = namespace(i=3) %}{% for _ in range(60) %}{% set n.i = n.i * n.i %}{% endfor %}",
    "a macro that calls itself twice": "{% macro m(i) %}{% if i %}{{ m(i - 1) }}{{ m(i - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "output": "{% set s = 'x' * 999999 %}{% for _ in range(99999) %}{{ s }}{% endfor %}",
    "endless filler": "{{ lipsum(100000) }}",
    "a division": "{{ 1 / 0 }}",
    "an overflow": "{{ 1e308 * 10 | int }}{{ (10 ** 400) / 3.5 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "blocks": "{% block b0 %}x{% endblock %}"
    + "".join(
        f"{{% block b{i} %}}{{{{ self.b{i - 1}() }}}}{{{{ self.b{i - 1}() }}}}{{% endblock %}}" for i in range(1, 25)
    ),
    "width in a field": "{{ '{0:{1}}'.format(1, 999999999) }}",
    "comparison": WIDE + "{{ ns.x == ns.y }}",
    "search": WIDE + "{{ ns.x in [ns.y] }}",
    "test": WIDE + "{{ ns.x is eq(ns.y) }}",
    "comparisons of texts": LONG.replace("B", "{{ '' if a == a ~ 'b' }}"),
    "searches in texts": LONG.replace("B", "{{ '' if 'b' in a }}"),
    "methods of texts": LONG.replace("B", "{% set b = a.count('b') %}"),
    "slices": LONG.replace("B", "{% set b = a[1:] %}"),
    "columns": "{{ range(10) | slice(10**9) | list }}",
    "rows": "{{ range(10) | batch(10**9, 0) | list }}",
    "wrapped lines": "{{ ('a ' * 10**5) | wordwrap(1, true, 'b' * 10**5) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_end_fails_soon_and_in_little_memory(name, monkeypatch):
    monkeypatch.setattr(bounded_jinja, "MAX_STEPS", 100_000)
    monkeypatch.setattr(bounded_jinja, "MAX_CHARACTERS", 10_000_000)
    tokenizer = byte_bpe()
    tokenizer.chat_template = HOSTILE[name] + CHATML
    template = resolve_template(tokenizer)
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="the chat template fails on a conversation: "):
            template._render(TURNS, None, {}, False)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 60  # traced and beside other work; alone half a second


REALISTIC = (
    "{%- macro say(m) -%}<|im_start|>{{ m.role ~ '\n' ~ m['content'] | trim }}<|im_end|>\n{%- endmacro -%}"
    "{%- set ns = namespace(last=-1, text='') -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages if m.role != 'tool' -%}"
    "{%- set ns.text = ns.text + say(m) -%}{%- if loop.last %}{{ loop.length * 2 }}{% endif -%}"
    "{%- if m.tools is defined %}{{ m.tools | tojson(indent=2) | indent(4) }}{% endif -%}"
    "{{ m.content.split('n')[-1].replace('o', 'OO') | upper }}{% generation %}{{ m.content }}{% endgeneration %}"
    "{%- endfor -%}{{ '%s and %5d' % (ns.text, ns.last) }}{{ '{:>7}|{}'.format(3, ns.text[::-1]) }}"
    "{{ messages | map(attribute='content') | join(', ') }}{{ ('x' * 3).center(9) }}{{ [1, {'a': none}] }}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("source", [CHATML, REALISTIC])
def test_within_the_budget_a_template_writes_what_transformers_writes(source):
    tokenizer = byte_bpe()
    messages = [
        {"role": "system", "content": " be kind \n"},
        {"role": "user", "content": "a question", "tools": [{"name": "f", "deep": {"a": [1, 2.5, None, "ü<"]}}]},
        {"role": "tool", "content": "a result"},
        {"role": "assistant", "content": "an answer"},
    ]
    for prompt in (False, True):
        options = {"chat_template": source, "tokenize": False, "add_generation_prompt": prompt}
        plain = tokenizer.apply_chat_template(messages, **options)
        with bounded():
            assert tokenizer.apply_chat_template(messages, **options) == plain


def test_a_long_conversation_stays_within_the_budget():
    tokenizer = byte_bpe()
    tokenizer.chat_template = REALISTIC
    turns = [Message(("user", "assistant")[i % 2], "a long text " * 200) for i in range(200)]
    assert len(resolve_template(tokenizer)._render(turns, None, {}, False)) > 1_900_000


def test_outside_the_block_nothing_is_bounded(monkeypatch):
    monkeypatch.setattr(bounded_jinja, "MAX_STEPS", 3)
    options = {"chat_template": "{% for i in range(9) %}{{ i }}{% endfor %}", "tokenize": False}
    tokenizer = byte_bpe()
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], **options) == "012345678"
    with bounded(), pytest.raises(Exception, match="more than 3 steps"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], **options)


def test_a_template_file_that_is_no_file_or_too_deep_is_refused(tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(TemplateError, match="cannot be read"):
        read_template(str(tmp_path / "zero"))
    (tmp_path / "deep").write_text("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}")
    with pytest.raises(TemplateError, match="nested too deeply"):
        read_template(str(tmp_path / "deep"))
