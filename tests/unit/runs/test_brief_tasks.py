"""Parts of a task show how far they are where they take long, and nothing where they do not."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress as RichBars

from assent.pipelines.child import _Reported
from assent.runs import progress as progress_file
from assent.runs.progress import PlainProgress, TerminalProgress, _TerminalTask


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "lines"), [(3.0, []), (25.0, ["reading: 5/10, 2.5 s each, 0:12 left"])])
def test_without_a_terminal_a_brief_task_writes_no_last_line(seconds: float, lines: list[str]) -> None:
    clock, stream = Clock(), io.StringIO()
    with PlainProgress(stream=stream, clock=clock).task("reading", total=10, brief=True) as task:
        for _ in range(2):
            clock.now += seconds / 2
            task.advance(5)
    assert stream.getvalue().splitlines()[: len(lines)] == lines
    assert bool(stream.getvalue()) == bool(lines)


@pytest.mark.parametrize(("seconds", "is_shown"), [(1.9, False), (2.0, True)])
def test_a_brief_bar_appears_only_when_its_task_takes_a_while(
    monkeypatch: pytest.MonkeyPatch, seconds: float, is_shown: bool
) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = RichBars(*progress_file._columns(80), console=console, auto_refresh=False)
    task = bars.add_task("reading", total=30, visible=False, rate="", shown=(), left=None)
    clock = Clock()
    monkeypatch.setattr(progress_file.time, "monotonic", clock)
    brief = _TerminalTask(bars, task, is_uneven=False, brief=True)
    clock.now = seconds
    brief.advance(10)
    assert bars.tasks[0].visible == is_shown


def test_a_brief_bar_goes_with_its_task() -> None:
    progress = TerminalProgress()
    with progress.task("dpo", total=2):
        assert progress._bars is not None
        with progress.task("reading", total=3, brief=True):
            assert [(task.description, task.visible) for task in progress._bars.tasks] == [
                ("dpo", True),
                ("reading", False),
            ]
        assert [task.description for task in progress._bars.tasks] == ["dpo"]


def test_a_stage_in_a_process_of_its_own_keeps_its_one_line() -> None:
    """The parent shows the task that began last: a part's line would take the place of the stage's."""
    sent: list[dict[str, object]] = []
    channel = type("Channel", (), {"send": lambda self, **message: sent.append(message)})()
    reported = _Reported(channel)
    with reported.task("dpo", total=2), reported.task("reading", total=3, brief=True) as part:
        part.advance(3)
    assert [message.get("description") for message in sent if "task" in message] == ["dpo"]
