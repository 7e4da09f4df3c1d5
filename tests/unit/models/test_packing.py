"""The packed row, its reading positions, and micro-batches by budget."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import DataError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.models.shape import split_by_budget
from tests.support.architectures import random_groups


def test_a_row_worked_out_by_hand() -> None:
    first = TokenGroup(
        (10, 11),
        (TokenCompletion((20, 21, 22), (True, False, True)), TokenCompletion((30,))),
        token={"old": (np.array([1.0, 2.0, 3.0]), np.array([4.0]))},
        completion={"rank": np.array([1, 2])},
        value={"weight": 0.5},
        source="a",
    )
    second = TokenGroup(
        (12,),
        (TokenCompletion((40, 41)),),
        token={"old": (np.array([5.0, 6.0]),)},
        completion={"rank": np.array([1])},
        value={"weight": 2.0},
        source="b",
    )
    batch = pack([first, second], device="cpu")
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 22, 30, 12, 40, 41]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 0, 1, 2]
    assert batch.prompts == ((0, 2), (6, 7))
    assert batch.completions == ((2, 5), (5, 6), (7, 9))
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.sequence.tolist() == [0, 0, 1, 2, 2]
    assert batch.targets.tolist() == [20, 22, 30, 40, 41]
    assert batch.read_at.tolist() == [1, 3, 1, 6, 7]
    assert batch.last_at.tolist() == [4, 5, 8]
    assert batch.token["old"].tolist() == [1, 3, 4, 5, 6]
    assert batch.completion["rank"].tolist() == [1, 2, 1]
    assert batch.value["weight"].tolist() == [0.5, 2.0]
    assert batch.token["old"].dtype == batch.value["weight"].dtype == torch.float32
    assert batch.sources == ("a", "b")


def test_a_batch_moves_with_all_its_tensors() -> None:
    """To the type "meta", which keeps nothing but shapes: what is forgotten stays on the CPU."""
    group = TokenGroup(
        (10, 11),
        (TokenCompletion((20, 21)),),
        token={"old": (np.array([1.0, 2.0]),)},
        completion={"rank": np.array([1])},
        value={"weight": 0.5},
        source="a",
    )
    batch = pack([group], device="cpu")
    moved = batch.to(torch.device("meta"))
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            before, after = {"": before}, {"": after}
        if isinstance(before, dict):
            assert {name: (x.shape, x.dtype, "meta") for name, x in before.items()} == {
                name: (x.shape, x.dtype, x.device.type) for name, x in after.items()
            }
        else:
            assert after == before


def test_no_groups_give_a_row_that_nothing_reads() -> None:
    batch = pack([], device="cpu")
    assert len(batch.input_ids) == 1
    assert batch.num_groups == batch.num_completions == batch.num_counted == 0


GOOD = TokenGroup((1, 2), (TokenCompletion((3, 4)),), value={"weight": 1.0}, source="good")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (TokenGroup((), GOOD.completions, value=GOOD.value, source="row 7"), "row 7: the prompt has no tokens"),
        (TokenGroup((1,), (TokenCompletion(()),), value=GOOD.value), "a completion has no tokens"),
        (TokenGroup((1,), (TokenCompletion((3, 4), (True,)),), value=GOOD.value), "a mask has another length"),
        (TokenGroup((1,), GOOD.completions), "value fields differ from good's"),
        (TokenGroup((1,), GOOD.completions, token={"old": (np.ones(3),)}, value=GOOD.value), "token fields differ"),
        (TokenGroup((1,), GOOD.completions, completion={"rank": np.ones(2)}, value=GOOD.value), "completion fields"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(group: TokenGroup, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack([GOOD, group], device="cpu")


def test_fields_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="token field 'old' has other lengths"):
        pack([TokenGroup((1,), GOOD.completions, token={"old": (np.ones(3),)})], device="cpu")
    with pytest.raises(DataError, match="completion field 'rank' has another length"):
        pack([TokenGroup((1,), GOOD.completions, completion={"rank": np.ones(2)})], device="cpu")


SHAPES = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, max_tokens=st.integers(1, 120), shared=st.booleans())
def test_micro_batches_hold_every_group_once_within_the_budget(
    shapes: list[tuple[int, list[int]]], max_tokens: int, shared: bool
) -> None:
    groups = random_groups(shapes)
    bins = split_by_budget(groups, max_tokens=max_tokens, shared=shared)
    assert sorted(i for b in bins for i in b) == list(range(len(groups)))
    assert bins == split_by_budget(groups, max_tokens=max_tokens, shared=shared)

    def cost(indices: list[int]) -> int:
        if shared:
            return sum(groups[i].num_tokens for i in indices)
        rows = [len(groups[i].prompt_ids) + len(c.ids) for i in indices for c in groups[i].completions]
        return len(rows) * max(rows)

    assert all(cost(b) <= max_tokens or len(b) == 1 for b in bins)
    if sum(g.num_tokens for g in groups) <= max_tokens and shared:
        assert len(bins) == 1
    longest = [max(groups[i].num_tokens for i in b) for b in bins]
    assert not shared or longest == sorted(longest, reverse=True)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 9))
def test_each_counted_token_is_read_one_position_before_it(shapes: list[tuple[int, list[int]]], seed: int) -> None:
    groups = random_groups(shapes, seed=seed)
    batch = pack(groups, device="cpu")
    expected = []
    for group in groups:
        for completion in group.completions:
            sequence = group.prompt_ids + completion.ids
            for t, target in enumerate(completion.ids, start=len(group.prompt_ids)):
                if completion.mask is None or completion.mask[t - len(group.prompt_ids)]:
                    expected.append((sequence[t - 1], t - 1, target))
    read = batch.input_ids[batch.read_at].tolist(), batch.position_ids[batch.read_at].tolist(), batch.targets.tolist()
    assert list(zip(*read, strict=True)) == expected
