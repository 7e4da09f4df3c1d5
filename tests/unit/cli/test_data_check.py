"""`data check`: what it says at the end agrees with what stands above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.cli.entry import main
from tests.support.models import tiny_model
from tests.support.rows import write_rows


@pytest.mark.parametrize(("max_length", "last"), [(256, "and found nothing wrong"), (24, "and found nothing else")])
def test_a_file_whose_rows_are_cut_is_not_called_healthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], max_length: int, last: str
) -> None:
    tiny_model(tmp_path / "model", context=256)
    rows = [{"prompt": f"Is {n} even?", "completion": f"It is {'odd' if n % 2 else 'even'} " * 4} for n in range(30)]
    write_rows(tmp_path / "rows.jsonl", rows)
    options = ["--model", str(tmp_path / "model"), "--max-length", str(max_length)]
    status = main(["data", "check", str(tmp_path / "rows.jsonl"), *options])
    printed = " ".join(capsys.readouterr().out.split())
    assert status == int(max_length == 24), printed
    assert last in printed
    assert (
        ("1 finding above" in printed) == ("Healthy" not in printed) == ("finding: cut at" in printed) == bool(status)
    )
