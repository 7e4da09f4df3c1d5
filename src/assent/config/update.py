"""Configuration of `update`, of `rollback`, and of the stage that turns logs into data. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import Columns
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


class LoggedDataConfig(Options):
    """Turns the logs of a deployed model into data for its update: rows to train on, and prompts to compare models on.

    A share of the prompts is held out: half of it chooses the checkpoint, the other half is compared on.
    """

    output_dir: str
    """Folder to write train.jsonl, eval.jsonl and prompts.jsonl to."""
    columns: Columns = Field(default_factory=dict)
    """Fields of the logs that have other names, as THEIRS=OURS, as in `assent monitor`."""
    logs: str
    """Logs: a file or a folder, as `assent monitor` reads them."""
    kind: Literal["pairs", "thumbs", "prompts"]
    """pairs: of each prompt with differently rated answers, the best and the worst (weighted: all that
    were rated differently). thumbs: each rated answer. prompts: the prompts alone, to sample new answers."""
    baseline: str | None = None
    """Logs or run of the release, whose prompts are compared on too (era: release; those of the logs have era: now)."""
    since: str | None = None
    """Use ratings from this day (UTC, 2026-11-30) on."""
    up_above: float | None = None
    """A rating above this is a thumb up. Only with thumbs, which need it."""
    logged: bool = False
    """Keep the logged log-probabilities of the answers, for `reference: logged`. Only with pairs."""
    weighted: bool = False
    """Weight each row by one over the probability with which it was rated (`propensity` of the logs)."""
    as_text: bool = False
    """Write prompts and answers as plain text: for a model without a chat template."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the prompts to hold out, half for eval.jsonl and half for prompts.jsonl."""
    eval_prompts: Positive = 400
    """Most prompts of each era to compare models on, drawn at random."""
    seed: NonNegative = 0
    """Seed that chooses which prompts are held out and compared on."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if (self.up_above is not None) != (self.kind == "thumbs"):
            raise ValueError("up_above and thumbs go together: give both, or neither")
        if self.logged and self.kind != "pairs":
            raise ValueError("logged has an effect with pairs alone: leave it out")
        if self.kind == "prompts" and (self.weighted or self.since is not None):
            raise ValueError("weighted and since are about ratings, and prompts have none: leave them out")
        return self
