"""Token groups in a file come back as they were, whatever their fields; a damaged file is no store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.token_store import (
    BLOCK,
    ROWS,
    Chosen,
    Overlaid,
    StoredGroups,
    StoreWriter,
    counts_of,
    numbers_of,
    stored_facts,
    value_names,
)
from assent.models.tokenizing import UNSAID


def group(number: int, *, completions: int = 2, **fields: object) -> TokenGroup:
    own = tuple(
        TokenCompletion(
            ids=(number, k, 7),
            mask=None if k else (True, False, True),
            truncated=bool(k),
            step_ends=(0, 2) if k else (),
        )
        for k in range(completions)
    )
    return TokenGroup((1, number), own, source=f"rows.jsonl:{number}", **fields)  # type: ignore[arg-type]


def stored(folder: Path, *blocks: list[TokenGroup]) -> StoredGroups:
    StoreWriter(folder).write(blocks, lambda: {"lines": ["said"]})
    facts = stored_facts(folder)
    assert facts is not None
    return StoredGroups(folder, facts, unsaid=UNSAID)


def same(first: TokenGroup, second: TokenGroup) -> bool:
    fields = [(one.token, one.completion) for one in (first, second)]
    arrays = [{**{k: np.concatenate(v) for k, v in token.items()}, **completion} for token, completion in fields]
    assert arrays[0].keys() == arrays[1].keys()
    equal = all(np.array_equal(arrays[0][k], arrays[1][k], equal_nan=True) for k in arrays[0])
    dtypes = all(arrays[0][k].dtype == arrays[1][k].dtype for k in arrays[0])
    plain = [(g.prompt_ids, g.completions, dict(g.value), g.source) for g in (first, second)]
    return equal and dtypes and plain[0] == plain[1]


def test_groups_come_back_as_they_were(tmp_path: Path) -> None:
    steps = [np.array([np.nan, 0.1, 1.0]), np.array([0.0, np.nan, np.nan])]
    groups = [
        group(i, token={"step_label": steps}, completion={"rank": np.array([1.0, 2.0])}, value={"weight": 1 / 3})
        for i in range(5)
    ]
    back = stored(tmp_path, groups[:2], groups[2:])
    assert len(back) == 5
    assert all(same(one, two) for one, two in zip(back, groups, strict=True))
    assert [one.source for one in back[1:3]] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert back[-1].prompt_ids == (1, 4)
    with pytest.raises(IndexError):
        back[5]


def test_numbers_that_only_some_rows_have_are_filled_in_as_in_memory(tmp_path: Path) -> None:
    back = stored(tmp_path, [group(0, value={"margin": 2.0}), group(1, completion={"logp": np.array([-1.0, -2.0])})])
    assert dict(back[1].value) == {"margin": 0.0}
    assert np.isnan(back[0].completion["logp"]).all()
    assert value_names(back) == ({"margin"}, False)
    assert value_names(stored(tmp_path / "other", [group(0, value={"weight": 2.0})])) == ({"weight"}, True)


def test_more_groups_than_a_batch_keep_their_places(tmp_path: Path) -> None:
    groups = [
        group(i, completions=1 + i % 3, completion={"score": np.full(1 + i % 3, float(i))}) for i in range(BLOCK + 9)
    ]
    back = stored(tmp_path, groups[:700], groups[700:])
    for place in (0, BLOCK - 1, BLOCK, len(groups) - 1):
        assert same(back[place], groups[place])
    assert counts_of(back).tolist() == counts_of(groups).tolist() == [1 + i % 3 for i in range(len(groups))]
    assert numbers_of(back, "score").tolist() == numbers_of(groups, "score").tolist()
    some = Chosen(back, np.array([3, BLOCK + 1]))
    assert [one.prompt_ids[1] for one in some] == [3, BLOCK + 1]
    assert counts_of(some).tolist() == [1, 1 + (BLOCK + 1) % 3]


@pytest.mark.parametrize("completions", [2, 3])
def test_more_numbers_are_laid_over_each_completion(completions: int, tmp_path: Path) -> None:
    groups = [group(0), group(1, completions=completions), group(2)]
    numbers = np.arange(4 + completions, dtype=np.float32)
    over = Overlaid(stored(tmp_path, groups), "reference_logps", numbers)
    assert [one.completion["reference_logps"].tolist() for one in over] == [
        [0, 1], list(range(2, 2 + completions)), [2 + completions, 3 + completions],
    ]  # fmt: skip
    assert numbers_of(over, "reference_logps") is numbers


def test_a_damaged_store_is_none(tmp_path: Path) -> None:
    stored(tmp_path, [group(0)])
    path = tmp_path / ROWS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    assert stored_facts(tmp_path) is None
    path.write_bytes(whole)
    assert stored_facts(tmp_path) is not None
    assert stored_facts(tmp_path / "nothing") is None
