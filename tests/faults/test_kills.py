"""Twenty kills at random moments. `benchmarks/kills.py` goes on with other seeds, a hundred kills at a time."""

from __future__ import annotations

import pytest

from tests.support.kills import Killer

KILLED = ("sft", "dpo lora", "ppo", "run", "sample, shards")
KILLS = 4


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Killer:
    return Killer(tmp_path_factory.mktemp("kills") / "work")


@pytest.mark.parametrize(("seed", "name"), list(enumerate(KILLED)), ids=KILLED)
def test_a_killed_run_loses_no_checkpoint_and_ends_to_the_bit(seed: int, name: str, killer: Killer) -> None:
    assert killer.try_seed(seed, name, kills=KILLS).fault == ""


def test_one_other_bit_at_the_end_is_a_fault(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, seconds = killer.whole("sample, shards")
    changed = {file: text[:-2] + b"?\n" for file, text in expected.items()}
    monkeypatch.setattr(Killer, "whole", lambda *_: (changed, seconds))
    fault = killer.try_seed(99, "sample, shards", kills=1).fault
    assert fault == "not the same to the bit: completions.jsonl"
