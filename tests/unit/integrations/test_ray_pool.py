"""A real Ray cluster of two workers on this machine: what a killed actor and a failing row cost."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from assent.integrations.ray_pool import RayPool
from tests.support.sharding import ONCE, squares
from tests.unit.integrations.test_executor import work_off

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


def test_two_actors_lose_nothing_though_one_is_killed_and_a_row_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = RayPool(squares, size=2)
    try:
        kept, failures = work_off(pool, [("a", 0, 8), ("b", 12, 15), ("c", 20, 22)])
    finally:
        pool.close()
    assert [*chain(*kept["a"].values)] == [n**2 for n in range(8)]
    assert ONCE.exists()
    assert [reason.partition(":")[0] for key, reason in failures if key == "a"] == ["the worker was lost"]
    assert [*chain(*kept["b"].values)] == [144, 196]
    assert kept["b"].apart == [(13, "ValueError: 13 is not liked")]
    assert [*chain(*kept["c"].values)] == [400, 441]
