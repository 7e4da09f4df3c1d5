"""`data split`: two files without a common conversation, none overwritten, and the same ones for the same seed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from assent.data.loading import load_groups
from assent.data.splitting import overlap
from tests.support.cli import files_in, said
from tests.support.rows import comparisons, read_rows, write_rows


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty questions, and a second row for each that goes on from it."""
    first = read_rows(comparisons(tmp_path / "pairs.jsonl", 20))
    more = [{"role": "assistant", "content": "why"}, {"role": "user", "content": "because"}]
    return write_rows(tmp_path / "pairs.jsonl", [*first, *({**row, "prompt": row["prompt"] + more} for row in first)])


def test_conversations_stay_together_and_no_row_is_lost(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status, printed, err = said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", out, "--json"], capsys)
    assert status == 0, err
    document = json.loads(printed)
    assert document["rows"] == {"train": 30, "eval": 10}
    train, held_out = (load_groups(document[part]) for part in ("train", "eval"))
    assert train.layout == held_out.layout == "comparisons"
    assert overlap(train, held_out).shared_roots == 0
    lines = [(out / f"pairs.{part}.jsonl").read_text().splitlines() for part in ("train", "eval")]
    rows = [json.dumps(json.loads(line), sort_keys=True) for part in lines for line in part]
    assert sorted(rows) == sorted(json.dumps(json.loads(x), sort_keys=True) for x in pairs.read_text().splitlines())

    before = files_in(out)
    status, _, err = said(["data", "split", pairs, "--output-dir", out], capsys)
    assert status == 2
    assert "pairs.train.jsonl exists already" in err
    assert files_in(out) == before

    same, other = tmp_path / "same", tmp_path / "other"
    assert said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", same], capsys)[0] == 0
    assert said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", other, "--seed", 1], capsys)[0] == 0
    assert files_in(same) == before != files_in(other)


def test_a_gzipped_file_gives_gzipped_ones_beside_it(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = pairs.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(pairs.read_bytes()))
    assert said(["data", "split", packed], capsys)[0] == 0
    found = {path.name for path in pairs.parent.iterdir()}
    assert found == {"pairs.jsonl", "packed.jsonl.gz", "packed.train.jsonl.gz", "packed.eval.jsonl.gz"}


@pytest.mark.parametrize(("rows", "fraction"), [(1, 0.5), (20, 1.5)])
def test_what_cannot_be_split_writes_nothing(
    rows: int, fraction: float, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs.write_text("\n".join(pairs.read_text().splitlines()[:rows]) + "\n")
    assert said(["data", "split", pairs, "--fraction", fraction], capsys)[0] == 2
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.jsonl"]
