"""What the benchmarks of large work compute themselves: rates, private memory, a file of tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_a_rate_is_taken_while_all_workers_work() -> None:
    from sharded_work import while_all_work

    # two workers from second 10 to 30, 100 rows a shard every 10 s each; the first two and the last one stand outside
    done = [(10.0, 100), (12.0, 100), (20.0, 100), (22.0, 100), (30.0, 100), (35.0, 40)]
    assert while_all_work(done, 2) == (12.0, 30.0, pytest.approx(300 / 18))
    assert while_all_work(done, 1) == (10.0, 35.0, pytest.approx(440 / 25))
    assert while_all_work(done[:1], 2) == (10.0, 10.0, None)


def test_a_descendants_memory_is_not_the_commands() -> None:
    from sharded_work import private_memory

    size = 64 * 2**20
    script = f"held = bytearray(b'x' * {size}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own, below = private_memory(os.getpid())
        alone, none = private_memory(child.pid)
        child.communicate("\n")
    assert below >= size
    assert own > 0
    assert size <= alone < size + 64 * 2**20
    assert none == 0.0


def test_rows_of_tokens_are_opened_and_packed(tmp_path: Path) -> None:
    from large_files import BATCH, opened, write_store

    write_store(tmp_path / "store", 2500)
    found: dict[str, Any] = opened(tmp_path / "store")
    assert found["rows"] == 2500
    assert found["tokens"] == BATCH * (16 + 12 + 12)
    assert (
        found["since_the_start"]["order drawn"]["seconds"] <= found["since_the_start"]["first batch packed"]["seconds"]
    )
