"""Law 2 over processes: one update of every method is that of one process, replicated and sharded, for all weights and
for an adapter; and a run goes on with another number of processes.

One group of processes runs many commands. The whole table (1, 2 and 4 processes, every combination) is that of
benchmarks/many_processes.py; here two processes run each method with one of the two ways to hold weights for each way
to train them, and four run three of the rest.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.many_processes import METHODS, Group, arguments, differences, first_metrics, update_of, write_inputs
from tests.support.rows import read_rows

BOUND = 1e-5
TROUBLES = "tests.support.troubles"
SAME = ("loss", "grad_norm", "objective/scores", "objective/kl", "critic/loss", "critic/grad_norm", "cost/flops")
"""Metrics of the step that must agree, where the method has them."""
TWO = [(m, a, "shard" if (i + a) % 2 else "replicate") for i, m in enumerate(METHODS) for a in (False, True)]
FOUR = [("dpo", False, "shard"), ("ppo", True, "shard"), ("grpo", False, "replicate")]


def name_of(method: str, adapter: bool, sharding: str = "") -> str:
    return f"{method}-{'lora' if adapter else 'full'}{sharding and '-'}{sharding}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one, of two and of four processes."""
    at = tmp_path_factory.mktemp("many")
    inputs = write_inputs(at)
    alone = [arguments(m, inputs, at / "1" / name_of(m, a), adapter=a) for m in METHODS for a in (False, True)]
    groups = [Group(1, at / "1", alone)]
    for number, table in ((2, TWO), (4, FOUR)):
        commands = [
            [*arguments(m, inputs, at / str(number) / name_of(m, a, s), adapter=a), "--sharding", s]
            for m, a, s in table
        ]
        groups.append(Group(number, at / str(number), commands))
    for group in groups:
        assert not any(group.ended()), "\n".join(group.said())
    return at


@pytest.mark.parametrize(
    ("number", "method", "adapter", "sharding"), [*((2, *one) for one in TWO), *((4, *one) for one in FOUR)]
)
def test_the_update_is_that_of_one_process(
    folder: Path, number: int, method: str, adapter: bool, sharding: str
) -> None:
    start = load_file(folder / "model" / "model.safetensors") if not adapter and method != "reward" else {}
    one = folder / "1" / name_of(method, adapter)
    many = folder / str(number) / name_of(method, adapter, sharding)
    apart = differences(update_of(many, start), update_of(one, start))
    assert apart
    assert max(apart.values()) < BOUND, apart
    found, expected = first_metrics(many), first_metrics(one)
    for name in SAME:
        if name in expected:
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two processes that shard are interrupted, one goes on: the steps are those of a run of one process."""
    inputs = write_inputs(tmp_path)
    argv = {name: arguments("dpo", inputs, tmp_path / name, adapter=False, steps=4) for name in ("alone", "moved")}
    alone = Group(1, tmp_path / "1", [argv["alone"]])
    stopped = Group(2, tmp_path / "2", [[*argv["moved"], "--sharding", "shard"]], PREPARE=f"{TROUBLES}:interrupted")
    assert stopped.ended() == [130, 130], stopped.said()
    resumed = Group(1, tmp_path / "3", [argv["moved"]])
    assert (alone.ended(), resumed.ended()) == ([0], [0]), resumed.said()
    assert "resumed after step 2" in resumed.said()[0]
    found, expected = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("moved", "alone"))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in {"loss", "grad_norm", "epoch", "num_tokens"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (theirs["step"], name)
