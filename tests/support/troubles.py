"""What befalls the processes of a `Group`, which calls one of these before its commands."""

from __future__ import annotations

import os
import signal
from typing import Any


def interrupted() -> None:
    """Every process is interrupted after the second step."""
    from assent.stages.session import Session

    log_step = Session.log_step

    def log_and_stop(self: Session, step: int, *args: Any, **counts: int) -> None:
        log_step(self, step, *args, **counts)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    Session.log_step = log_and_stop  # type: ignore[method-assign]
