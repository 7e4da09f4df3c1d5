"""What an error of a newcomer's says: what to do next, on lines that a terminal shows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import assent.models.adapters  # noqa: F401  # it quiets what PEFT imports
from assent.cli.entry import in_columns
from assent.config.evaluation import EvalConfig
from assent.config.loading import parse_options
from assent.errors import ConfigError, ModelError
from assent.models.folders import resolve_folder


@pytest.mark.parametrize(
    ("given", "got", "fix"),
    [
        ({"policy": "m"}, "no baseline", "give baseline; the usual"),
        ({"against": ["a"]}, "no policy and no baseline", "give policy and baseline; the usual"),
    ],
)
def test_a_comparison_of_one_says_what_is_missing(given: dict[str, object], got: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="a comparison needs policy and baseline") as caught:
        parse_options(EvalConfig, {"data": "d", "output_dir": "o", **given})
    assert caught.value.got == got
    assert (caught.value.fix or "").startswith(fix)


def test_a_missing_model_folder_says_where_models_are_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="OUTPUT_DIR/model"):
        resolve_folder(str(tmp_path / "runs" / "dpo" / "model"))


def test_what_was_expected_fits_80_columns_and_a_command_stays_one_line() -> None:
    command = "  to do:    assent data show " + "x" * 70
    message = f"error: no\n  expected: {', '.join(['one of prompt and completion'] * 6)}\n{command}"
    first, *listed, last = in_columns(message).splitlines()
    assert (first, last) == ("error: no", command)
    assert len(listed) == 3
    assert max(map(len, listed)) <= 80
    assert " ".join(" ".join(listed).split()) == " ".join(message.splitlines()[1].split())


def test_a_kernel_that_only_4_bits_on_the_cpu_would_use_is_not_missed() -> None:
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
