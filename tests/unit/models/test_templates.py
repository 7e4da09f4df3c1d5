"""Chat templates: attaching one, refusing and merging system messages, errors that name the remedy."""

from __future__ import annotations

import pytest
import torch

from assent.errors import TemplateError
from assent.models import templates
from assent.models.templates import attach_template, resolve_template
from tests.support.models import tiny_llama
from tests.support.rows import turns
from tests.support.tokenizers import INST, byte_bpe, metaspace, word_level

USER = turns(("user", "hello"))
WITH_SYSTEM = turns(("system", "be brief"), ("user", "hello"))


def test_own_template_renders():
    template = resolve_template(byte_bpe())
    assert template.render(USER, add_generation_prompt=True) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_conversation_without_template_names_the_remedies():
    template = resolve_template(byte_bpe(template=None))
    with pytest.raises(TemplateError, match=r"--chat-template chatml.*FILE"):
        template.render(USER)


def test_refused_system_message_is_an_error_unless_merged():
    with pytest.raises(TemplateError, match="--system merge"):
        resolve_template(metaspace()).render(WITH_SYSTEM)
    merged = resolve_template(metaspace(), system="merge").render(WITH_SYSTEM)
    assert merged == "<s>[INST] be brief\n\nhello [/INST]"


def test_system_message_that_the_template_leaves_out_counts_as_refused():
    silent = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    with pytest.raises(TemplateError, match="refuses a system message"):
        resolve_template(byte_bpe(template=silent)).render(WITH_SYSTEM)


def test_merge_leaves_a_template_alone_that_takes_system_messages():
    text = resolve_template(byte_bpe(), system="merge").render(WITH_SYSTEM)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n")


def test_template_kwargs_of_the_run_and_of_the_row():
    switch = "{{ tone }}:{% for m in messages %}{{ m['content'] }}{% endfor %}"
    template = resolve_template(byte_bpe(template=switch), chat_template_kwargs={"tone": "warm"})
    assert template.render(USER) == "warm:hello"
    assert template.render(USER, chat_template_kwargs={"tone": "cold"}) == "cold:hello"


def test_tools_reach_the_template():
    contents = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tools = "{% for t in tools %}{{ t['function']['name'] }} {% endfor %}" + contents
    rendered = resolve_template(byte_bpe(template=tools)).render(
        USER, tools=[{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    )
    assert rendered == "weather hello"


def test_tools_that_the_template_does_not_read_are_an_error():
    with pytest.raises(TemplateError, match="does not read them"):
        resolve_template(byte_bpe()).render(USER, tools=[{"type": "function"}])


def test_template_kwargs_without_effect_are_an_error():
    with pytest.raises(TemplateError, match="does not read 'enable_thinking'"):
        resolve_template(byte_bpe(), chat_template_kwargs={"enable_thinking": False})


@pytest.mark.parametrize(
    "lossy",
    [
        "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>{% endfor %}",
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>{% endfor %}",
        "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] }}<|im_end|>{% endfor %}",
    ],
)
def test_template_that_leaves_contents_out_is_an_error(lossy):
    with pytest.raises(TemplateError, match="leaves out the text"):
        resolve_template(byte_bpe(template=lossy)).render(USER)


def test_template_that_fails_says_why():
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + INST
    with pytest.raises(TemplateError, match="user first"):
        resolve_template(byte_bpe(template=strict)).render(turns(("assistant", "hi")))


@pytest.mark.parametrize("tied", [True, False])
def test_attaching_chatml_adds_mean_rows_and_the_end_of_turn(tied):
    tokenizer = word_level()
    model = tiny_llama(tokenizer, tie_word_embeddings=tied)
    before = model.get_input_embeddings().weight.detach().clone()
    head_before = model.get_output_embeddings().weight.detach().clone()
    old_eos = tokenizer.eos_token_id
    size = len(tokenizer)
    assert attach_template(model, tokenizer, "chatml") == ["<|im_start|>", "<|im_end|>"]
    rows, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert rows.shape[0] == head.shape[0] == 64 == model.config.vocab_size
    assert torch.equal(rows[:size], before)
    torch.testing.assert_close(rows[size:], before.mean(0).expand(64 - size, -1))
    torch.testing.assert_close(head[size:], head_before.mean(0).expand(64 - size, -1))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == end
    assert model.generation_config.eos_token_id == [end, old_eos]
    assert tokenizer.chat_template == templates.CHATML
    assert resolve_template(tokenizer).eos_ids == {end, old_eos}
    out = model(torch.tensor([[end, size]])).logits
    assert out.shape[-1] == 64


def test_attaching_fills_rows_that_stood_in_reserve():
    tokenizer = word_level()
    size = len(tokenizer)
    model = tiny_llama(tokenizer, vocab_size=size + 10)
    before = model.get_input_embeddings().weight.detach().clone()
    attach_template(model, tokenizer, "chatml")
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] == size + 10
    torch.testing.assert_close(rows[size : size + 2], before[:size].mean(0).expand(2, -1))
    assert torch.equal(rows[size + 2 :], before[size + 2 :])


def test_attaching_twice_changes_nothing():
    tokenizer = word_level()
    model = tiny_llama(tokenizer)
    attach_template(model, tokenizer, "chatml")
    weights = model.get_input_embeddings().weight.detach().clone()
    eos = model.generation_config.eos_token_id
    assert attach_template(model, tokenizer, "chatml") == []
    assert torch.equal(model.get_input_embeddings().weight, weights)
    assert model.generation_config.eos_token_id == eos


def test_template_from_a_file(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|stop|>{% endfor %}")
    tokenizer = byte_bpe(template=None)
    template = resolve_template(tokenizer, chat_template=str(file))
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert tokenizer.eos_token == "<|stop|>"
    assert stop in template.eos_ids
    assert template.render(USER) == "<|user|>hello<|stop|>"


def test_template_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(TemplateError, match="cannot be read"):
        resolve_template(byte_bpe(), chat_template=str(tmp_path / "none.jinja"))
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}")
    with pytest.raises(TemplateError, match="not valid Jinja"):
        resolve_template(byte_bpe(), chat_template=str(broken))


def test_template_file_with_generation_marks_is_read(tmp_path):
    file = tmp_path / "marks.jinja"
    file.write_text("{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}")
    assert templates.read_template(str(file)).startswith("{% for")


def test_eos_set_is_tokenizer_and_generation_config():
    tokenizer = byte_bpe()
    tokenizer.generation_eos_ids = frozenset({2})
    assert resolve_template(tokenizer).eos_ids == {2, tokenizer.eos_token_id}


def test_no_eos_at_all_is_an_error():
    tokenizer = byte_bpe()
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="end-of-sequence"):
        resolve_template(tokenizer)


def test_what_the_template_writes_after_a_turn():
    assert resolve_template(byte_bpe()).tail == "<|im_end|>\n"
    assert resolve_template(byte_bpe()).end_of_turn == "<|im_end|>"
    template = resolve_template(metaspace(template=INST))
    assert template.tail == "</s>"
    assert template.writes_eos
    assert template.writes_bos
