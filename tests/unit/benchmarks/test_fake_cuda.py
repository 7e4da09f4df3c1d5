"""The pretended device refuses what a GPU would refuse, and records as a graph does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks"
pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")

CHECKS = """
import json, sys
sys.path.insert(0, {scripts!r})
import pretend_cuda
import torch

def said(function):
    try:
        return repr(function())
    except RuntimeError as error:
        return str(error)

found = {{}}
with pretend_cuda.pretended() as state:
    there, here = torch.arange(6.0, device="cuda"), torch.arange(6.0)
    at = torch.tensor([1, 2], device="cuda")
    found["mixed"] = said(lambda: there + here)
    found["scalar"] = (there * torch.tensor(2.0)).tolist()
    found["indexed by the device"] = said(lambda: here[at])
    found["values elsewhere"] = said(lambda: there.index_put_((at,), here[:2]))
    found["generator"] = said(lambda: torch.rand(2, device="cuda", generator=torch.Generator()))
    found["device"] = str(there[at].device), str(there.cpu().device), str((there > 2).device)
    weight = torch.nn.Parameter(there.clone())
    (weight[at] ** 2).sum().backward()
    found["gradient"] = str(weight.grad.device), weight.grad.tolist()
    tied = torch.nn.ModuleDict({{"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}})
    tied["b"].weight = tied["a"].weight
    found["tied"] = tied.to("cuda")["a"].weight is tied["b"].weight, str(tied["b"].weight.device)
    before = sum(state.waits.values())
    float(there.sum()), there.nonzero(), there[there > 2], there.cpu()
    found["waits"] = sum(state.waits.values()) - before  # a mask waits once more, for the shape of its indices
    sum_of, frozen = torch.zeros(1, device="cuda"), 1
    def step():
        sum_of.add_(frozen)
        return sum_of * 10
    graph = pretend_cuda.Recording(step, torch.device("cuda"))
    found["recording computes nothing"] = sum_of.tolist()
    frozen = 100  # Python is not asked again
    found["replayed"] = [graph.replay().tolist(), graph.replay().tolist(), sum_of.tolist()]
    found["waiting in a recording"] = said(lambda: pretend_cuda.Recording(lambda: there[there > 1], there.device))
    found["an upload in a recording"] = said(
        lambda: pretend_cuda.Recording(lambda: there + torch.tensor([1.0] * 6, device="cuda"), there.device)
    )
    torch.cuda.set_sync_debug_mode("error")
    found["forbidden"] = said(lambda: there.sum().item())
    torch.cuda.set_sync_debug_mode(0)
    found["allowed"] = there.sum().item()
print(json.dumps(found))
"""


def ended(*command: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_the_device_refuses_and_records_as_a_gpu_does() -> None:
    found = ended("-c", CHECKS.format(scripts=str(SCRIPTS)))
    assert "found cuda:0 and cpu: add" in found["mixed"]
    assert found["scalar"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert "indices should be on the CPU" in found["indexed by the device"]
    assert "on another device" in found["values elsewhere"]
    assert "generator" in found["generator"]
    assert found["device"] == ["cuda:0", "cpu", "cuda:0"]
    assert found["gradient"] == ["cuda:0", [0.0, 2.0, 4.0, 0.0, 0.0, 0.0]]
    assert found["tied"] == [True, "cuda:0"]
    assert found["waits"] >= 4
    assert found["recording computes nothing"] == [0.0]
    assert found["replayed"] == [[10.0], [20.0], [2.0]]
    for name in ("waiting in a recording", "an upload in a recording", "forbidden"):
        assert "would wait for the device" in found[name], name
    assert found["allowed"] == 15.0
