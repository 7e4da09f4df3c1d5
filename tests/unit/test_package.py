"""What importing the package does to the process: OpenMP's threads wait without spinning, unless the user says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from assent import WAITING

SHOW = "import os; print([os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')])"


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ("", {}, ["passive", None, None]),
        ("", {"OMP_WAIT_POLICY": "active"}, ["active", None, None]),
        ("", {"GOMP_SPINCOUNT": "7"}, [None, "7", None]),
        ("", {"KMP_BLOCKTIME": "0"}, [None, None, "0"]),
        ("import torch; ", {}, [None, None, None]),  # it is too late then
    ],
)
def test_threads_wait_without_spinning_unless_the_user_says(
    before: str, given: dict[str, str], after: list[str | None]
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", *given)}
    done = subprocess.run(
        [sys.executable, "-c", f"{before}import assent; {SHOW}"],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == repr(after)


def test_these_tests_too_have_loaded_torch_after_it() -> None:
    assert any(name in os.environ for name in WAITING)
