"""What befalls one of several processes, chosen by the environment; `Group` calls these before its commands."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.many_processes import PATIENCE_SECONDS

LONGER_SECONDS = 30
"""Longer than the limits of `short_waits`."""


def short_waits() -> None:
    """Limits that a test can wait for: a collective call ends, and a silent process is dead, after 25 s. A process that
    a busy machine holds up is not as late as that."""
    from assent.engine import runtime, together

    runtime.COLLECTIVE_SECONDS = 25
    together.BEAT_SECONDS, together.SILENCE_SECONDS = 0.2, 25.0


def failing() -> None:
    """The second process fails in its second update."""
    _short_grace()
    _in_update(2, _fail)


def killed() -> None:
    """The second process is killed in its second update, when it has told what it does."""
    from assent.engine.together import Together

    enter, those = Together.__enter__, []

    def enter_and_note(self: Together) -> Together:
        those.append(self)
        return enter(self)

    def tell_and_die() -> None:
        while b"update" not in Together._heard(those[-1]._store, 1):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    Together.__enter__ = enter_and_note  # type: ignore[method-assign]
    _in_update(2, tell_and_die)


def stuck() -> None:
    """The second process stays in its second update, alive, for longer than the group has patience."""
    short_waits()
    _short_grace()
    _in_update(2, lambda: time.sleep(PATIENCE_SECONDS + 60))


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
        time.sleep(LONGER_SECONDS)
        return into(self, folder)

    Fork.into = slowly_into  # type: ignore[method-assign]


def slow(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A judge that takes longer than the process group waits."""
    time.sleep(LONGER_SECONDS)
    return [float(len(completion)) for completion in completions]


def _fail() -> None:
    raise ArithmeticError("the second process has had enough")


def _short_grace() -> None:
    from assent.engine import together

    together.GRACE_SECONDS = 2.0


def _in_update(number: int, action: Callable[[], object]) -> None:
    from assent.engine.learner import Learner

    update = Learner.update

    def update_or_not(self: Learner, *args: Any, **keywords: Any) -> dict[str, float]:
        if self.step + 1 == number and os.environ["RANK"] == "1":
            action()
        return update(self, *args, **keywords)

    Learner.update = update_or_not  # type: ignore[method-assign]
