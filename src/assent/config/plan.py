"""Configuration of `plan`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import Columns
from assent.config.options import Options

Constraint = Literal["no-sampling", "offline-only", "regulated", "high-stakes", "one-answer", "no-new-labels"]
Problem = Literal["wrong-facts", "ignores-instructions", "rude", "unsafe", "too-long", "stale"]


class PlanConfig(Options):
    """Says which method the data supports, and why, and writes the pipeline file that runs it. Nothing is trained.

    It reads the data and the model's small files, no weights.
    """

    model: str
    """Model to start from: a folder or a hub name."""
    data: tuple[str, ...] = Field(min_length=1)
    """Data at hand: files, folders or hub names of any kind (demonstrations, comparisons, rankings, thumbs, scores,
    prompts). Give the flag once for each."""
    columns: Columns = Field(default_factory=dict)
    """Columns of the data that have other names, as THEIRS=OURS with commas between: question=prompt,reply=completion.
    They hold for all data; a file without any of these columns is read as it is."""
    start: Literal["auto", "base", "instruct"] = "auto"
    """Whether the model follows instructions already. auto: instruct, if its tokenizer has a chat template."""
    feedback: Literal["fixed", "fresh"] = "fixed"
    """fixed: the data is all there will be. fresh: people or a judge can label new answers of the model."""
    reward: str | None = None
    """A reward that exists already: a reward model's folder, or module:function that checks an answer."""
    judge: str | None = None
    """What scores answers in the evaluation of the pipeline file, as --judge of `assent eval`. It must not be the
    reward that training sees. Default: the file measures only held-out data."""
    safety: str | None = None
    """What decides in that evaluation whether an answer is safe, as --safety of `assent eval`."""
    constraint: tuple[Constraint, ...] = ()
    """What is ruled out. no-sampling: the model cannot answer while it trains. offline-only: nothing new is sampled or
    labelled before the release. regulated: every answer to train on is in a signed file, and gates stand before the
    release. high-stakes: a wrong answer costs far more than a dull one. one-answer: serving has time for one answer.
    no-new-labels: nobody labels more. Give the flag once for each."""
    problem: tuple[Problem, ...] = ()
    """What the deployed model does wrong. The plan says which data mends it, and what no preference method mends. Give
    the flag once for each."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Half-width that the interval of the win rate should have; the plan says how many prompts that takes."""
    output: str | None = None
    """Write the pipeline file here, for `assent run`. It must not exist yet."""

    @model_validator(mode="after")
    def _judge_is_not_the_reward(self) -> Self:
        if self.judge is not None and self.judge == self.reward:
            raise ValueError("judge is the reward that training sees, which every gain would please: give another")
        for name in ("data", "constraint", "problem"):
            given = getattr(self, name)
            if twice := [one for one in given if given.count(one) > 1]:
                raise ValueError(f"{name} names {twice[0]} twice: give it once")
        return self
