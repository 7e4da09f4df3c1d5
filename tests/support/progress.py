"""Progress that keeps what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from assent.runs.progress import Left, Shown, Task


@dataclass
class NotedTask:
    description: str
    total: int | None
    brief: bool
    steps: list[int] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def advance(self, n: int = 1, **shown: Shown) -> None:
        with self.lock:
            self.steps.append(n)


@dataclass
class NotedProgress:
    tasks: list[NotedTask] = field(default_factory=list)

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
        self.tasks.append(NotedTask(description, total, brief))
        yield self.tasks[-1]

    def line(self, text: str) -> None:
        pass
