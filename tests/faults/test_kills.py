"""Commands that are killed (SIGKILL) at random moments end as if nothing had happened.

Twenty kills at most; `benchmarks/kills.py` goes on with more of them, over all stages, adapters and commands.
"""

from __future__ import annotations

import pytest

from tests.support.kills import Killer, cells, write_inputs

CHOSEN = ["sft, LoRA", "dpo", "ppo", "score, in shards", "sft, two processes, sharded"]


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Killer:
    folder = tmp_path_factory.mktemp("killed")
    return Killer(folder, write_inputs(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_a_killed_command_ends_as_one_that_never_was(name: str, killer: Killer) -> None:
    (cell,) = [cell for cell in cells(killer.inputs) if cell.name == name]
    found = killer.told(cell, CHOSEN.index(name), kills=4)
    assert found.kills
    assert (found.unusable, found.lost, found.differs, found.identical) == (None, [], [], True)


def test_another_end_would_be_seen(killer: Killer) -> None:
    """The control: one byte of what it is compared with is another one."""
    (cell,) = [cell for cell in cells(killer.inputs) if cell.name == "score, in shards"]
    whole = killer._whole(cell) / "scores.jsonl"
    kept = whole.read_bytes()
    whole.write_bytes(kept.replace(b"1", b"2", 1))
    found = killer.told(cell, 99, kills=1)
    whole.write_bytes(kept)
    assert (found.unusable, found.differs, found.identical) == (None, ["scores.jsonl"], False)
