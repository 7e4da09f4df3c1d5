"""Law 2 over processes: two of them, replicated or sharded, make the update that one makes."""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.engine_processes import main, start


def in_processes(out: Path, sharding: str, model: str, *, number: int) -> None:
    """`main` in so many processes, started as torchrun starts them, from a server that has torch imported once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.engine_processes"])
    running = []
    for rank in range(number):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
        environment = {key: str(value) for key, value in {**numbers, "MASTER_PORT": port}.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        running.append(context.Process(target=start, args=(environment, out, sharding, model)))
    for process in running:
        process.start()
    deadline = time.monotonic() + 900
    try:
        while any(process.exitcode is None for process in running) and time.monotonic() < deadline:
            if any(process.exitcode for process in running):
                break  # the others wait for it
            time.sleep(0.02)
    finally:
        for process in running:
            process.kill()
            process.join()
    logs = "\n".join(path.read_text() for path in sorted(out.glob("*.log")))
    assert [process.exitcode for process in running] == [0] * number, logs


def result(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_file(out / "result.safetensors"), json.loads((out / "facts.json").read_text())


@pytest.mark.parametrize(("sharding", "model"), [("replicate", "tiny"), ("shard", "tiny"), ("shard", "llama")])
def test_two_processes_make_the_update_that_one_makes(tmp_path: Path, sharding: str, model: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    main(one, "replicate", model)
    in_processes(two, sharding, model, number=2)
    expected, alone = result(one)
    found, facts = result(two)
    assert facts["dtensors"] is (sharding == "shard")
    assert alone["dtensors"] is False
    assert facts["fingerprint"] == alone["fingerprint"]
    for ours, theirs in zip(facts["metrics"], alone["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-5 * float(tensor.abs().max()))
    assert facts["retried"] == pytest.approx(alone["retried"], rel=1e-5)
    for key in ("named", "untouched", "agree"):
        assert facts[key], key
    if model == "llama":
        assert facts["sharded_again"]
        assert facts["handed_over"]
        assert facts["ran_out"]
        assert facts["budget_fell"]
        for rows, expected_rows in zip(facts["sampled"], alone["sampled"], strict=True):
            assert [ids for ids, _ in rows] == [ids for ids, _ in expected_rows]
            for (_, found_logprobs), (_, others) in zip(rows, expected_rows, strict=True):
                assert found_logprobs == pytest.approx(others, abs=1e-4)
    if sharding == "replicate":
        assert facts["budget_fell"]
