"""Who is asked to keep freed memory, and how. What it gains is measured by `benchmarks/host_memory.py`."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch

from assent.engine.runtime import Runtime
from assent.models import host_memory
from assent.rollouts.torch_sampler import TorchSampler
from tests.support.architectures import make_model


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What a C library was asked for, this process having asked for nothing yet."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *call: calls.append(call) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in host_memory.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    host_memory._keep_freed.cache_clear()
    return calls


WANTED = [(-3, 32 * 2**20), (-1, 2**30)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h


def test_a_cpu_keeps_its_memory_once(asked: list[tuple[int, int]]) -> None:
    for _ in range(2):
        host_memory.keep_freed(torch.device("cpu"))
    assert asked == WANTED


def test_a_run_and_a_sampler_ask(asked: list[tuple[int, int]]) -> None:
    Runtime("cpu")
    assert asked == WANTED
    host_memory._keep_freed.cache_clear()
    TorchSampler(make_model("llama"), None, eos_ids=())
    assert asked == WANTED * 2


@pytest.mark.parametrize(("device", "name"), [("meta", None), ("cpu", "GLIBC_TUNABLES"), ("cpu", "MALLOC_TOP_PAD_")])
def test_other_devices_and_a_users_own_settings_are_left_alone(
    device: str, name: str | None, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name:
        monkeypatch.setenv(name, "1")
    host_memory.keep_freed(torch.device(device))
    assert asked == []


def test_another_c_library_is_no_error(asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    host_memory.keep_freed(torch.device("cpu"))
    assert asked == []


def test_this_c_library_takes_it() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("no glibc")
    host_memory._keep_freed.cache_clear()
    assert host_memory._keep_freed()


def test_a_cpu_alone_gives_back_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=calls.append))
    host_memory.give_back(torch.device("meta"))
    assert calls == []
    host_memory.give_back(torch.device("cpu"))
    assert calls == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # not glibc
    host_memory.give_back(torch.device("cpu"))
