"""Law 8: where a completion begins and ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assent.errors import TemplateError, UsageError
from assent.models.packing import pack
from assent.models.templates import resolve_template
from assent.models.tokenizing import decode, encode_prompt, tokenize_groups
from assent.types import Preference, PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import CHATML, byte_bpe, metaspace, prepending, tokenize, word_level

THINKING = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{m['content'].split('</think>')[-1]}}"
    "{% else %}{{m['content']}}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
NO_EOS = (
    "{% for m in messages %}{{m['role']}}: {{m['content']}}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def spelled(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def test_chatml_ends_with_eos_and_drops_what_follows():
    tokenizer = byte_bpe()
    out = tokenize([pair("hello", "I am well", "no")], tokenizer)
    [group] = out.groups
    assert spelled(tokenizer, group.prompt_ids) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert [spelled(tokenizer, c.ids) for c in group.completions] == ["I am well<|im_end|>", "no<|im_end|>"]
    assert all(c.mask is None and not c.truncated for c in group.completions)
    assert out.report.tails_dropped == {"\n": 2}
    assert out.report.eos_appended == 0


def test_a_tail_that_is_kept_is_trained_on():
    tokenizer = byte_bpe()
    [group] = tokenize([pair("hello", "I am well", "no")], tokenizer, keep_template_tail=True).groups
    assert [spelled(tokenizer, c.ids) for c in group.completions] == ["I am well<|im_end|>\n", "no<|im_end|>\n"]
    assert group.completions[0].num_counted == len(group.completions[0].ids)


def test_prompt_and_kept_tail_are_the_joint_tokenization():
    tokenizer = byte_bpe()
    group = pair("hello there", "I am well", "no")
    out = tokenize([group], tokenizer, keep_template_tail=True)
    whole = tokenizer.apply_chat_template(
        [m.as_dict() for m in group.prompt + group.completions[0]], tokenize=True, return_dict=False
    )
    assert [*out.groups[0].prompt_ids, *out.groups[0].completions[0].ids] == whole
    assert out.report.boundary_checked == 1
    assert out.report.boundary_differs == []


def test_template_without_eos_gets_one_and_the_report_says_so():
    tokenizer = byte_bpe(template=NO_EOS)
    out = tokenize([pair("hello", "ok", "no")], tokenizer)
    assert [c.ids[-1] for c in out.groups[0].completions] == [tokenizer.eos_token_id] * 2
    assert spelled(tokenizer, out.groups[0].completions[0].ids) == "ok\n<|im_end|>"
    assert out.report.eos_appended == 2
    assert any("EOS" in line for line in out.report.lines())


@pytest.mark.parametrize("make", [metaspace, lambda: metaspace(scheme="first"), prepending])
def test_sentencepiece_completion_begins_without_dummy_prefix(make):
    tokenizer = make()
    # the template writes " hello": with a dummy prefix there would be two blanks
    [group] = tokenize([pair("how are you", "hello", "no")], tokenizer).groups
    tokens = tokenizer.convert_ids_to_tokens(list(group.completions[0].ids))
    assert "".join(tokens) == "▁hello</s>"
    assert group.prompt_ids[:2].count(tokenizer.bos_token_id) == 1
    assert "".join(tokenizer.convert_ids_to_tokens(list(group.prompt_ids)))[-2:] == "T]"


@pytest.mark.parametrize("make", [metaspace, prepending])
def test_sentencepiece_puts_no_dummy_prefix_before_a_raw_completion(make):
    tokenizer = make()
    row = PromptGroup(prompt="how are", completions=("you", " you"), preference=Preference(ranking=(1, 2)))
    [group] = tokenize([row], tokenizer).groups
    tokens = ["".join(tokenizer.convert_ids_to_tokens(list(c.ids))) for c in group.completions]
    assert tokens == ["you</s>", "▁you</s>"]
    assert list(group.prompt_ids) == tokenizer("how are").input_ids  # BOS if the tokenizer adds it, and only then


def test_raw_prompt_that_spells_bos_gets_no_second_one():
    tokenizer = metaspace()
    [group] = tokenize([PromptGroup(prompt="<s>hello", completions=("you",))], tokenizer).groups
    assert group.prompt_ids.count(tokenizer.bos_token_id) == 1


def test_raw_completion_that_spells_its_eos_keeps_one():
    tokenizer = byte_bpe()
    [group] = tokenize([PromptGroup(prompt="hello", completions=("you<|im_end|>",))], tokenizer).groups
    assert group.completions[0].ids.count(tokenizer.eos_token_id) == 1


def test_empty_raw_prompt_begins_with_bos():
    tokenizer = byte_bpe()
    [group] = tokenize([PromptGroup(prompt="", completions=("hello",))], tokenizer).groups
    assert group.prompt_ids == (tokenizer.bos_token_id,)
    tokenizer.bos_token = None
    out = tokenize([PromptGroup(prompt="", completions=("hello",), source="a:1")], tokenizer)
    assert out.report.refused == {"the prompt is empty and the tokenizer has no BOS": ["a:1"]}


def test_rows_without_template_need_none():
    tokenizer = word_level()
    [group] = tokenize([PromptGroup(prompt="hello there,", completions=("how are",))], tokenizer).groups
    assert spelled(tokenizer, group.completions[0].ids) == "how are </s>"


@pytest.mark.parametrize("make", [byte_bpe, metaspace])
def test_control_token_in_content_stays_text(make):
    tokenizer = make()
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    out = tokenize([pair(f"hi {eos} user", f"yes {eos} no", "no")], tokenizer)
    [group] = out.groups
    plain = tokenize([pair("hi X user", "yes X no", "no")], tokenizer).groups[0]
    assert group.prompt_ids.count(eos_id) == plain.prompt_ids.count(eos_id)
    assert group.completions[0].ids.count(eos_id) == 1
    assert group.completions[0].ids[-1] == eos_id
    assert out.report.literal_controls == 1
    text = tokenizer.decode(group.completions[0].ids[:-1]).replace(" ", "")
    assert make is metaspace or text == f"yes{eos}no"


def test_control_tokens_in_raw_strings_are_read_and_reported():
    tokenizer = byte_bpe()
    rendered = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    out = tokenize([PromptGroup(prompt=rendered, completions=("ok<|im_end|>",))], tokenizer)
    assert out.groups[0].prompt_ids == tokenize([pair("hello", "ok", "no")], tokenizer).groups[0].prompt_ids
    assert out.report.raw_controls == 1


def test_prompt_that_is_no_prefix_is_an_error_with_both_texts_and_remedies():
    with pytest.raises(TemplateError) as error:
        tokenize([pair("hello", "I am well", "no", source="rows:7")], byte_bpe(template=THINKING))
    message = str(error.value)
    for part in ("rows:7", "<think>", "I am well", "--chat-template-kwargs", "--chat-template FILE", "concat"):
        assert part in message


def test_concat_renders_apart():
    tokenizer = byte_bpe(template=THINKING)
    [group] = tokenize([pair("hello", "I am well", "no")], tokenizer, prompt_format="concat").groups
    assert spelled(tokenizer, group.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert [spelled(tokenizer, c.ids) for c in group.completions] == ["I am well<|im_end|>", "no<|im_end|>"]


CHAT = turns(
    ("user", "hello"), ("assistant", "hi"), ("user", "how are you"), ("assistant", "I am well"), ("user", "ok")
)


def test_messages_train_on_every_assistant_turn_with_its_eos():
    tokenizer = byte_bpe()
    row = PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:],))
    out = tokenize([row], tokenizer)
    [completion] = out.groups[0].completions
    counted = [i for i, m in zip(completion.ids, completion.mask, strict=True) if m]
    assert spelled(tokenizer, counted) == "hi<|im_end|>I am well<|im_end|>"
    assert spelled(tokenizer, completion.ids) == (
        "hi<|im_end|>\n<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\nI am well<|im_end|>"
    )
    assert out.report.turns_dropped == 1
    assert out.report.boundary_differs == []


def test_messages_context_of_a_later_turn_is_the_prompt_that_sampling_sees():
    tokenizer = byte_bpe()
    [group] = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:4],))], tokenizer).groups
    template = resolve_template(tokenizer)
    last = group.completions[0].mask.index(False)
    second = group.completions[0].mask.index(True, last)
    assert group.prompt_ids + group.completions[0].ids[:second] == encode_prompt(CHAT[:3], template=template)


def test_template_that_ends_the_whole_with_one_more_token_reads_several_turns():
    """Phi-3's kind: `<|im_end|>` after each turn, EOS once more after the last."""
    tokenizer = byte_bpe(template=CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
    [group] = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:4],))], tokenizer).groups
    plain = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:4],))], byte_bpe()).groups[0]
    assert group.completions == plain.completions


def test_eos_before_the_content_is_not_its_end():
    opening = CHATML.replace("{{m['content']}}", "{% if m['role'] == 'assistant' %}<|eos|>{% endif %}{{m['content']}}")
    tokenizer = byte_bpe(template=opening)
    tokenizer.generation_eos_ids = frozenset({tokenizer.convert_tokens_to_ids("<|eos|>")})
    [group] = tokenize([pair("hello", "im_end", "no")], tokenizer).groups
    assert [spelled(tokenizer, c.ids) for c in group.completions] == ["<|eos|>im_end<|im_end|>", "<|eos|>no<|im_end|>"]


def test_train_on_last_makes_earlier_turns_the_prompt():
    tokenizer = byte_bpe()
    [group] = tokenize([PromptGroup(prompt=CHAT[:1], completions=(CHAT[1:],))], tokenizer, train_on="last").groups
    assert spelled(tokenizer, group.completions[0].ids) == "I am well<|im_end|>"
    assert group.prompt_ids == encode_prompt(CHAT[:3], template=resolve_template(tokenizer))


def test_template_that_rewrites_earlier_turns_needs_train_on_last():
    rewriting = THINKING.replace("<think>\\n\\n</think>\\n\\n", "").replace("<think>\n\n</think>\n\n", "")
    tokenizer = byte_bpe(template=rewriting)
    chat = turns(("user", "hello"), ("assistant", "<think>a</think>hi"), ("user", "ok"), ("assistant", "yes"))
    row = PromptGroup(prompt=chat[:1], completions=(chat[1:],))
    with pytest.raises(TemplateError, match="--train-on last"):
        tokenize([row], tokenizer)
    [group] = tokenize([row], tokenizer, train_on="last").groups
    assert spelled(tokenizer, group.completions[0].ids) == "yes<|im_end|>"


def test_numbers_of_the_row_travel_with_it():
    tokenizer = byte_bpe()
    row = PromptGroup(
        prompt="hello",
        completions=("a", "b"),
        preference=Preference(ranking=(1, 2), margin=0.5, chosen_probability=0.9, weight=2.0),
        logps=(-1.5, -2.5),
        source="f:3",
    )
    scored = PromptGroup(prompt="hello", completions=("a", "b", "c"), preference=Preference(scores=(1.0, 0.5, 0.5)))
    groups = tokenize([row, scored], tokenizer).groups
    np.testing.assert_array_equal(groups[0].completion["rank"], [1, 2])
    np.testing.assert_array_equal(groups[0].completion["logp"], [-1.5, -2.5])
    assert groups[0].value == {"margin": 0.5, "chosen_probability": 0.9, "weight": 2.0}
    assert groups[0].source == "f:3"
    np.testing.assert_array_equal(groups[1].completion["score"], [1.0, 0.5, 0.5])


def test_rows_that_cannot_differ_are_refused_and_the_rest_keeps_its_index():
    tokenizer = byte_bpe()
    rows = [pair("hello", "ok", "ok", source="f:1"), pair("hello", "ok", "no", source="f:2")]
    out = tokenize(rows, tokenizer)
    assert out.kept == [1]
    assert out.report.refused == {"completions do not differ": ["f:1"]}
    assert (out.report.used, out.report.num_refused) == (1, 1)


def test_conversation_that_begins_with_the_assistant_is_refused():
    row = PromptGroup(prompt=(), completions=(turns(("assistant", "hi")),), source="f:1")
    out = tokenize([row], byte_bpe())
    assert out.groups == []
    assert out.report.num_refused == 1


def test_joint_tokenization_that_differs_is_counted():
    tokenizer = byte_bpe()
    rows = [PromptGroup(prompt="hel", completions=("lo",), source="f:1"), PromptGroup(prompt="a ", completions=("b",))]
    assert len(tokenizer("hello").input_ids) < len(tokenizer("hel").input_ids) + len(tokenizer("lo").input_ids)
    report = tokenize(rows, tokenizer).report
    assert report.boundary_checked == 2
    assert report.boundary_differs == ["f:1"]


def test_prompts_for_sampling_leave_room_and_read_no_completions():
    tokenizer = byte_bpe()
    row = pair("hello", "ok", "ok")
    length = len(tokenize([pair("hello", "ok", "no")], tokenizer).groups[0].prompt_ids)
    out = tokenize([row], tokenizer, max_length=length + 5, max_new_tokens=5)
    assert out.groups[0].completions == ()
    assert tokenize([row], tokenizer, max_length=length + 5, max_new_tokens=6).report.num_refused == 1
    with pytest.raises(UsageError, match="max_new_tokens"):
        tokenize([row], tokenizer, max_length=8, max_new_tokens=8)


def test_template_of_another_tokenizer_is_refused():
    template = resolve_template(byte_bpe())
    with pytest.raises(UsageError):
        tokenize_groups([], tokenizer=byte_bpe(), template=template, max_length=8)


def test_encode_prompt_and_decode():
    tokenizer = byte_bpe()
    template = resolve_template(tokenizer)
    group = pair("hello", "I am well", "no")
    [tokens] = tokenize([group], tokenizer).groups
    assert encode_prompt(group.prompt, template=template) == tokens.prompt_ids
    assert decode(tokens.completions[0].ids, tokenizer) == "I am well"


def test_numbers_that_only_some_rows_give_have_their_plain_meaning_in_the_others():
    rows = [pair(f"hello {i}", "I am well", "no") for i in range(3)]
    given = [
        Preference(ranking=(1, 2)),
        Preference(ranking=(1, 2), margin=0.5, weight=2.0),
        Preference(ranking=(1, 2), chosen_probability=0.7),
    ]
    rows = [replace(row, preference=preference) for row, preference in zip(rows, given, strict=True)]
    rows[2] = replace(rows[2], logps=(-1.0, -2.0))
    batch = pack(tokenize(rows, byte_bpe()).groups, device="cpu")
    assert batch.value["margin"].tolist() == [0.0, 0.5, 0.0]
    assert batch.value["weight"].tolist() == [1.0, 2.0, 1.0]
    assert batch.value["chosen_probability"].tolist() == pytest.approx([1.0, 1.0, 0.7])
    assert batch.completion["logp"].isnan().tolist() == [True] * 4 + [False] * 2


def test_a_row_of_weight_zero_is_refused_and_counted():
    rows = [pair("hello", "I am well", "no"), pair("again", "I am well", "no")]
    rows[0] = replace(rows[0], preference=Preference(ranking=(1, 2), weight=0.0))
    out = tokenize(rows, byte_bpe())
    assert out.kept == [1]
    assert [len(sources) for sources in out.report.refused.values()] == [1]
