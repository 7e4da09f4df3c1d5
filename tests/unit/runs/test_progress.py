"""Progress says how far, how fast and how long still; without a terminal at most a line every ten seconds."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.progress import Progress as RichBars

from assent.runs import progress as progress_file
from assent.runs.progress import (
    PlainProgress,
    Silent,
    TerminalProgress,
    _TerminalTask,
    duration_text,
    folded,
    progress_for_stderr,
    rate_text,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_have_rate_and_remaining_time() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainProgress(stream=stream, clock=clock).task("dpo", total=100) as task:
        for _ in range(100):
            clock.now += 0.5
            task.advance(1, loss=0.69314, note="x")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "dpo: 20/100, 2/s, 0:40 left, loss 0.6931, note x"
    assert lines[-1] == "dpo: 100/100, 2/s, took 0:50, loss 0.6931, note x"
    assert [line.split(",")[0] for line in lines] == [f"dpo: {n}/100" for n in (20, 40, 60, 80, 100)]


def test_a_resumed_task_counts_its_rate_from_where_it_resumed() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainProgress(stream=stream, clock=clock).task("sft", total=100, done=90) as task:
        clock.now += 10
        task.advance(5)
    assert stream.getvalue() == "sft: 95/100, 2 s each, 0:10 left\n"


def test_a_short_task_writes_one_line_even_when_it_fails() -> None:
    clock, stream = Clock(), io.StringIO()
    with contextlib.suppress(RuntimeError), PlainProgress(stream=stream, clock=clock).task("x", total=None) as task:
        clock.now += 1
        task.advance(3)
        raise RuntimeError
    assert stream.getvalue() == "x: 3, 3/s\n"


def test_stdout_is_never_written(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_for_stderr()
    assert isinstance(progress, PlainProgress)  # under pytest, stderr is no terminal
    for each in (progress, TerminalProgress(), Silent()):
        with each.task("a", total=2) as outer, each.task("b", total=1) as inner:
            outer.advance()
            inner.advance(1, loss=0.5)
            each.line("[brackets] and :smile: stay")
            outer.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("[brackets] and :smile: stay") == 3


METRICS: dict[str, float | int | str] = {"loss": 0.69314, "rewards/accuracies": 0.6875, "rewards/margins": 0.1234}


def drawn(width: int, *, left: float | None = 754.0) -> list[str]:
    """A pipeline's bar and that of its third stage, in a terminal of this width."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = RichBars(*progress_file._columns(width), console=console, auto_refresh=False)
    bars.add_task("demo", total=7, completed=2, rate="", shown=(), left=lambda: left)
    task = _TerminalTask(bars, bars.add_task("dpo", total=1200, rate="", shown=(), left=None), is_uneven=False)
    task.advance(700, **METRICS)
    printer = Console(width=width, file=io.StringIO(), color_system=None)
    printer.print(bars.get_renderable())
    return printer.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 30])
def test_count_and_time_left_stand_whole_and_metrics_take_what_room_is_left(width: int) -> None:
    pipeline, stage = drawn(width)
    assert "2/7" in pipeline
    assert "12:34" in pipeline  # its own estimate, not 5/2 of the time so far
    assert "700/1200" in stage
    assert re.search(r"-:--|\d+:\d\d", stage)
    assert "…" not in pipeline + stage
    whole = [f"{name} {value}" for name, value in (("loss", "0.6931"), *list(METRICS.items())[1:])]
    rest = stage
    for part in whole:
        rest = rest.replace(part, "")
    assert not re.search("loss|rewards", rest)  # a metric is shown whole or not at all
    assert sum(part in stage for part in whole) == {200: 3, 100: 2, 80: 2, 60: 1, 40: 1, 30: 0}[width]


def test_a_pipeline_without_an_estimate_yet_says_so() -> None:
    assert "-:--" in drawn(80, left=None)[0]


def test_a_task_of_unlike_parts_has_an_estimate_instead_of_a_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainProgress(stream=stream, clock=clock).task("demo", total=7, left=lambda: 754.0) as task:
        clock.now += 10
        task.advance()
    assert stream.getvalue() == "demo: 1/7, 12:34 left\n"


@pytest.mark.parametrize("left", [None, lambda: 3.0])
def test_a_finished_task_says_what_it_took_as_one_that_runs_says_what_is_left(left: object) -> None:
    clock = Clock()
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = RichBars(*progress_file._columns(80), console=console, auto_refresh=False, get_time=clock)
    task = bars.add_task("dpo", total=10, rate="", shown=(), left=left)
    clock.now = 67.0
    bars.update(task, completed=10)
    printer = Console(width=80, file=io.StringIO(), color_system=None)
    printer.print(bars.get_renderable())
    assert "10/10 1:07" in printer.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_is_broken_between_words_and_a_path_is_whole() -> None:
    long = "  not read: " + ", ".join(f"column{n}" for n in range(12)) + f" in {'/folder' * 12}"
    lines = folded(f"short\n{long}", 80).split("\n")
    assert lines[0] == "short"
    assert "".join(line.replace(" ", "") for line in lines[1:]) == long.replace(" ", "")
    assert [len(line) > 80 for line in lines] == [False, False, False, True], "only the path is longer"
    assert all(line.startswith("    ") for line in lines[2:])


def test_an_estimate_is_asked_for_every_two_seconds_at_most() -> None:
    clock, asked = Clock(), []
    kept = progress_file._kept(lambda: asked.append(clock.now), clock=clock)  # type: ignore[func-returns-value]
    for now in (0.0, 0.1, 1.9, 2.0, 2.1):
        clock.now = now
        kept()
    assert asked == [0.0, 2.0]


def test_rates_and_times_are_short_texts() -> None:
    assert [rate_text(r) for r in (0, 0.4, 3.14159, 12345.6, 0.001)] == [
        "0/s",
        "2.5 s each",
        "3.14/s",
        "12346/s",
        "16:40 each",
    ]
    assert [duration_text(s) for s in (0, 7.4, 750, 11049)] == ["0:00", "0:07", "12:30", "3:04:09"]


def test_the_package_is_torch_free_and_imports_rich_late() -> None:
    code = (
        "import sys, assent.runs.log, assent.runs.reading, assent.metrics; "
        "print([m for m in ('torch', 'transformers', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
