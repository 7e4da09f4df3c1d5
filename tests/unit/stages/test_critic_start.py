"""A critic that no reward model gives its start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import said
from tests.support.stages import arguments, told, write_inputs


@pytest.mark.parametrize("trunk", [[], ["--trunk", "one", "--lora-r", "2"]], ids=["separate", "one"])
def test_a_critics_fresh_head_begins_at_zero(
    trunk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whitened, the values of a random head would be the first round's advantages."""
    inputs = write_inputs(tmp_path)
    argv = [*arguments("ppo", inputs, tmp_path / "run"), *trunk, "--critic", inputs["model"]]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    rows = [row for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/kl" in row]
    assert rows[0]["val/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["val/explained_variance"] != pytest.approx(0, abs=1e-6)
