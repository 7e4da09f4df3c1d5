"""Configuration of `plan`. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from assent.config.data import Columns
from assent.config.options import Options

Constraint = Literal["no-sampling", "offline-only", "regulated", "high-stakes", "one-answer", "no-new-labels"]
Problem = Literal["wrong-facts", "ignores-instructions", "rude", "unsafe", "too-long", "stale"]


class PlanConfig(Options):
    """Says which method the data supports, and why, and writes the pipeline file that runs it. Nothing is trained.

    It reads the data and the model's small files, no weights.
    """

    model: str = ""
    """Model to start from: a folder or a hub name."""
    data: tuple[str, ...] = ()
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
    hardware: str | None = None
    """Also plan memory, time and cost, on this device: auto (this machine), cpu, a name as h100-80gb, or several of one
    as 8xh100-80gb. It reads the data with the model's tokenizer, which takes some seconds."""
    deadline: Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|min|h|d)$")] | None = None
    """Time that the training may take: 30m, 8h, 2d. Only with --hardware."""
    price: Annotated[float, Field(gt=0)] | None = None
    """Price of one device for one hour, as 2.5 or 2.5/h. Only with --hardware."""
    budget: Annotated[float, Field(gt=0)] | None = None
    """Money that the training may cost. Needs --price."""
    measure: bool = False
    """Run two real steps of the training in a process of their own, and correct the plan by them. Needs --hardware auto
    and the model's weights."""
    calibrate: bool = False
    """Measure how fast this machine trains and samples, in under a minute, keep it for later plans and runs, and plan
    nothing."""
    output: str | None = None
    """Write the pipeline file here, for `assent run`. It must not exist yet."""

    @field_validator("price", mode="before")
    @classmethod
    def _price_is_for_an_hour(cls, value: Any) -> Any:
        return re.sub(r"\s*/\s*h$", "", value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _needs_have_effect(self) -> Self:
        """`calibrate` takes nothing else; the others need a device to plan for."""
        if self.calibrate:
            if idle := sorted(self.model_fields_set - {"calibrate"}):
                raise ValueError(f"calibrate measures this machine and plans nothing: leave out {', '.join(idle)}")
            return self
        if not self.model or not self.data:
            raise ValueError(f"{'data' if self.model else 'model'} is missing: give --model and --data")
        for name in ("deadline", "price", "budget", "measure"):
            if getattr(self, name) and self.hardware is None:
                raise ValueError(f"{name} has no effect without hardware: give --hardware auto, or leave it out")
        if self.budget is not None and self.price is None:
            raise ValueError("budget needs price: give the price of one device for an hour")
        if self.measure and self.hardware != "auto":
            raise ValueError(f"measure runs on this machine: give --hardware auto, not {self.hardware}")
        return self

    @property
    def deadline_seconds(self) -> float | None:
        if self.deadline is None:
            return None
        number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", self.deadline).groups()  # type: ignore[union-attr]
        return float(number) * {"m": 60, "min": 60, "h": 3600, "d": 86400}[unit]

    @model_validator(mode="after")
    def _judge_is_not_the_reward(self) -> Self:
        if self.judge is not None and self.judge == self.reward:
            raise ValueError("judge is the reward that training sees, which every gain would please: give another")
        for name in ("data", "constraint", "problem"):
            given = getattr(self, name)
            if twice := [one for one in given if given.count(one) > 1]:
                raise ValueError(f"{name} names {twice[0]} twice: give it once")
        return self
