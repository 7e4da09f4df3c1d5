"""Shows progress on stderr: bars on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import ProgressColumn

Shown = float | int | str


class Task(Protocol):
    """Something that advances."""

    def advance(self, n: int = 1, **shown: Shown) -> None:
        """Counts `n` more as done. `shown` are figures to show beside the count."""


Left = Callable[[], float | None]
"""Seconds that a task still takes; None: not known yet."""


class Progress(Protocol):
    def task(
        self,
        description: str,
        *,
        total: int | None,
        done: int = 0,
        keep: bool = True,
        left: Left | None = None,
        brief: bool = False,
    ) -> AbstractContextManager[Task]:
        """Shows a task. `total` None: unknown. `done`: where a resumed task starts; not counted in its rate. `keep`:
        its bar stays on a terminal's screen until the outer tasks have ended, too. `left`: an estimate of the time
        left, where the parts of the task are not alike. None: from its rate. `brief`: a part of an outer task, which
        is shown only if it takes a while, and never when it is over."""

    def line(self, text: str) -> None:
        """Writes one line of text above the bars."""


def progress_for_stderr() -> Progress:
    """Bars if stderr is a terminal, otherwise plain lines."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


class Silent:
    """Shows no progress. Notes still go to stderr."""

    @contextmanager
    def task(
        self,
        description: str,
        *,
        total: int | None,
        done: int = 0,
        keep: bool = True,
        left: Left | None = None,
        brief: bool = False,
    ) -> Iterator[Task]:
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
    def task(
        self,
        description: str,
        *,
        total: int | None,
        done: int = 0,
        keep: bool = True,
        left: Left | None = None,
        brief: bool = False,
    ) -> Iterator[Task]:
        task = _PlainTask(self, description, total, done, left)
        try:
            yield task
        finally:
            if not brief:
                task.report()

    def line(self, text: str) -> None:
        print(text, file=self.stream or sys.stderr, flush=True)


class _PlainTask:
    def __init__(
        self, progress: PlainProgress, description: str, total: int | None, done: int, left: Left | None
    ) -> None:
        self.progress, self.description, self.total, self.done = progress, description, total, done
        self.left = left
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
        parts = [f"{self.done}/{self.total}" if self.total else str(self.done)]
        parts += [rate_text(rate)] if self.left is None else []  # the parts of such a task are not alike
        left = self._seconds_left(rate)
        if self.total is not None and self.done >= self.total:
            parts += [f"took {duration_text(self.last - self.started)}"]
        elif left is not None:
            parts += [f"{duration_text(left)} left"]
        parts += [f"{name} {shown_text(value)}" for name, value in self.shown.items()]
        self.progress.line(f"{self.description}: " + ", ".join(parts))

    def _seconds_left(self, rate: float) -> float | None:
        if self.left is not None:
            return self.left()
        return (self.total - self.done) / rate if self.total and rate > 0 else None


class TerminalProgress:
    """Shows rich's bars, one for each task, inner tasks below outer ones."""

    def __init__(self) -> None:
        self._bars: RichBars | None = None
        self._open = 0

    @contextmanager
    def task(
        self,
        description: str,
        *,
        total: int | None,
        done: int = 0,
        keep: bool = True,
        left: Left | None = None,
        brief: bool = False,
    ) -> Iterator[Task]:
        bars = self._start()
        kept = None if left is None else _kept(left)
        fields: dict[str, Any] = {"rate": "", "shown": (), "left": kept}
        identifier = bars.add_task(description, total=total, completed=done, visible=not brief, **fields)
        try:
            yield _TerminalTask(bars, identifier, is_uneven=left is not None, brief=brief)
        finally:
            self._open -= 1
            if brief or not keep:
                bars.remove_task(identifier)
            if self._open == 0:
                bars.stop()  # leaves the finished bars on the screen
                self._bars = None

    def line(self, text: str) -> None:
        from rich.console import Console

        console = self._bars.console if self._bars is not None else Console(stderr=True)
        console.print(folded(text, console.width), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _start(self) -> RichBars:
        from rich.console import Console
        from rich.progress import Progress as RichBars

        if self._bars is None:
            console = Console(stderr=True)
            self._bars = RichBars(*_columns(console.width), console=console)
            self._bars.start()
        self._open += 1
        return self._bars


class _TerminalTask:
    def __init__(self, bars: RichBars, identifier: object, *, is_uneven: bool, brief: bool = False) -> None:
        self.bars, self.identifier, self.is_uneven, self.brief = bars, identifier, is_uneven, brief
        self.done, self.started = 0, time.monotonic()

    def advance(self, n: int = 1, **shown: Shown) -> None:
        self.done += n
        seconds = time.monotonic() - self.started
        fields: dict[str, object] = {} if self.is_uneven else {"rate": rate_text(self.done / max(seconds, 1e-9))}
        if self.brief and seconds >= BRIEF_SECONDS:
            fields["visible"] = True
        if shown:
            fields["shown"] = tuple(f"{name} {shown_text(value)}" for name, value in shown.items())
        self.bars.update(self.identifier, advance=n, **fields)  # type: ignore[arg-type]


BRIEF_SECONDS = 2.0
"""A brief task that takes less is not shown: a bar that comes and goes at once cannot be read."""

EVERY_SECONDS = 2.0
"""Least time between two estimates: the screen is drawn ten times a second."""


def _kept(left: Left, *, clock: Callable[[], float] = time.monotonic) -> Left:
    """`left`, asked at most every two seconds."""
    asked, answer = -math.inf, None  # type: float, float | None

    def kept() -> float | None:
        nonlocal asked, answer
        if clock() - asked >= EVERY_SECONDS:
            asked, answer = clock(), left()
        return answer

    return kept


def _columns(width: int) -> list[ProgressColumn]:
    """Name, count and time left always stand whole. Metrics fill the room that is left; before a terminal is too narrow
    for the others, the bar gets shorter, and then goes with the rate."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    name, count = TextColumn("{task.description}"), MofNCompleteColumn()
    if width < 60:
        return [name, count, _time_left(), _metrics()]
    bar = BarColumn(bar_width=max(8, min(24, (width - 64) // 2)))
    return [name, bar, count, _time_left(), TextColumn("{task.fields[rate]}"), _metrics()]


def _time_left() -> ProgressColumn:
    """rich's estimate from the task's rate, or the task's own; of a finished task the time that it took."""
    from rich.progress import ProgressColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        max_refresh = 0.5  # an estimate that changes ten times a second cannot be read

        def render(self, task: RichTask) -> Text:
            if task.finished:
                return Text(duration_text(task.finished_time or 0.0), style="progress.elapsed")
            left: Left | None = task.fields["left"]
            seconds = task.time_remaining if left is None else left()
            return Text("-:--" if seconds is None else duration_text(seconds), style="progress.remaining")

    return TimeLeft()


def _metrics() -> ProgressColumn:
    """Those of the metrics for which there is room, the first ones first. The only column that gives way."""
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.progress import ProgressColumn
    from rich.progress import Task as RichTask
    from rich.table import Column
    from rich.text import Text

    class Fitting:
        def __init__(self, parts: Sequence[str]) -> None:
            self.parts = parts

        def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
            return Measurement(0, min(len("  ".join(self.parts)), options.max_width))

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            kept: list[str] = []
            for part in self.parts:
                if len("  ".join([*kept, part])) <= options.max_width:
                    kept.append(part)
            yield Text("  ".join(kept), style="dim", no_wrap=True)

    class Metrics(ProgressColumn):
        def render(self, task: RichTask) -> Fitting:
            return Fitting(task.fields["shown"])

    return Metrics(table_column=Column(no_wrap=False))


def folded(text: str, width: int) -> str:
    """The text with lines that are longer than the terminal broken between words, which it would break within them.
    What has no blank, such as a path, stays whole."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        whole = len(line) <= width
        lines += (
            [line]
            if whole
            else textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    return "\n".join(lines)


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
