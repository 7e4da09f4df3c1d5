"""A method that fits neither device, nor deadline, nor budget gives way to the next; if none is left, it says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import assent
from assent.commands import plan, plan_needs
from assent.commands.plan_needs import misfit_of
from assent.data.loading import load_groups
from assent.errors import ConfigError
from assent.planning.measuring import reports_of
from tests.support.cli import said
from tests.support.sandbox_data import base_model, labelled


def given(**options: Any) -> Any:
    return SimpleNamespace(**{"deadline": None, "deadline_seconds": None, "budget": None, "price": None, **options})


def stage(*, hours: float = 1.0, peaks: tuple[float, ...] = (8e9,), device: float = 24e9) -> Any:
    ways = [SimpleNamespace(fits=peak <= device, memory=SimpleNamespace(peak=peak)) for peak in peaks]
    fit = SimpleNamespace(largest_budget=0, ways=ways)
    return SimpleNamespace(command="ppo", fit=fit, duration=SimpleNamespace(hours=(hours, 2 * hours)))


DEVICE: Any = SimpleNamespace(memory_bytes=24e9, name="rtx-4090-24gb", count=2)


@pytest.mark.parametrize(
    ("stages", "limits", "reason"),
    [
        ([stage(peaks=(90e9, 40e9))], {}, "its ppo needs 40 GB at least, of 24 on rtx-4090-24gb"),
        ([stage(peaks=(90e9, 20e9))], {}, None),  # another way to run it fits
        ([stage(), stage()], {"deadline": "90m", "deadline_seconds": 5400.0}, "it takes 2 h at least"),
        ([stage()], {"deadline": "90m", "deadline_seconds": 5400.0}, None),  # in doubt: 1 to 2 h
        ([stage()], {"budget": 4.0, "price": 2.5}, "it costs 5.00 at least, of a budget of 4"),  # two devices
        ([stage()], {"budget": 5.0, "price": 2.5}, None),
    ],
)
def test_a_plan_is_ruled_out_by_the_low_end_of_its_range(
    stages: list[Any], limits: dict[str, Any], reason: str | None
) -> None:
    found = misfit_of(given(**limits), stages, DEVICE)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_the_data_is_audited_once_however_many_methods_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three methods are tried with a device too small for any training; then an error says so."""
    read: list[str] = []
    audits: list[int] = []
    monkeypatch.setattr(plan, "load_groups", lambda path, **more: read.append(path) or load_groups(path, **more))
    monkeypatch.setattr(plan, "reports_of", lambda sources: audits.append(len(sources)) or reports_of(sources))
    tried: list[str] = []

    def misfit(config: Any, stages: Any) -> tuple[dict[str, Any], list[str], str | None]:
        tried.append(stages[-1].command)
        return {}, [], "too large"

    monkeypatch.setattr(plan_needs, "needed", misfit)
    pairs = labelled(tmp_path / "pairs.jsonl", number=120)
    with pytest.raises(ConfigError, match="larger hardware"):
        assent.plan(model=base_model(), data=[pairs], hardware="cpu")
    assert len(tried) > 2
    assert (read, audits) == ([pairs], [1])


def test_a_deadline_that_no_method_meets_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = labelled(tmp_path / "pairs.jsonl", number=120)
    command = ["plan", "--model", base_model(), "--data", pairs, "--hardware", "rtx-4090-24gb"]
    status, out, err = said([*command, "--deadline", "8h"], capsys)
    assert status == 0, err
    assert "Deadline of 8.0 h: kept" in out
    status, out, err = said([*command, "--deadline", "0.0000001m"], capsys)
    assert (status, out) == (2, "")
    assert "give a longer deadline" in err
    assert "the deadline is 0.0000001m" in err
