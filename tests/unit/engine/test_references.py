"""Cached reference log-probabilities are those of this content, or they are computed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assent.engine.references import Reference, content_key, reference_logps
from assent.engine.runtime import Runtime
from assent.models.batch import TokenCompletion
from tests.support.engine import TinyPolicy, make_groups

GROUPS = make_groups(5)


def reference() -> Reference:
    return Reference(TinyPolicy(), Runtime("cpu"), 40)


def test_sums_are_those_of_the_forward_pass(tmp_path: Path) -> None:
    done: list[int] = []
    values, cached = reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path, on_read=done.append)
    assert not cached
    assert done == [5]
    per_token = reference().read(GROUPS, want={"logprobs"}).logprobs
    assert per_token is not None
    start = 0
    for value, completion in zip(values, [c for g in GROUPS for c in g.completions], strict=True):
        end = start + len(completion.ids)
        assert float(value) == pytest.approx(float(per_token[start:end].sum()), rel=1e-6)
        start = end


def test_second_time_is_from_disk_and_identical(tmp_path: Path) -> None:
    first, _ = reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path)
    reader = reference()
    second, cached = reference_logps(GROUPS, reader, key="k", cache_dir=tmp_path)
    assert cached
    assert torch.equal(first, second)
    assert reader.flops == 0


def test_another_key_row_mask_or_order_is_another_entry() -> None:
    group = GROUPS[0]
    masked = replace(group.completions[0], mask=(False,) * len(group.completions[0].ids))
    moved = replace(
        group,
        prompt_ids=(*group.prompt_ids, group.completions[0].ids[0]),
        completions=(TokenCompletion((*group.completions[0].ids[1:], 1)), *group.completions[1:]),
    )
    variants = [
        content_key(GROUPS, "k"),
        content_key(GROUPS, "other"),
        content_key(GROUPS[1:], "k"),
        content_key(GROUPS[::-1], "k"),
        content_key([replace(group, completions=(masked, group.completions[1])), *GROUPS[1:]], "k"),
        content_key([replace(group, completions=group.completions[::-1]), *GROUPS[1:]], "k"),
        content_key([moved, *GROUPS[1:]], "k"),
    ]
    assert len(set(variants)) == len(variants)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    first, _ = reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for position in (0, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        values, cached = reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path)
        assert not cached
        assert torch.equal(values, first)
    path.write_bytes(whole[: len(whole) - 3])
    assert not reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path)[1]
    assert reference_logps(GROUPS, reference(), key="k", cache_dir=tmp_path)[1]  # written whole again


def test_a_file_under_another_files_name_is_not_believed(tmp_path: Path) -> None:
    reference_logps(GROUPS, reference(), key="old", cache_dir=tmp_path)
    (stale,) = tmp_path.iterdir()
    stale.rename(tmp_path / f"{content_key(GROUPS, 'new')}.safetensors")
    assert not reference_logps(GROUPS, reference(), key="new", cache_dir=tmp_path)[1]
