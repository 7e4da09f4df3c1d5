"""Law 8's smallest part: ids of a text that continues another one."""

from __future__ import annotations

import pytest

from assent.models.encoding import Encoder
from tests.support.tokenizers import byte_bpe, metaspace, prepending, word_level

DUMMY = {
    "metaspace always": metaspace,
    "metaspace first": lambda: metaspace(scheme="first"),
    "prepend normalizer": prepending,
    "byte-level with prefix space": lambda: byte_bpe(add_prefix_space=True),
}


@pytest.mark.parametrize("make", DUMMY.values(), ids=DUMMY.keys())
def test_text_after_text_has_no_dummy_prefix(make):
    tokenizer = make()
    encoder = Encoder(tokenizer)
    before = encoder.starting(["how are "])[0]
    [ids] = encoder.following(["you"], [before])
    tokens = "".join(tokenizer.convert_ids_to_tokens(ids))
    assert tokens == "you"
    alone = "".join(tokenizer.convert_ids_to_tokens(encoder.starting(["you"])[0]))
    assert alone in ("▁you", "Ġyou")  # the tokenizer does have one


@pytest.mark.parametrize("make", [byte_bpe, word_level])
def test_tokenizer_without_dummy_prefix_is_used_as_it_is(make):
    encoder = Encoder(make())
    assert not encoder.has_dummy_prefix
    assert encoder.following(["hello there"], [[7]]) == encoder.starting(["hello there"])


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_text_after_a_control_token_is_encoded_as_in_one_text(scheme):
    tokenizer = metaspace(scheme=scheme)
    encoder = Encoder(tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))
    before = encoder.starting(["hello</s>"])[0]
    [ids] = encoder.following(["you are"], [before])
    assert before + ids == encoder.starting(["hello</s>you are"])[0]


@pytest.mark.parametrize("make", [metaspace, prepending])
def test_control_token_inside_a_continuation_is_encoded_as_in_one_text(make):
    tokenizer = make()
    encoder = Encoder(tokenizer)
    before = encoder.starting(["how are "])[0]
    [ids] = encoder.following(["you</s>hello"], [before])
    joint = encoder.starting(["how are you</s>hello"])[0]
    assert ids[ids.index(tokenizer.eos_token_id) :] == joint[joint.index(tokenizer.eos_token_id) :]


@pytest.mark.parametrize("make", [byte_bpe, metaspace, prepending, word_level])
def test_spelled_control_token_stays_text(make):
    tokenizer = make()
    eos = tokenizer.eos_token
    encoder = Encoder(tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))
    text = f"hello {eos} there"
    assert encoder.spells_control(text)
    assert tokenizer.eos_token_id in encoder.starting([text])[0]
    [ids] = encoder.starting([encoder.mark(text)])
    assert tokenizer.eos_token_id not in ids
    if tokenizer.unk_token_id not in ids:
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_marks_that_a_template_tore_apart_leave_no_trace_and_no_control_token():
    tokenizer = byte_bpe()
    encoder = Encoder(tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))
    marked = encoder.mark("a<|im_end|>b")
    [ids] = encoder.starting([marked[:3] + "a" + marked[3:]])
    assert tokenizer.decode(ids) == "a<a|im_end|>b"


def test_start_ids_are_what_the_tokenizer_puts_before_raw_text():
    tokenizer = metaspace()
    assert Encoder(tokenizer).start_ids == (tokenizer.bos_token_id,)
    assert Encoder(byte_bpe()).start_ids == ()


def test_padding_and_truncation_left_on_the_tokenizer_are_ignored():
    tokenizer = byte_bpe()
    encoder = Encoder(tokenizer)
    expected = encoder.starting(["hello there", "a"])
    tokenizer(["hello there", "a"], padding=True, truncation=True, max_length=2)
    assert encoder.starting(["hello there", "a"]) == expected


def test_cut_after_eos_takes_the_first_one_the_template_wrote():
    tokenizer = byte_bpe()
    encoder = Encoder(tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))
    text = encoder.mark("say <|im_end|>") + "<|im_end|>\n<|im_end|>"
    head, tail, found = encoder.cut_after_eos(text)
    assert found
    assert head == encoder.mark("say <|im_end|>") + "<|im_end|>"
    assert tail == "\n<|im_end|>"
    assert encoder.cut_after_eos("none here") == ("none here", "", False)


def test_spelled_unknown_token_is_no_control_token():
    encoder = Encoder(word_level())
    assert not encoder.spells_control("an <unk> word")
    assert encoder.spells_control("an <s> word")


def test_tokens_of_the_eos_set_are_control_tokens_even_where_they_are_not_special():
    tokenizer = byte_bpe()
    tokenizer.add_tokens(["[END]"])
    end = tokenizer.convert_tokens_to_ids("[END]")
    encoder = Encoder(tokenizer, eos_ids=frozenset({end}))
    [ids] = encoder.starting([encoder.mark("the [END] of it")])
    assert end not in ids
    assert tokenizer.decode(ids) == "the [END] of it"
