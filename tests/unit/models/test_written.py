"""Law 12: what a turn holds stands in the text, or the row is refused; what a template may change is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assent.errors import TemplateError
from assent.models.templates import resolve_template
from assent.models.token_audit import token_audit
from assent.models.tokenizing import encode_prompt
from assent.types import Message, PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import CHATML, byte_bpe, tokenize

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 3}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}
QUESTION = Message("user", "how is the weather in Paris for 3 days?")
CALLING = Message("assistant", "", {"tool_calls": [CALL]})
RESULT = Message("tool", "3 days of rain in Paris")
HEAD = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
WRITING = HEAD + CHATML.replace(
    "{{m['content']}}",
    "{{m['content']}}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}",
)


def called(*more: Message) -> PromptGroup:
    return PromptGroup(prompt=(QUESTION,), completions=((CALLING, *more),), tools=(TOOL,), source="rows.jsonl:4")


def text_of(tokenizer: Any, group: Any) -> str:
    return str(tokenizer.decode(list(group.prompt_ids + group.completions[0].ids)))


def test_a_tool_call_that_the_template_writes_is_trained_on() -> None:
    tokenizer = byte_bpe(template=WRITING)
    out = tokenize([called(), called(RESULT, Message("assistant", "rain"))], tokenizer)
    assert '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}' in text_of(tokenizer, out.groups[0])
    assert out.report.white_space_changed == out.report.reasoning_left_out == 0


@pytest.mark.parametrize("at", ["trained", "earlier", "prompt"])
def test_a_tool_call_that_the_template_leaves_out_is_refused_though_its_words_stand_elsewhere(at: str) -> None:
    row = {
        "trained": called(),
        "earlier": called(RESULT, Message("assistant", "rain")),
        "prompt": PromptGroup(prompt=(QUESTION, CALLING, RESULT), tools=(TOOL,), source="rows.jsonl:4"),
    }[at]
    tokenizer = byte_bpe(template=HEAD + CHATML)
    with pytest.raises(TemplateError, match=r"the tool's name in a tool call of turn 2 \(assistant\)") as error:
        tokenize([row], tokenizer, max_new_tokens=8 if at == "prompt" else None)
    for part in ("rows.jsonl:4", '"city": "Paris"', "--chat-template FILE"):
        assert part in str(error.value)
    audit = token_audit([row], tokenizer, resolve_template(tokenizer), 512)
    assert any("rows.jsonl:4" in finding for finding in audit["findings"])
    assert any("--chat-template FILE" in line for line in audit["lines"])


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (WRITING.replace("c.function | tojson", "c.function.name"), "an argument of a tool call"),
        (WRITING.replace("c.function | tojson", "c.function.arguments | tojson"), "the tool's name"),
        (WRITING.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"), "the tool's name"),
    ],
)
def test_names_arguments_and_every_call_must_be_written(template: str, what: str) -> None:
    two = Message("assistant", "", {"tool_calls": [CALL, CALL]})
    row = PromptGroup(prompt=(QUESTION,), completions=((two,),), tools=(TOOL,))
    with pytest.raises(TemplateError, match=what):
        tokenize([row], byte_bpe(template=template))


def test_arguments_as_text_count_too() -> None:
    call = {"function": {"name": "weather", "arguments": json.dumps({"city": "Paris"})}}
    row = PromptGroup(prompt=(QUESTION,), completions=((Message("assistant", "", {"tool_calls": [call]}),),))
    template = WRITING.replace("c.function | tojson", "c.function.name ~ c.function.arguments")
    assert len(tokenize([row], byte_bpe(template=template)).groups) == 1
    with pytest.raises(TemplateError, match="an argument"):
        tokenize([row], byte_bpe(template=template.replace(" ~ c.function.arguments", "")))


@pytest.mark.parametrize("number", ["prompt", "completion"])
def test_a_turn_of_a_role_that_the_template_does_not_know_is_refused(number: str) -> None:
    """`5` stands elsewhere in the text: it is the turn that is missing."""
    skipping = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
    chat = turns(("user", "5 times 1?"), ("assistant", "I ask"), ("tool", "5"), ("assistant", "it is 5"))
    cut = 1 if number == "completion" else 3
    row = PromptGroup(prompt=chat[:cut], completions=(chat[cut:],))
    with pytest.raises(TemplateError, match=r"the content of turn 3 \(tool\)"):
        tokenize([row], byte_bpe(template=skipping))


def test_a_content_that_the_template_cuts_for_what_it_says_is_refused() -> None:
    first_line = CHATML.replace("{{m['content']}}", "{{m['content'].split('\\n')[0]}}")
    tokenizer = byte_bpe(template=first_line)
    assert len(tokenize([pair("hello", "one line", "no")], tokenizer).groups) == 1
    with pytest.raises(TemplateError, match=r"the content of turn 2 \(assistant\)"):
        tokenize([pair("hello", "one line\nand two", "no")], tokenizer)
    with pytest.raises(TemplateError, match=r"the content of turn 1 \(user\)"):
        encode_prompt(turns(("user", "one line\nand two")), template=resolve_template(tokenizer))


def test_white_space_at_the_ends_may_go_and_within_is_counted() -> None:
    trimming = byte_bpe(template=CHATML.replace("m['content']", "m['content'] | trim"))
    assert tokenize([pair(" hello\n", " ok\n", "no")], trimming).report.white_space_changed == 0
    joining = byte_bpe(template=CHATML.replace("{{m['content']}}", "{{m['content'].split() | join(' ')}}"))
    report = tokenize([pair("hello  there", "ok\nyes", "no")], joining).report
    assert report.white_space_changed == 2
    assert "the template changes white space in 2 turns" in report.lines()


def test_a_content_that_is_written_as_json_is_written() -> None:
    tokenizer = byte_bpe(template=CHATML.replace("{{m['content']}}", "{{m['content'] | tojson}}"))
    assert len(tokenize([pair('say "hé"\nnow', "ok", "no")], tokenizer).groups) == 1


STRIPPING = CHATML.replace(
    "{{m['content']}}",
    "{% if m['role'] == 'assistant' and not loop.last %}{{m['content'].split('</think>')[-1]}}"
    "{% else %}{{m['content']}}{% endif %}",
)
THOUGHT = "<think>\nthree and two\n</think>\n\nit is 5"


def test_reasoning_of_an_earlier_turn_may_be_left_out_and_is_counted() -> None:
    chat = turns(("user", "3 and 2?"), ("assistant", THOUGHT), ("user", "and 1?"), ("assistant", THOUGHT))
    tokenizer = byte_bpe(template=STRIPPING)
    out = tokenize([PromptGroup(prompt=chat[:1], completions=(chat[1:],))], tokenizer, train_on="last")
    assert text_of(tokenizer, out.groups[0]).count("three and two") == 1
    assert out.report.reasoning_left_out == 1
    assert "the template leaves out the reasoning of 1 earlier turn" in out.report.lines()


def test_reasoning_of_the_turn_that_is_trained_on_may_not() -> None:
    always = STRIPPING.replace(" and not loop.last", "")
    with pytest.raises(TemplateError, match=r"reasoning of turn 2 \(assistant\), which is trained on"):
        tokenize([pair("3 and 2?", THOUGHT, "no")], byte_bpe(template=always))
    apart = Message("assistant", "it is 5", {"reasoning_content": "three and two"})
    with pytest.raises(TemplateError, match="reasoning of turn 2"):
        tokenize([PromptGroup(prompt=turns(("user", "3 and 2?")), completions=((apart,),))], byte_bpe())


def test_a_sampled_text_is_read_as_the_template_reads_it() -> None:
    """A reward model's template may leave out a policy's reasoning: the data is not at fault."""
    always = STRIPPING.replace(" and not loop.last", "")
    row = PromptGroup(prompt=turns(("user", "3 and 2?")), completions=(THOUGHT,))
    assert len(tokenize([row], byte_bpe(template=always)).groups) == 1
