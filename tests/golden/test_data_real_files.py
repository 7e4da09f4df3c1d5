"""Real files that no one here wrote. They stand beside the repository and are never part of it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import time
from functools import partial
from pathlib import Path

import pytest

from assent.data.auditing import audit
from assent.data.loading import load_groups, write_groups
from assent.data.splitting import overlap, split_by_conversation_root

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not here")

FILES = {
    "hh-harmless.train.jsonl.gz": ("comparisons", 1800, 2),
    "hh-harmless.test.jsonl.gz": ("comparisons", 250, 2),
    "alpaca-eval.rankings.train.jsonl.gz": ("scores", 3000, 4),
    "alpaca-eval.rankings.test.jsonl.gz": ("scores", 300, 4),
    "alpaca.demonstrations.jsonl.gz": ("demonstrations", 999, 1),
    "kto.thumbs.jsonl.gz": ("thumbs", 300, 1),
    "dpo.sharegpt.jsonl.gz": ("sharegpt_comparisons", 300, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_read(name):
    layout, rows, K = FILES[name]
    dataset = load_groups(DATA / name)
    assert (dataset.layout, len(dataset), dataset.refused) == (layout, rows, [])
    assert {len(group.completions) for group in dataset} == {K}
    assert {m.role for group in dataset for m in group.prompt} <= {"system", "user", "assistant"}
    assert {m.role for group in dataset for c in group.completions for m in c} == {"assistant"}


@pytest.mark.parametrize("name", [name for name, (_, rows, _) in FILES.items() if rows <= 1000])
def test_what_is_written_is_read_back(tmp_path, name):
    dataset = load_groups(DATA / name)
    write_groups(tmp_path / "x.jsonl", dataset, dataset.layout)
    again = load_groups(tmp_path / "x.jsonl")
    for one, other in zip(dataset, again, strict=True):
        assert dataclasses.replace(one, source="") == dataclasses.replace(other, source="")


def test_columns_of_the_rankings():
    group = load_groups(DATA / "alpaca-eval.rankings.test.jsonl.gz")[0]
    assert set(group.columns) == {"generators", "dataset"}
    assert group.preference is not None
    assert group.preference.scores is not None
    assert all(0 <= score <= 1 for score in group.preference.scores)


def test_train_and_test_have_no_prompt_in_common():
    for stem in ("hh-harmless", "alpaca-eval.rankings"):
        train, test = (load_groups(DATA / f"{stem}.{part}.jsonl.gz") for part in ("train", "test"))
        assert overlap(train, test).shared_prompts == 0


def test_the_random_split_of_hh_shares_roots_and_ours_does_not():
    train, test = (load_groups(DATA / f"hh-harmless.{part}.jsonl.gz") for part in ("train", "test"))
    assert audit(train, test).overlap.groups_with_shared_root == 18
    splits = split_by_conversation_root([*train, *test], fractions={"train": 0.9, "test": 0.1}, seed=0)
    assert overlap(splits["train"], splits["test"]).shared_roots == 0


def test_1800_rows_load_in_a_few_times_the_time_of_their_json():
    """In a tenth of a second where the JSON takes a fortieth; a machine that is slow at one is slow at the other."""
    path = DATA / "hh-harmless.train.jsonl.gz"

    def plain():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    best = {}
    for _ in range(3):
        for work in (plain, partial(load_groups, path)):
            start = time.process_time()
            assert len(work()) == 1800
            key = work is plain
            best[key] = min(best.get(key, float("inf")), time.process_time() - start)
    assert best[False] < 20 * best[True]
