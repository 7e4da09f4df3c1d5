"""Shows progress on stderr: bars on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import ProgressColumn

Shown = float | int | str


class Task(Protocol):
    """Something that advances."""

    def advance(self, n: int = 1, **shown: Shown) -> None:
        """Counts `n` more as done. `shown` are figures to show beside the count."""


class Progress(Protocol):
    def task(
        self, description: str, *, total: int | None, done: int = 0, keep: bool = True
    ) -> AbstractContextManager[Task]:
        """Shows a task. `total` None: unknown. `done`: where a resumed task starts; not counted in its rate. `keep`:
        its bar stays on a terminal's screen until the outer tasks have ended, too."""

    def line(self, text: str) -> None:
        """Writes one line of text above the bars."""


def progress_for_stderr() -> Progress:
    """Bars if stderr is a terminal, otherwise plain lines."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


class Silent:
    """Shows no progress. Notes still go to stderr."""

    @contextmanager
    def task(self, description: str, *, total: int | None, done: int = 0, keep: bool = True) -> Iterator[Task]:
        yield _SilentTask()

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _SilentTask:
    def advance(self, n: int = 1, **shown: Shown) -> None:
        pass


class PlainProgress:
    """Writes at most one line for a task every `every_seconds`, and one at its end."""

    def __init__(
        self, *, stream: IO[str] | None = None, every_seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.every_seconds, self.clock = stream, every_seconds, clock

    @contextmanager
    def task(self, description: str, *, total: int | None, done: int = 0, keep: bool = True) -> Iterator[Task]:
        task = _PlainTask(self, description, total, done)
        try:
            yield task
        finally:
            task.report()

    def line(self, text: str) -> None:
        print(text, file=self.stream or sys.stderr, flush=True)


class _PlainTask:
    def __init__(self, progress: PlainProgress, description: str, total: int | None, done: int) -> None:
        self.progress, self.description, self.total, self.done = progress, description, total, done
        self.start_done, self.shown, self.reported = done, {}, -1  # type: int, dict[str, Shown], int
        self.started = self.last = progress.clock()

    def advance(self, n: int = 1, **shown: Shown) -> None:
        self.done += n
        self.shown = shown or self.shown
        if self.progress.clock() - self.last >= self.progress.every_seconds:
            self.report()

    def report(self) -> None:
        if self.done == self.reported:
            return
        self.last, self.reported = self.progress.clock(), self.done
        rate = (self.done - self.start_done) / max(self.last - self.started, 1e-9)
        parts = [f"{self.done}/{self.total}" if self.total else str(self.done), rate_text(rate)]
        if self.total and rate > 0:
            parts.append(f"{duration_text((self.total - self.done) / rate)} left")
        parts += [f"{name} {shown_text(value)}" for name, value in self.shown.items()]
        self.progress.line(f"{self.description}: " + ", ".join(parts))


class TerminalProgress:
    """Shows rich's bars, one for each task, inner tasks below outer ones."""

    def __init__(self) -> None:
        self._bars: RichBars | None = None
        self._open = 0

    @contextmanager
    def task(self, description: str, *, total: int | None, done: int = 0, keep: bool = True) -> Iterator[Task]:
        bars = self._start()
        identifier = bars.add_task(description, total=total, completed=done, rate="", shown="")
        try:
            yield _TerminalTask(bars, identifier, done)
        finally:
            self._open -= 1
            if not keep:
                bars.remove_task(identifier)
            if self._open == 0:
                bars.stop()  # leaves the finished bars on the screen
                self._bars = None

    def line(self, text: str) -> None:
        if self._bars is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _start(self) -> RichBars:
        from rich.console import Console
        from rich.progress import Progress as RichBars

        if self._bars is None:
            self._bars = RichBars(*_columns(), console=Console(stderr=True))
            self._bars.start()
        self._open += 1
        return self._bars


class _TerminalTask:
    def __init__(self, bars: RichBars, identifier: object, done: int) -> None:
        self.bars, self.identifier = bars, identifier
        self.done, self.started = 0, time.monotonic()

    def advance(self, n: int = 1, **shown: Shown) -> None:
        self.done += n
        rate = rate_text(self.done / max(time.monotonic() - self.started, 1e-9))
        fields = {"rate": rate}
        if shown:
            fields["shown"] = "  ".join(f"{name} {shown_text(value)}" for name, value in shown.items())
        self.bars.update(self.identifier, advance=n, **fields)  # type: ignore[arg-type]


def _columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn(
            "{task.fields[shown]}", style="dim", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
    ]


def rate_text(per_second: float) -> str:
    """`3.2/s`, or `4.1 s each` for a slow task."""
    if per_second <= 0:
        return "0/s"
    if per_second >= 1:
        return f"{per_second:.3g}/s" if per_second < 1000 else f"{per_second:.0f}/s"
    return f"{1 / per_second:.3g} s each" if per_second > 0.01 else f"{duration_text(1 / per_second)} each"


def duration_text(seconds: float) -> str:
    """`0:07`, `12:30`, `3:04:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def shown_text(value: Shown) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
