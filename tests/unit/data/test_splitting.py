"""Splits keep conversations together; overlap is counted at root and at prompt."""

from __future__ import annotations

import random

import pytest

from assent.data.splitting import conversation_root, overlap, shared_prompts, split_by_conversation_root
from assent.errors import DataError, UsageError
from assent.types import Message, PromptGroup


def talk(*turns):
    return tuple(Message(("user", "assistant")[k % 2], turn) for k, turn in enumerate(turns))


GROUPS = [
    PromptGroup(prompt=talk(f"Question {i}", *(["Answer", f"and {j}?"] if j else [])), completions=(f"{i}.{j}",))
    for i in range(40)
    for j in range(1 + i % 5)
]


@pytest.mark.parametrize(
    ("prompt", "root"),
    [
        (talk("Hi  There", "a", "b"), "hi there"),
        ((Message("system", "S"), Message("user", "Hi\nthere")), "hi there"),
        ("\n\nHuman: Hi there\n\nAssistant: Yes\n\nHuman: More", "hi there"),
        ("Hi\tTHERE", "hi there"),
        ("ﬁne", "fine"),
    ],
)
def test_the_root_is_the_first_user_turn_normalised(prompt, root):
    assert conversation_root(prompt) == root


def test_no_conversation_is_on_both_sides_and_none_is_lost():
    splits = split_by_conversation_root(GROUPS, fractions={"train": 0.7, "test": 0.2, "rest": 0.1}, seed=0)
    assert sorted(g.completions for part in splits.values() for g in part) == sorted(g.completions for g in GROUPS)
    roots = [{conversation_root(g.prompt) for g in part} for part in splits.values()]
    assert sum(map(len, roots)) == len(set.union(*roots)) == 40
    for name, share in {"train": 0.7, "test": 0.2, "rest": 0.1}.items():
        assert abs(len(splits[name]) - share * len(GROUPS)) <= 5, "off by no more than one conversation"


def test_a_split_by_row_would_have_leaked():
    shuffled = random.Random(0).sample(GROUPS, len(GROUPS))
    assert overlap(shuffled[:80], shuffled[80:]).shared_roots > 0


def test_the_split_is_a_function_of_seed_and_roots_alone():
    fractions = {"train": 0.5, "test": 0.5}
    first = split_by_conversation_root(GROUPS, fractions=fractions, seed=1)
    again = split_by_conversation_root(random.Random(3).sample(GROUPS, len(GROUPS)), fractions=fractions, seed=1)
    other = split_by_conversation_root(GROUPS, fractions=fractions, seed=2)
    members = [{g.completions for g in split["train"]} for split in (first, again, other)]
    assert members[0] == members[1] != members[2]
    assert first["train"] == [g for g in GROUPS if g.completions in members[0]], "the order of the file is kept"


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}])
def test_fractions_that_make_no_whole_are_refused(fractions):
    with pytest.raises(UsageError, match="bad fractions"):
        split_by_conversation_root(GROUPS, fractions=fractions, seed=0)


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="'test' would be empty"):
        split_by_conversation_root(GROUPS[:1], fractions={"train": 0.9, "test": 0.1}, seed=0)


def test_overlap_by_hand():
    first = [PromptGroup(prompt=talk("A")), PromptGroup(prompt=talk("B", "x", "c")), PromptGroup(prompt="raw")]
    second = [
        PromptGroup(prompt=talk("a ")),  # root and prompt, normalised
        PromptGroup(prompt=talk("a", "y", "z")),  # root only
        PromptGroup(prompt=talk("b", "x", "d")),  # root only
        PromptGroup(prompt=talk("new")),
        PromptGroup(prompt="RAW"),  # both
    ]
    assert overlap(first, second).as_dict() == {
        "shared_roots": 3,
        "shared_prompts": 2,
        "groups_with_shared_root": 4,
        "groups_with_shared_prompt": 2,
        "groups": 5,
    }


def test_shared_prompts_are_named_on_both_sides():
    first = [PromptGroup(prompt=p, source=f"a:{i}") for i, p in enumerate((talk("A"), talk("B"), talk(" a"), "", "x"))]
    second = [PromptGroup(prompt=p, source=f"b:{i}") for i, p in enumerate((talk("C"), talk("a"), "", talk("x"), "X"))]
    assert shared_prompts(first, second) == [("a:0", "b:1"), ("a:4", "b:4")]
    assert shared_prompts([], second) == shared_prompts(first, []) == []
