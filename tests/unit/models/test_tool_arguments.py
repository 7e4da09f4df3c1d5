"""Arguments of a tool call stand once encoded in the rendered text, as a string of JSON or as an object."""

from __future__ import annotations

import pytest

from assent.models.cutting import row_text
from assent.models.templates import resolve_template
from assent.types import Message, PromptGroup
from tests.support.tokenizers import byte_bpe

CALL = "{% for c in m.tool_calls %}{% set f = c.function if c.function else c %}CALL%{% endfor %}"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}" + CALL + "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITERS = {
    "qwen 2.5, llama 3": '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}',
    "mistral": "{{ f | tojson }}",
    "qwen 3": "{% if f.arguments is string %}{{ f.arguments }}{% else %}{{ f.arguments | tojson }}{% endif %}",
    "deepseek": "{{ f.name + '(' + f.arguments + ')' }}",
}
OBJECT = {"city": "Zürich", "days": 2}
STRING = '{"city":"Zürich","days":2}'


def called(arguments, *, flat=False):
    function = {"name": "weather", "arguments": arguments}
    call = function if flat else {"type": "function", "function": function}
    return Message("assistant", "", {"tool_calls": [call]})


def rendered(writer, *messages):
    template = resolve_template(byte_bpe(template=TEMPLATE.replace("CALL%", WRITERS[writer])))
    return template.render((Message("user", "hot?"), *messages))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("writer", ["qwen 2.5, llama 3", "mistral"])
def test_a_string_of_json_is_written_as_its_object_where_the_template_encodes(writer, flat):
    text = rendered(writer, called(STRING, flat=flat))
    assert text == rendered(writer, called(OBJECT, flat=flat))
    assert '{"city": "Zürich", "days": 2}' in text
    assert "\\" not in text


def test_no_arguments_at_all():
    assert '"arguments": {}}' in rendered("qwen 2.5, llama 3", called("{}"))


@pytest.mark.parametrize("writer", ["qwen 3", "deepseek"])
def test_a_template_that_writes_strings_gets_the_string(writer):
    assert STRING in rendered(writer, called(STRING))


def test_a_string_that_is_no_object_stays_as_it_is():
    assert '"arguments": "tomorrow"' in rendered("qwen 2.5, llama 3", called("tomorrow"))
    assert '"arguments": "3"' in rendered("qwen 2.5, llama 3", called("3"))
    assert "\\" in rendered("qwen 2.5, llama 3", called('{"a": 1, "a": 2}'))


def test_prompt_and_completion_are_encoded_alike():
    """A call in the prompt, another in the answer: the rendered prompt stays the beginning of the whole."""
    template = resolve_template(byte_bpe(template=TEMPLATE.replace("CALL%", WRITERS["mistral"])))
    prompt = (Message("user", "hot?"), called(STRING), Message("tool", "yes"))
    text = row_text(PromptGroup(prompt=prompt, completions=((called('{"city": "Bern"}'),),)), template)
    assert '"arguments": {"city": "Zürich", "days": 2}' in text.prompt
    assert '"arguments": {"city": "Bern"}' in text.completions[0].pieces[0].text
