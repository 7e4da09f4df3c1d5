"""Law 8 where templates end turns, or open answers, in their own way: GLM's markers, Qwen3's open reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from assent.errors import TemplateError
from assent.models.templates import resolve_template
from assent.models.token_audit import token_audit
from assent.models.tokenizing import encode_prompt
from assent.types import Message, PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import CHATML, byte_bpe, tokenize

MARKERS = ("<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>")
GLM = (
    "{% for m in messages %}{{ {'tool': '<|observation|>'}.get(m['role'], '<|' ~ m['role'] ~ '|>') }}\n"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CHAT = turns(("user", "hello"), ("assistant", "hi"), ("user", "how are you"), ("assistant", "I am well"))


def glm(template: str = GLM, ends: tuple[str, ...] = ("<|user|>", "<|observation|>", "<|endoftext|>")) -> Any:
    """The next speaker's marker ends a turn: nothing is written after it, and the markers are in the EOS set."""
    tokenizer = byte_bpe(template=template, special=MARKERS)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.generation_eos_ids = frozenset(map(tokenizer.convert_tokens_to_ids, ends))
    return tokenizer


def counted(tokenizer: Any, completion: Any) -> str:
    mask = completion.mask or (True,) * len(completion.ids)
    return str(tokenizer.decode([i for i, m in zip(completion.ids, mask, strict=True) if m]))


@pytest.mark.parametrize("separator", ["", "\n"])
def test_the_next_speakers_marker_that_is_an_eos_ends_a_turn_and_is_trained_on(separator: str) -> None:
    between = f"{{{{ {separator!r} }}}}"
    spaced = GLM.replace("{{ {", f"{{% if not loop.first %}}{between}{{% endif %}}{{{{ {{")
    tokenizer = glm(spaced.replace("%}<|assistant|>", f"%}}{between}<|assistant|>"))
    out = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:],))], tokenizer)
    [completion] = out.groups[0].completions
    assert counted(tokenizer, completion) == f"hi{separator}<|user|>I am well<|endoftext|>"
    whole = tokenizer.apply_chat_template([m.as_dict() for m in CHAT], tokenize=True, return_dict=False)
    assert [*out.groups[0].prompt_ids, *completion.ids[:-1]] == whole
    assert out.report.markers == {f"{separator}<|user|>": 1}
    assert (out.report.eos_appended, out.report.open_ends) == (1, 0)
    lines = "\n".join(out.report.lines())
    assert "at the end, so it was appended to 1 of 1 completion" in " ".join(lines.split())
    assert "it ends 1 turn and is trained on" in " ".join(lines.split())


def test_a_tool_that_speaks_next_ends_the_call() -> None:
    tokenizer = glm()
    chat = turns(("user", "hello"), ("assistant", "I ask"), ("tool", "hi"), ("assistant", "ok"))
    [group] = tokenize([PromptGroup(prompt=chat[:1], completions=(chat[1:],))], tokenizer).groups
    assert counted(tokenizer, group.completions[0]) == "I ask<|observation|>ok<|endoftext|>"


def test_the_last_turn_ends_with_the_marker_that_follows_it_in_the_data() -> None:
    tokenizer = glm()
    out = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:3],))], tokenizer)
    assert counted(tokenizer, out.groups[0].completions[0]) == "hi<|user|>"
    assert (out.report.eos_appended, out.report.turns_dropped) == (0, 1)


def test_a_marker_that_is_no_eos_is_not_trained_on_and_the_report_says_that_no_end_is() -> None:
    tokenizer = glm(ends=("<|endoftext|>",))
    row = PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:],))
    out = tokenize([row], tokenizer)
    assert counted(tokenizer, out.groups[0].completions[0]) == "hiI am well<|endoftext|>"
    assert out.report.open_ends == 1
    assert "no EOS follows 1 turn before the last, so their end is not trained on" in out.report.lines()
    assert token_audit([row], tokenizer, resolve_template(tokenizer), 512)["turns_without_end"] == 1


def test_a_marker_that_a_person_typed_ends_nothing() -> None:
    tokenizer = glm(GLM.replace("{{ {", "{{ '' if loop.index == 3 else {"))
    chat = (*CHAT[:2], Message("user", "<|user|> am I"), CHAT[3])
    [group] = tokenize([PromptGroup(prompt=chat[:1], completions=(chat[1:],))], tokenizer).groups
    assert counted(tokenizer, group.completions[0]) == "hiI am well<|endoftext|>"


OPEN = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CLOSED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")


@pytest.mark.parametrize(
    ("answer", "trained"),
    [
        ("<think>\n3 and 2\n</think>\n\n5", "3 and 2\n</think>\n\n5<|im_end|>"),
        ("3 and 2\n</think>\n\n5", "3 and 2\n</think>\n\n5<|im_end|>"),
        ("5", "\n</think>\n\n5<|im_end|>"),
    ],
)
def test_concat_goes_on_in_the_reasoning_that_the_prompt_opens(answer: str, trained: str) -> None:
    """As Qwen3 writes it: one block, empty where there is no reasoning; never the answer within it."""
    tokenizer = byte_bpe(template=OPEN)
    with pytest.raises(TemplateError, match="--prompt-format concat"):
        tokenize([pair("3 and 2?", answer, "no")], tokenizer)
    out = tokenize([pair("3 and 2?", answer, "no")], tokenizer, prompt_format="concat")
    [group] = out.groups
    assert tokenizer.decode(list(group.completions[0].ids)) == trained
    assert group.prompt_ids == encode_prompt(turns(("user", "3 and 2?")), template=resolve_template(tokenizer))
    whole = tokenizer.decode(list(group.prompt_ids + group.completions[0].ids))
    assert whole.count("<think>") == whole.count("</think>") == 1
    assert out.report.reasoning_closed == 1 + (answer == "5")
    assert any("opens a block of reasoning" in line for line in out.report.lines())


def test_concat_leaves_an_answer_alone_after_reasoning_that_the_prompt_closes() -> None:
    tokenizer = byte_bpe(template=CLOSED)
    out = tokenize([pair("3 and 2?", "5", "no")], tokenizer, prompt_format="concat")
    assert tokenizer.decode(list(out.groups[0].completions[0].ids)) == "5<|im_end|>"
    assert out.report.reasoning_closed == 0
    with pytest.raises(TemplateError, match="ends the reasoning, and a completion begins with <think> again"):
        tokenize([pair("3 and 2?", "<think>\n3 and 2\n</think>\n\n5", "no")], tokenizer, prompt_format="concat")


@pytest.mark.parametrize(
    "completion", [CHAT[1:], (Message("assistant", "hi", {"name": "bot"}),)], ids=["several turns", "more than content"]
)
def test_concat_is_not_offered_where_it_would_refuse(completion: tuple[Message, ...]) -> None:
    row = PromptGroup(prompt=CHAT[:1], completions=(completion,))
    with pytest.raises(TemplateError) as error:
        tokenize([row], byte_bpe(template=OPEN))
    assert "concat" not in str(error.value)
    assert ("--train-on last" in str(error.value)) == (len(completion) > 1)
    with pytest.raises(TemplateError, match="one assistant turn that has only a content"):
        tokenize([row], byte_bpe(template=OPEN), prompt_format="concat")


def test_reasoning_that_begins_in_the_generation_prompt_is_written_as_it_is() -> None:
    tokenizer = byte_bpe(template=OPEN)
    thought = turns(("assistant", "<think>\n3 and 2\n</think>\n\n5"))
    out = tokenize([PromptGroup(prompt=turns(("user", "3 and 2?")), completions=(thought,))], tokenizer)
    assert counted(tokenizer, out.groups[0].completions[0]) == "3 and 2\n</think>\n\n5<|im_end|>"
    assert out.report.white_space_changed == out.report.reasoning_left_out == 0
