"""bfloat16 that a processor cannot compute at speed is refused with the measured figure, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from assent.cli import main
from assent.engine import half_speed
from assent.engine.half_speed import product_seconds
from assent.engine.runtime import Runtime
from tests.support.stages import arguments, write_inputs

SOURCE = Path(half_speed.__file__).parents[1]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[torch.dtype, list[float]]:
    """Seconds that a product takes; the last ones for good."""
    seconds = {torch.float32: [0.0003], torch.bfloat16: [0.0936]}

    def measured(dtype: torch.dtype) -> float:
        return seconds[dtype].pop(0) if len(seconds[dtype]) > 1 else seconds[dtype][0]

    monkeypatch.setattr(half_speed, "product_seconds", measured)
    return seconds


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def ticking(*taken: float) -> Iterator[float]:
    """What a clock says before and after products that take so long."""
    now = 0.0
    for seconds in taken:
        yield now
        now += seconds
        yield now


@pytest.mark.parametrize(
    ("taken", "best"), [([9.0, 0.3], 0.3), ([0.05, 0.01, 0.04, 0.02], 0.01), ([0.01, 0.02, 0.5], 0.01)]
)
def test_the_best_of_a_few_products_counts_and_slow_ones_are_not_repeated(taken: list[float], best: float) -> None:
    clock = ticking(*taken)
    assert product_seconds(torch.float32, clock=lambda: next(clock)) == pytest.approx(best)
    assert next(clock, None) is None


@pytest.mark.parametrize(("flag", "value"), [("--dtype", "bfloat16"), ("--mixed-precision", "bf16")])
def test_training_in_slow_bfloat16_is_refused_unless_it_is_asked_for_again(
    flag: str,
    value: str,
    slow: dict[torch.dtype, list[float]],
    inputs: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [*arguments("sft", inputs, tmp_path / "run"), "--device", "cpu", flag, value]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "bfloat16 is 312 times as slow as float32 on this processor" in err
    assert "takes 93.6 ms, in float32 0.3 ms" in err
    assert f"leave {flag} out, or add --allow-slow-dtype" in err
    assert not (tmp_path / "run").exists()
    argv[argv.index("--max-steps") + 1] = "1"
    assert main([*argv, "--allow-slow-dtype"]) == 0


def test_sampling_is_refused_too(
    slow: dict[torch.dtype, list[float]], inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sample", "--model", inputs["model"], "--data", inputs["prompts"], "--output-dir", str(tmp_path / "out")]
    assert main([*argv, "--max-length", "64", "--max-new-tokens", "6", "--device", "cpu", "--dtype", "bfloat16"]) == 2
    assert "312 times as slow" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_is_measured_again_before_it_is_refused_and_float32_is_not_measured(
    slow: dict[torch.dtype, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from assent.config.stages import SftConfig

    given = {"model": "m", "data": "d", "output_dir": "o", "device": "cpu"}
    slow[torch.bfloat16] = [0.0936, 0.0004]  # other work held it up
    assert Runtime.of(SftConfig(**given, dtype="bfloat16")).device.type == "cpu"
    slow.clear()
    Runtime.of(SftConfig(**given))


def test_insisting_without_bfloat16_is_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    assert main([*arguments("sft", inputs, tmp_path / "run"), "--allow-slow-dtype"]) == 2


def test_every_command_opens_its_device_where_this_is_checked() -> None:
    """`Runtime(…)` without `of` measures nothing: outside engine/ only a look at the device may do that."""
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "engine" and re.search(r"\bRuntime\(", path.read_text(encoding="utf-8"))
    }
    assert found == {"stages/online_checks.py", "commands/plan_calibrate.py"}
