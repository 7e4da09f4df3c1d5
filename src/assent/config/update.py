"""Configuration of `update`, of `rollback`, and of the stage that turns logs into data. Torch-free."""

from __future__ import annotations

from typing import Literal

from assent.config.options import NonNegative, Options, Positive


class UpdateConfig(Options):
    """Runs a pipeline file that trains a successor of the released model, and marks it as released if all gates pass.

    Exit status 1 if a gate stops it; then nothing is marked. The file is one that `assent plan --update` writes
    (docs/update.md). Finished stages are not repeated, and an interrupted one resumes.
    """

    file: str
    """Pipeline file (YAML) with `new`, `replaces` and gates against the release."""
    releases: str = "releases"
    """Folder of the mark, release.json: what is released, its content hash, its parent, and the gates' figures."""
    output_dir: str | None = None
    """Folder of the pipeline's results. Default: the folder that the file names."""
    seed: NonNegative | None = None
    """Seed of every stage that sets none itself. Default: the file's seed."""
    jobs: Positive | Literal["auto"] = 1
    """Number of stages that may run at the same time, as in `assent run`."""
    set: tuple[str, ...] = ()
    """Replace an option of the file, STAGE.OPTION=VALUE, or one of its variables, NAME=VALUE. Give the flag once for
    each."""
    again: bool = False
    """Release a model that was rolled back before."""


class RollbackConfig(Options):
    """Puts the mark back on the model that was released before, if that model's files are unchanged.

    Nothing is deleted, and the move is recorded. Whoever serves the marked model has to load it again.
    """

    folder: str = "releases"
    """Folder of the mark."""
