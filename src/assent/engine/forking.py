"""`--fork RUN@STEP`: a new run begins with a checkpoint of another one, and records it as its parent.

The checkpoint is copied, and so are the lines of the logs up to its step. From then on the new run is like any other,
and resumes from its own checkpoints. The parent is only read.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from assent.engine.checkpoint import FOLDER, adopt, verified
from assent.errors import RunFolderError
from assent.runs.files import keep_lines, read_lines
from assent.runs.folder import METRICS, PREFERENCES, SAMPLES, RunFolder
from assent.runs.manifest import checkpoints_in, read_manifest, step_of


@dataclass(frozen=True, slots=True)
class Fork:
    """A checkpoint of the run in `parent`."""

    parent: Path
    step: int

    @classmethod
    def parse(cls, text: str) -> Fork:
        parent, _, step = text.rpartition("@")
        return cls(Path(parent), int(step))

    def is_made(self, folder: Path) -> bool:
        """Whether the run in `folder` has begun already: it then goes on from its own checkpoints."""
        return any((step_of(name) or 0) >= self.step for name in checkpoints_in(folder))

    def check(self, *, command: str, tokenizer: str, num_steps: int) -> None:
        """Raises RunFolderError if the new run cannot go on from this checkpoint. Writes nothing."""
        record = read_manifest(self.parent)
        if record is None:
            raise RunFolderError(f"there is no run in {self.parent}", expected="--fork RUN@STEP, a run's folder")
        if record["command"] != command:
            raise RunFolderError(
                f"{self.parent} is the run of another command", got=record["command"], expected=command
            )
        if (known := record["hashes"].get("tokenizer")) != tokenizer:
            raise RunFolderError(
                f"{self.parent} was trained with another tokenizer", got=tokenizer, expected=known,
                fix="give the model that it was trained from",
            )  # fmt: skip
        if f"step-{self.step}" not in (kept := checkpoints_in(self.parent)):
            raise RunFolderError(
                f"{self.parent} has no checkpoint of step {self.step}",
                expected=", ".join(kept) or "a run that has written a checkpoint",
                fix="name one that it has; --save-total-limit keeps more of them",
            )
        if self.step >= num_steps:
            raise RunFolderError(
                f"no step is left after step {self.step}",
                got=f"{num_steps} steps in all",
                fix="raise --max-steps, --num-train-epochs or --total-steps",
            )

    def into(self, folder: RunFolder) -> str:
        """Copies checkpoint and logs into a new run's folder, and records the parent. Returns what to say.

        Raises RunError if the checkpoint is damaged.
        """
        checkpoint = verified(self.parent, self.step)
        for name in (METRICS, SAMPLES, PREFERENCES):
            if (self.parent / name).exists():
                rows = [row for row in read_lines(self.parent / name) if row.get("step", 0) <= self.step]
                keep_lines(folder.path / name, rows)
        folder.manifest["parents"] = [str(self.parent)]
        folder.record(fork={"run": str(self.parent), "step": self.step})
        best = checkpoint.state["validation"].get("best")
        if best is not None and best["step"] != self.step:
            shutil.rmtree(folder.path / FOLDER / f"step-{best['step']}", ignore_errors=True)
            adopt(verified(self.parent, best["step"]), folder.path, record=folder.manifest)
        adopt(checkpoint, folder.path, record=folder.manifest)
        return f"begun with step {self.step} of {self.parent}"
