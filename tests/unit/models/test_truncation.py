"""max_length: oldest turns go first, then the end of completions; what is left with nothing to learn is refused."""

from __future__ import annotations

import pytest

from assent.models.templates import resolve_template
from assent.models.tokenizing import encode_prompt
from assent.types import Preference, PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import byte_bpe, metaspace, tokenize

TALK = turns(
    ("system", "be brief"),
    ("user", "first question"),
    ("assistant", "first answer"),
    ("user", "second question"),
    ("assistant", "second answer"),
    ("user", "last question"),
)


def lengths(tokenizer, *prompts):
    template = resolve_template(tokenizer)
    return [len(encode_prompt(p, template=template)) for p in prompts]


def test_oldest_turns_go_first_and_only_as_many_as_needed():
    tokenizer = byte_bpe()
    two, one = TALK[:1] + TALK[3:], TALK[:1] + TALK[5:]
    whole, middle, least = lengths(tokenizer, TALK, two, one)
    group = pair(TALK, "ok then", "no")
    longest = len(tokenize([group], tokenizer, 1000).groups[0].completions[0].ids)
    for max_length, expected, lost in (
        (whole + longest, TALK, 0),
        (whole + longest - 1, two, 2),
        (middle + longest, two, 2),
        (middle + longest - 1, one, 4),
        (least + longest, one, 4),
    ):
        out = tokenize([group], tokenizer, max_length)
        assert out.groups[0].prompt_ids == encode_prompt(expected, template=resolve_template(tokenizer))
        assert out.report.turns_lost == lost
        assert out.report.completions_cut == 0
        assert out.report.shortened == (lost > 0)


def test_then_completions_are_cut_at_their_end_lose_eos_and_are_marked():
    tokenizer = byte_bpe()
    [least] = lengths(tokenizer, TALK[:1] + TALK[5:])
    group = pair(TALK, "ok then, it arrives on Monday", "no")
    whole = tokenize([group], tokenizer, 1000).groups[0].completions
    room = len(whole[1].ids) + 1
    out = tokenize([group], tokenizer, least + room)
    chosen, rejected = out.groups[0].completions
    assert chosen.truncated
    assert chosen.ids == whole[0].ids[:room]
    assert tokenizer.eos_token_id not in chosen.ids
    assert not rejected.truncated
    assert rejected.ids == whole[1].ids
    assert out.report.completions_cut == 1
    assert out.report.completion_tokens_lost == len(whole[0].ids) - room


def test_no_room_beside_the_last_user_turn_refuses_the_row():
    tokenizer = byte_bpe()
    [least] = lengths(tokenizer, TALK[:1] + TALK[5:])
    rows = [pair(TALK, "ok", "no", source="f:1")]
    assert tokenize(rows, tokenizer, least + 1).report.num_refused == 0
    out = tokenize(rows, tokenizer, least)
    assert out.groups == []
    [(reason, sources)] = out.report.refused.items()
    assert "max_length" in reason
    assert sources == ["f:1"]


def test_rows_that_the_cut_makes_equal_are_refused():
    tokenizer = byte_bpe()
    group = pair("hello", "the same beginning, a", "the same beginning, b", source="f:1")
    [prompt] = lengths(tokenizer, group.prompt)
    out = tokenize([group], tokenizer, prompt + 4)
    assert out.report.refused == {"completions do not differ after they were cut": ["f:1"]}


def test_raw_prompts_lose_their_left_keep_bos_and_half_of_max_length():
    tokenizer = metaspace()
    words = "hello " * 30
    ids = tokenizer(words.strip()).input_ids
    group = PromptGroup(prompt=words.strip(), completions=(" you", " I"), preference=Preference(ranking=(1, 2)))
    longest = max(len(c.ids) for c in tokenize([group], tokenizer, 1000).groups[0].completions)
    [row] = tokenize([group], tokenizer, 40).groups
    assert row.prompt_ids == (tokenizer.bos_token_id, *ids[-(40 - longest - 1) :])
    assert len(row.prompt_ids) + longest == 40
    long = PromptGroup(prompt=words.strip(), completions=(" you" * 50, " I"), preference=Preference(ranking=(1, 2)))
    [row] = tokenize([long], tokenizer, 40).groups
    assert len(row.prompt_ids) == 20
    assert len(row.completions[0].ids) == 20
    assert row.completions[0].truncated


def test_short_raw_prompt_is_not_cut_for_a_long_completion():
    tokenizer = metaspace()
    group = PromptGroup(prompt="hello", completions=(" you" * 50,))
    [row] = tokenize([group], tokenizer, 40).groups
    assert list(row.prompt_ids) == tokenizer("hello").input_ids
    assert len(row.completions[0].ids) == 40 - len(row.prompt_ids)


def test_raw_prompts_that_leave_no_room_for_an_answer_are_refused():
    tokenizer = metaspace()
    length = len(tokenizer("hello " * 30).input_ids)
    rows = [PromptGroup(prompt="hello " * n, source=f"f:{n}") for n in (30, 31)]
    out = tokenize(rows, tokenizer, length + 30, max_new_tokens=30)
    assert [len(row.prompt_ids) for row in out.groups] == [length]
    assert out.report.refused == {f"the prompt does not fit max_length {length + 30} with 30 new tokens": ["f:31"]}


def test_logged_logprobs_of_a_shortened_row_do_not_fit_it():
    tokenizer = byte_bpe()
    group = PromptGroup(
        prompt="hello", completions=("a " * 40, "b"), preference=Preference(ranking=(1, 2)), logps=(-9.0, -1.0)
    )
    out = tokenize([group], tokenizer, 20)
    [reason] = out.report.refused
    assert "logged log-probabilities" in reason


def test_cut_conversation_keeps_its_mask():
    tokenizer = byte_bpe()
    row = PromptGroup(prompt=TALK[:2], completions=(TALK[2:5],))
    whole = tokenize([row], tokenizer, 1000).groups[0]
    gap = whole.completions[0].mask.index(False)
    out = tokenize([row], tokenizer, len(whole.prompt_ids) + gap + 2)
    [completion] = out.groups[0].completions
    assert completion.mask == (True,) * gap + (False, False)
    assert completion.truncated


@pytest.mark.parametrize("max_length", [20, 33, 47, 1000])
def test_nothing_is_longer_than_max_length(max_length):
    tokenizer = byte_bpe()
    groups = [
        pair(TALK, "ok then, it arrives on Monday", "no"),
        pair("hello", "x " * 60, "y"),
        PromptGroup(prompt="hello " * 30, completions=("a", "b " * 40), preference=Preference(ranking=(1, 2))),
    ]
    out = tokenize(groups, tokenizer, max_length)
    assert len(out.groups) + out.report.num_refused == 3
    for group in out.groups:
        assert all(1 <= len(c.ids) <= max_length - len(group.prompt_ids) for c in group.completions)
