"""What a stage resumes from: the newest verified checkpoint, and the record of the run that stands in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from assent.engine.checkpoint import FOLDER as CHECKPOINTS
from assent.engine.checkpoint import Checkpoint, latest_verified
from assent.runs.folder import RunFolder
from assent.runs.manifest import step_of
from assent.runs.recovery import Recorded


def recorded(folder: Path) -> Recorded | None:
    """The copy of run.json in the newest verified checkpoint."""
    checkpoint = latest_verified(folder)
    if checkpoint is None:
        return None
    return Recorded(f"{CHECKPOINTS}/{checkpoint.path.name}", checkpoint.state.get("run"))


def to_resume_from(folder: RunFolder, *, note: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest verified checkpoint, unless it is that of step 0, which only keeps the start as the best so far."""
    checkpoint = latest_verified(folder.path)
    if checkpoint is not None and note is not None:
        for reason in checkpoint.refused:
            note(f"skipped a damaged checkpoint: {reason}")
    return None if checkpoint is None or checkpoint.step == 0 else checkpoint


def what_is_kept(folder: RunFolder) -> str:
    """For whoever pressed Ctrl-C: what the same command will do."""
    steps = [step for path in folder.checkpoints() if (step := step_of(path.name))]
    if not steps:
        return "no checkpoint has been written yet, so the same command starts over"
    return f"the same command continues after step {max(steps)}"
