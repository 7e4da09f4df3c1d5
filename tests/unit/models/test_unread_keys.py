"""Keys that the chat template does not read are counted, with those of `chat_template_kwargs`."""

from __future__ import annotations

from assent.models.templates import resolve_template
from assent.models.token_audit import token_audit
from assent.models.unread_keys import unread_keys_line
from assent.types import Message, PromptGroup
from tests.support.tokenizers import byte_bpe

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.thinking and loop.last %}{{ m.thinking }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if tone %}{{ tone }}{% endif %}{% endif %}"
)


def groups(**extra):
    user, answer = Message("user", "hi", {"name": "ann", "id": None}), Message("assistant", "yes", extra)
    return [PromptGroup(prompt=(user,), completions=((answer,),), source=f"x:{n}") for n in range(3)]


def test_a_key_that_changes_nothing_is_named_with_its_rows():
    template = resolve_template(byte_bpe(template=TEMPLATE))
    assert unread_keys_line(groups(), template) == "not read by the chat template: name (3 rows)"
    line = unread_keys_line(groups(thinking="hm", score_given=3), template)
    assert line == "not read by the chat template: name, score_given (3 rows each)"
    twice = groups(thinking="hm", reasoning_content="hm")  # transformers gives one to a template under the other's name
    assert unread_keys_line(twice, template) == "not read by the chat template: name (3 rows)"


def test_one_reading_row_is_enough():
    template = resolve_template(byte_bpe(template=TEMPLATE))
    late = Message("assistant", "no", {"thinking": "hm"})
    early = PromptGroup(
        prompt=(Message("user", "a"), late, Message("user", "b")), completions=((Message("assistant", "c"),),)
    )
    whole = PromptGroup(prompt=(Message("user", "a"),), completions=((late,),))
    assert unread_keys_line([early], template) == "not read by the chat template: thinking (1 row)"
    assert unread_keys_line([early, whole], template) is None


def test_options_of_a_row_that_the_template_does_not_have():
    template = resolve_template(byte_bpe(template=TEMPLATE))
    rows = [
        PromptGroup(prompt=(Message("user", "a"),), chat_template_kwargs={"tone": "warm", "tonne": 1}),
        PromptGroup(prompt="raw"),
    ]
    assert unread_keys_line(rows, template) == "not read by the chat template: chat_template_kwargs.tonne (1 row)"


def test_data_check_with_a_model_says_so():
    tokenizer = byte_bpe(template=TEMPLATE)
    found = token_audit(groups(), tokenizer, resolve_template(tokenizer), 512)
    assert "not read by the chat template: name (3 rows)" in found["lines"]
