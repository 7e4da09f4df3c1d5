"""Devices by name: several of one, names without memory, unknown ones."""

from __future__ import annotations

import pytest

from assent.errors import ConfigError
from assent.planning.devices import device, names


def test_every_listed_device_can_be_named() -> None:
    assert {"rtx-4090-24gb", "a100-80gb", "h100-80gb", "h200-141gb"} <= set(names())
    for name in names():
        one = device(name)
        gigabytes = float(name.rpartition("-")[2].removesuffix("gb"))
        assert 0.9 < one.memory_bytes / (gigabytes * 1e9) < 1.1
        assert one.rates is not None
        assert one.rates["float32"] > 1e12
        assert one.source


def test_several_of_one_and_a_name_without_memory() -> None:
    eight = device("8xh100")
    assert (eight.count, eight.name, eight.memory_bytes) == (8, "8xh100-80gb", device("h100-80gb").memory_bytes)
    assert device("H200_141GB").name == "h200-141gb"
    with pytest.raises(ConfigError, match="a100-40gb or a100-80gb"):
        device("a100")


def test_a_device_without_bfloat16_says_so() -> None:
    assert "bfloat16" not in (device("t4-16gb").rates or {})


@pytest.mark.parametrize(("name", "near"), [("h1000-80gb", "h100-80gb"), ("rtx4090-24gb", "rtx-4090-24gb")])
def test_an_unknown_device_gets_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)unknown device: {name}.*did you mean .*{near}"):
        device(name)


def test_this_machine_has_memory_and_cores() -> None:
    cpu = device("cpu")
    assert cpu.kind == "cpu"
    assert cpu.memory_bytes > 1e8
    assert cpu.threads >= 1
