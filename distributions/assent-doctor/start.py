"""The doctor of Assent alone: what is wrong with a run's log or with preference data, and what to change."""

from __future__ import annotations

import os
from typing import Any


def doctor(*targets: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Says what is wrong with runs or data: `reports`, each with `verdict`, `findings`, `not_checked`.

    Options: those of `assent-doctor`.
    """
    from assent.commands.doctor_logs import doctor_of_logs
    from assent.config.doctor import LogDoctorConfig
    from assent.config.loading import parse_options

    given = {"targets": tuple(map(os.fspath, targets))} if targets else {}
    written = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    document, _, status = doctor_of_logs(parse_options(LogDoctorConfig, {**given, **written}))
    return {**document, "exit_status": status}
