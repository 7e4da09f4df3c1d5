"""Policy and critic at work at once: when, with how many threads, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from assent.config.online import PpoConfig
from assent.engine import side_by_side as module
from assent.engine.runtime import Runtime
from assent.engine.side_by_side import side_by_side
from assent.stages import online
from tests.helpers_stages import told, write_inputs

RUNTIME = Runtime("cpu")
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def apart() -> list[nn.Module]:
    return [nn.Linear(2, 2), nn.Linear(2, 2)]


def who() -> tuple[int, int]:
    return threading.get_ident(), torch.get_num_threads()


def test_both_work_at_once_each_with_its_share_of_the_threads() -> None:
    meet = threading.Barrier(2)

    def work() -> int:
        meet.wait(PATIENCE_SECONDS)  # the other one is here too, or this breaks
        return torch.get_num_threads()

    assert side_by_side(RUNTIME, apart(), (work, work)) == (2, 2)
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (4, 4)
    assert side_by_side(RUNTIME, apart(), (lambda: "a", lambda: "b")) == ("a", "b")


@pytest.mark.parametrize("reason", ["shared weight", "one thread", "too large", "processes", "accelerator"])
def test_in_order_and_with_all_threads_where_it_does_not_serve(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, runtime, threads = apart(), SimpleNamespace(num_processes=1, device=torch.device("cpu")), 4
    if reason == "shared weight":
        modules[1].weight = modules[0].weight  # type: ignore[assignment]
    elif reason == "one thread":
        torch.set_num_threads(threads := 1)
    elif reason == "too large":
        monkeypatch.setattr(module, "MOST_PARAMETERS", 5)
    elif reason == "processes":
        runtime.num_processes = 2
    else:
        runtime.device = torch.device("cuda")
    here = (threading.get_ident(), threads)
    assert side_by_side(runtime, modules, (who, who)) == (here, here)  # type: ignore[arg-type]


def test_models_of_the_largest_size_still_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARAMETERS", 6)
    assert all(threads == 2 for _, threads in side_by_side(RUNTIME, apart(), (who, who)))


def test_a_failure_waits_for_the_other_and_the_threads_come_back() -> None:
    failed, ended = threading.Event(), threading.Event()

    def fails() -> None:
        failed.set()
        raise ValueError("of the policy")

    def goes_on() -> None:
        assert failed.wait(PATIENCE_SECONDS)
        ended.set()

    for work in ((fails, goes_on), (goes_on, fails)):
        failed.clear()
        ended.clear()
        with pytest.raises(ValueError, match="of the policy"):
            side_by_side(RUNTIME, apart(), work)
        assert ended.is_set()
        assert threads_of_a_new_thread() == 4


def ppo(home: Path, inputs: dict[str, str], name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the log without what measures the machine, and the weights."""
    given: dict[str, Any] = {"model": inputs["model"], "data": inputs["prompts"], "output_dir": str(home / name)}
    given |= {"reward": "tests.helpers_stages:brevity", "device": "cpu", "seed": 3, "max_length": 96}
    given |= {"max_new_tokens": 6, "total_steps": 3, "batch_size": 4, "num_completions": 2, "num_ppo_epochs": 2}
    online.train(PpoConfig(**given, num_mini_batches=2, learning_rate=1e-3))
    rows = [row for row in told(home / name / "metrics.jsonl") if "objective/scores" in row]
    return rows, load_file(home / name / "model" / "model.safetensors")


def test_a_run_gives_the_same_side_by_side_as_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = write_inputs(tmp_path)
    seen: list[tuple[int, int]] = []
    original = module._serves

    def serves(*args: Any) -> bool:
        seen.append(found := (original(*args), len(args[1])))
        return found[0]

    monkeypatch.setattr(module, "_serves", serves)
    rows, weights = ppo(tmp_path, inputs, "at once")
    assert seen == [(True, 2)] * 3  # rounds
    again, same = ppo(tmp_path, inputs, "again")
    assert again == rows
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    monkeypatch.setattr(module, "_serves", lambda *args: False)
    in_order, others = ppo(tmp_path, inputs, "in order")
    assert [set(row) for row in rows] == [set(row) for row in in_order]
    for row, other in zip(rows, in_order, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-5
    assert len(in_order[0]) > 30
