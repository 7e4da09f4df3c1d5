"""Policy and critic at work at once: when, with how many threads, and that nothing else changes."""

from __future__ import annotations

import concurrent.futures.thread
import signal
import threading
import time
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
from assent.engine.interrupts import interruptible
from assent.engine.runtime import Runtime
from assent.engine.side_by_side import side_by_side
from assent.models import at_once
from assent.stages import online
from tests.support.engine import torch_threads
from tests.support.stages import told, write_inputs

RUNTIME = Runtime("cpu")
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    with torch_threads(4):
        yield


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def apart() -> list[nn.Module]:
    return [nn.Linear(2, 2), nn.Linear(2, 2)]


def who() -> Iterator[tuple[int, int]]:
    yield threading.get_ident(), torch.get_num_threads()


def test_both_work_at_once_each_with_its_share_of_the_threads() -> None:
    meet = threading.Barrier(2)

    def work() -> Iterator[int]:
        meet.wait(PATIENCE_SECONDS)  # the other one is here too, or this breaks
        yield torch.get_num_threads()

    assert side_by_side(RUNTIME, apart(), (work(), work())) == [[2], [2]]
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (4, 4)
    assert side_by_side(RUNTIME, apart(), ("ab", "c")) == [["a", "b"], ["c"]]


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
    assert side_by_side(runtime, modules, (who(), who())) == [[here], [here]]  # type: ignore[arg-type]


def test_models_of_the_largest_size_still_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARAMETERS", 6)
    assert all(threads == 2 for [(_, threads)] in side_by_side(RUNTIME, apart(), (who(), who())))


def long_work(done: list[int]) -> Iterator[None]:
    for number in range(PATIENCE_SECONDS * 100):
        done.append(number)
        time.sleep(0.01)
        yield


def test_where_one_fails_the_other_ends_after_the_bit_at_hand_and_the_threads_come_back() -> None:
    def fails() -> Iterator[None]:
        yield
        raise ValueError("of the policy")

    for place in (0, 1):
        done: list[int] = []
        work = [long_work(done)]
        work.insert(place, fails())
        with pytest.raises(ValueError, match="of the policy"):
            side_by_side(RUNTIME, apart(), work)
        assert len(done) < PATIENCE_SECONDS * 100
        assert threads_of_a_new_thread() == 4


@pytest.mark.parametrize("place", [0, 1])
def test_a_second_ctrl_c_ends_both_after_the_bit_at_hand(place: int) -> None:
    done: tuple[list[int], list[int]] = [], []

    def interrupted() -> Iterator[None]:
        sent = 0
        for _ in long_work(done[0]):
            if sent == 0 or (sent == 1 and interruption):  # two that come at once are one
                sent += 1
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield

    work = [long_work(done[1])]
    work.insert(place, interrupted())
    if place:  # the caller's thread has done its own, and waits
        work[0] = iter(())
    with interruptible() as interruption, pytest.raises(KeyboardInterrupt):
        side_by_side(RUNTIME, apart(), work)
    assert interruption
    assert 2 <= len(done[0]) < PATIENCE_SECONDS * 100
    assert len(done[1]) < PATIENCE_SECONDS * 100
    before = [*done[0], *done[1]]
    time.sleep(0.1)
    assert [*done[0], *done[1]] == before  # nothing goes on behind the caller's back
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (4, 4)


def test_a_run_in_a_thread_goes_on_where_the_main_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)  # what its end says to executors
    assert side_by_side(RUNTIME, apart(), ("a", "b")) == [["a"], ["b"]]


def ppo(
    home: Path, inputs: dict[str, str], name: str, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Rows of the log without what measures the machine; weights and optimisers of the last checkpoint."""
    torch.set_num_threads(2)  # teams of two threads each wait long for each other on two cores
    given: dict[str, Any] = {"model": inputs["model"], "data": inputs["prompts"], "output_dir": str(home / name)}
    given |= {"reward": "tests.support.stages:brevity", "device": "cpu", "seed": 3, "max_length": 96}
    given |= {"max_new_tokens": 6, "total_steps": 3, "batch_size": 4, "num_completions": 2, "num_ppo_epochs": 2}
    online.train(PpoConfig(**given, num_mini_batches=2, learning_rate=1e-3, save_steps=2, **more))
    rows = [row for row in told(home / name / "metrics.jsonl") if "objective/scores" in row]
    files = sorted((home / name / "checkpoints" / "step-2").glob("*/*.safetensors"))
    return rows, {f"{f.parent.name} {f.stem} {key}": value for f in files for key, value in load_file(f).items()}


class InTurn(threading.Thread):
    """A thread that ends before the next one begins."""

    def start(self) -> None:
        super().start()
        self.join()


SETTINGS: dict[str, dict[str, Any]] = {
    "adapters, recomputed": {"lora_r": 4, "gradient_checkpointing": True},
    "autocast, small passes": {"mixed_precision": "bf16", "micro_batch_tokens": 64},
    "bfloat16": {"dtype": "bfloat16", "master_weights": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_neither_thread_leaves_a_trace_in_what_the_other_computes(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what it is where each is alone with its share of the threads."""
    inputs = write_inputs(tmp_path)
    rows, state = ppo(tmp_path, inputs, "at once", **SETTINGS[setting])
    monkeypatch.setattr(at_once, "Thread", InTurn)
    alone, states = ppo(tmp_path, inputs, "in turn", **SETTINGS[setting])
    assert rows == alone
    assert state.keys() == states.keys()
    assert [name for name in state if not torch.equal(state[name], states[name])] == []
    assert {name.split()[0] for name in state} == {"model", "critic"}


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
    monkeypatch.setattr(module, "_serves", lambda *args: False)
    in_order, others = ppo(tmp_path, inputs, "in order")
    assert [set(row) for row in rows] == [set(row) for row in in_order]
    for row, other in zip(rows, in_order, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-5
    assert len(in_order[0]) > 30
