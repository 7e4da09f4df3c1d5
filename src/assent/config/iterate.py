"""Configuration of `iterate`, of the file that it reads, and of the steps that only a loop needs. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.options import NonNegative, Options, Positive


class IterateConfig(Options):
    """Repeats a round of stages: sample, collect preferences, train, evaluate. Each round starts from the policy that
    the round before trained.

    It stops by rule: after the last round, when a round brings no gain that its interval can tell from none, when the
    policy is further from the start than the KL budget, or when the labels are spent. Finished stages are not repeated,
    and an interrupted loop continues.
    """

    file: str
    """Loop file to run (docs/iterate.md)."""
    output_dir: str | None = None
    """Folder of the results. Default: the one in the file."""
    seed: NonNegative | None = None
    """Seed of the loop; round N has this plus N. Default: the one in the file."""
    rounds: Positive | None = None
    """Most rounds. Default: the number in the file. With a larger number the same command continues a loop that has
    used up its rounds."""
    set: list[str] = Field(default_factory=list)
    """Override an option of a stage: STAGE.OPTION=VALUE. Repeat for several."""


class StopRules(Options):
    """When to stop before the last round."""

    no_gain: bool = True
    """Stop after a round whose win rate against the policy before it has an interval that reaches down to ½ or below.
    Its policy is not taken."""
    judge_fault: bool = True
    """Stop after a round whose judge has a fault: it prefers answers that are known to be bad, or agrees with people by
    chance. Its policy is not taken."""
    kl_nats: Annotated[float, Field(gt=0)] | None = None
    """Stop when a round's policy is further than this from the start, per completion. Its policy is not taken."""
    labels: Positive | None = None
    """Stop when the rounds have used this many labels. The last round's policy is taken if no other rule forbids it."""


class LoopFile(Options):
    """A loop as written in its file."""

    name: str
    """Its name in the report."""
    output_dir: str | None = None
    """Folder of its results; --output-dir overrides it."""
    seed: NonNegative = 0
    """Seed of the loop; --seed overrides it."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Values that stages' options take as ${NAME}."""
    before: list[dict[str, Any]] = Field(default_factory=list)
    """Stages that run once, before the first round."""
    policy: str
    """Model that the first round starts from: a folder, a hub name, or ${STAGE.OUTPUT} of a stage of `before`."""
    rounds: Positive = 3
    """Most rounds."""
    stages: list[dict[str, Any]] = Field(min_length=1)
    """The stages of a round. ${policy} is the model of the round before, ${start} that of the first, ${round} the
    round's number, ${before.NAME.OUTPUT} the output of a stage of `before`."""
    trained: str
    """The round's new policy: ${STAGE.model_path}."""
    labels: str | None = None
    """The file with the labels that a round used: ${STAGE.OUTPUT}. Its rows are counted."""
    evaluation: str
    """The round's evaluation: ${STAGE.evaluation}. It compares the policies `new` and `before`, which is the baseline;
    for the KL its reference is `start`."""
    stop: StopRules = Field(default_factory=StopRules)
    """When to stop before the last round."""

    @model_validator(mode="after")
    def _labels_are_counted_somewhere(self) -> Self:
        if self.stop.labels is not None and self.labels is None:
            raise ValueError("stop.labels has no effect without labels: name the file with a round's labels")
        return self


class CollectConfig(Options):
    """Puts preferences from several files and from people's store into one, and waits for what is not there yet."""

    output_dir: str
    """Folder to write labels.jsonl to."""
    files: list[str] = Field(default_factory=list)
    """Files of comparisons or rankings: a judge's, people's export, or both. If one is missing, the loop stops and
    waits; once the file is there, the same command continues."""
    store: str | None = None
    """Store of `assent label` where people compare or rank `completions`. Until all reviews of them are done, the loop
    stops and waits."""
    completions: str | None = None
    """What people are to label: named in the message, and with a store the completions whose labels are taken."""

    @model_validator(mode="after")
    def _labels_come_from_somewhere(self) -> Self:
        if not self.files and self.store is None:
            raise ValueError("collect needs labels: give files, or store and completions")
        if self.store is not None and self.completions is None:
            raise ValueError("store needs completions: it may hold labels of others too")
        return self


class SandboxAnnotateConfig(DataOptions):
    """The sandbox's raters compare completions of its prompts."""

    output_dir: str
    """Folder to write labels.jsonl to."""
    data: str
    """Completions of the sandbox's prompts, with the prompts' columns, as sample writes them."""
    raters: Literal["gold", "crowd", "judge"] = "gold"
    """Who labels. gold: the gold reward's order with Bradley–Terry noise; crowd: three groups of people; judge: an AI
    judge with its biases."""
    world_seed: NonNegative = 0
    """Seed of the world, as in the step that wrote the prompts."""
    seed: NonNegative = 0
    """Seed of the labels."""
    votes: Positive = 1
    """Labels for each prompt; each is a row of its own."""
