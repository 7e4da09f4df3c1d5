"""What befalls one of several processes, chosen by the environment; `Group` calls these before its commands."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any


def short_waits() -> None:
    """Limits that a test can wait for: a collective call ends after 6 s, a process is dead after 3 s of silence."""
    from assent.engine import runtime, together

    runtime.COLLECTIVE_SECONDS = 6
    together.BEAT_SECONDS, together.SILENCE_SECONDS, together.GRACE_SECONDS = 0.2, 3.0, 2.0


def failing() -> None:
    """The second process fails in its second update."""
    _in_update(2, _fail)


def killed() -> None:
    """The second process is killed in its second update, when it has told what it does."""

    def tell_and_die() -> None:
        time.sleep(1)  # several beats
        os.kill(os.getpid(), signal.SIGKILL)

    _in_update(2, tell_and_die)


def stuck() -> None:
    """The second process stays in its second update, alive."""
    _in_update(2, lambda: time.sleep(60))


def interrupted() -> None:
    """Every process is interrupted after the second step."""
    from assent.stages.session import Session

    log_step = Session.log_step

    def log_and_stop(self: Session, step: int, *args: Any, **counts: int) -> None:
        log_step(self, step, *args, **counts)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    Session.log_step = log_and_stop  # type: ignore[method-assign]


def slow_copy() -> None:
    """The main process copies the checkpoint of --fork for longer than a collective call waits."""
    from assent.engine.forking import Fork

    short_waits()
    into = Fork.into

    def slowly_into(self: Fork, folder: Any) -> str:
        time.sleep(8)
        return into(self, folder)

    Fork.into = slowly_into  # type: ignore[method-assign]


def slow(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A judge that takes longer than the process group waits."""
    time.sleep(8)
    return [float(len(completion)) for completion in completions]


def _fail() -> None:
    raise ArithmeticError("the second process has had enough")


def _in_update(number: int, action: Callable[[], object]) -> None:
    from assent.engine.learner import Learner

    short_waits()
    update = Learner.update

    def update_or_not(self: Learner, *args: Any, **keywords: Any) -> dict[str, float]:
        if self.step + 1 == number and os.environ["RANK"] == "1":
            action()
        return update(self, *args, **keywords)

    Learner.update = update_or_not  # type: ignore[method-assign]
