"""The page about a run that is still training: it is rewritten repeatedly, and the browser reloads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from assent.reporting.page import render, write_page
from assent.reporting.sources import read_source


def follow(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    seconds: int = 10,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """Writes the page every `seconds` until the run or pipeline ends, or until Ctrl-C; returns its path.

    The last page does not reload itself. Raises the errors of `write_report`.
    """
    target = Path(path) if path is not None else Path(folder) / "report.html"
    try:
        while (source := read_source(folder)).goes_on:
            write_page(target, render(source, refresh=seconds))
            wait(seconds)
    except KeyboardInterrupt:  # ends the live view
        source = read_source(folder)
    return write_page(target, render(source))
