"""Configuration of `plan`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from assent.config.data import Columns, read_pairs
from assent.config.loading import nearest
from assent.config.options import Fraction
from assent.config.plan_needs import NeedsOptions

Licences = Annotated[dict[str, str], BeforeValidator(read_pairs)]
Constraint = Literal["no-sampling", "offline-only", "regulated", "high-stakes", "one-answer", "no-new-labels"]
Method = Literal["sft", "dpo", "pl-dpo", "kto", "best-of-n", "ppo", "grpo", "online-dpo", "iterated-dpo", "collect"]
Problem = Literal["wrong-facts", "ignores-instructions", "rude", "unsafe", "too-long", "stale"]


FAULTS = ("under_refusal", "over_refusal", "harm_in_answer", "refused", "unreadable")
"""Names that a measure of safety gives its figures (evaluation/safety.py). A chat model as measure has no others."""


class PlanConfig(NeedsOptions):
    """Says which method the data supports, and why, and writes the pipeline file that runs it. Nothing is trained.

    It reads the data and the model's small files, no weights.
    """

    split: str | None = None
    """Split of the data to read, for hub names and folders that have several. Default: train, or the only one.
    Beside these, a file is read whole."""
    columns: Columns = Field(default_factory=dict)
    """Columns of the data that have other names, as THEIRS=OURS with commas between: question=prompt,reply=completion.
    Of several files, each is read with those that it has; a column that none of them has is an error."""
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
    max_fault: dict[str, Fraction] = Field(default_factory=dict)
    """Largest share of each fault of safety that the release gate lets through: --max-fault.under_refusal 0.02. Needs
    --judge, --safety, and gates (--constraint regulated or high-stakes, or --blueprint)."""
    slices: tuple[str, ...] = ()
    """Columns of the prompts by which the evaluation shows its figures. Give the flag once for each. Needs --judge."""
    constraint: tuple[Constraint, ...] = ()
    """What is ruled out. no-sampling: the model cannot answer while it trains. offline-only: nothing new is sampled or
    labelled before the release. regulated: every answer to train on is in a signed file, and gates stand before the
    release. high-stakes: a wrong answer costs far more than a dull one. one-answer: serving has time for one answer.
    no-new-labels: nobody labels more. Give the flag once for each."""
    problem: tuple[Problem, ...] = ()
    """What the deployed model does wrong. The plan says which data mends it, and what no preference method mends. Give
    the flag once for each."""
    method: Method | None = None
    """Plan this method, whatever the rules prefer; the plan says what they would."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Half-width that the interval of the win rate should have; the plan says how many prompts that takes."""
    frontier: str | None = None
    """Measured points, one row each with settings and figures (JSONL, JSON, CSV); or frontier.json of `assent
    frontier`. The best that keeps every --limit gives the settings. Needs --maximise."""
    maximise: str | None = None
    """Figure of --frontier to maximise."""
    limit: tuple[str, ...] = ()
    """Constraint of the product on a figure of --frontier: tokens<=40, or helpful>=0.5. An interval's end counts, where
    the point has one (NAME_low, NAME_high). Give the flag once for each."""
    output: str | None = None
    """Write the pipeline file here, for `assent run`. It must not exist yet."""
    blueprint: str | None = None
    """Write a pipeline with gates and a sign-off (pipeline.yaml), and the document about it for a regulated setting
    (blueprint.md), into this folder, which must not exist yet. Instead of --output."""
    data_license: Licences = Field(default_factory=dict)
    """Licence of each file of the data, as FILE=LICENCE with commas between, for --blueprint, which needs all of
    them."""
    owner: str | None = None
    """Who answers for the release and signs it, for --blueprint."""

    @property
    def has_gates(self) -> bool:
        return self.update or self.blueprint is not None or bool({"regulated", "high-stakes"} & set(self.constraint))

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if (self.frontier is None) != (self.maximise is None) or (self.limit and self.frontier is None):
            raise ValueError("frontier, maximise and limit go together: give the points, and what to maximise")
        if self.output is not None and self.blueprint is not None:
            raise ValueError("output and blueprint both write a pipeline file: give one of them")
        idle = [name for name in ("safety", "slices", "max_fault") if getattr(self, name)]
        if idle and self.judge is None:
            raise ValueError(f"{', '.join(idle)} has no effect without judge: give one, or leave it out")
        if self.update:
            return self._of_update()
        if self.max_fault and not self.has_gates:
            raise ValueError("max_fault has no effect without gates: give constraint regulated, or leave it out")
        if self.max_fault and self.safety is None:
            raise ValueError("max_fault limits what only safety measures: give one, or leave it out")
        if self.blueprint is None:
            if given := [name for name in ("data_license", "owner") if getattr(self, name)]:
                raise ValueError(f"{', '.join(given)} has no effect without blueprint: give both, or leave it out")
            return self
        if missing := [path for path in self.data if path not in self.data_license]:
            raise ValueError(f"data_license lacks {', '.join(missing)}: a blueprint states the licence of all data")
        if unknown := [path for path in self.data_license if path not in self.data]:
            raise ValueError(f"data_license names {unknown[0]}, which is not among the data")
        if self.owner is None:
            raise ValueError("a blueprint names who answers for the release: give owner")
        if self.judge is None:
            raise ValueError("a blueprint's release gate reads an evaluation: give judge")
        return self

    def _of_update(self) -> Self:
        if (self.output is None) != (self.judge is None):
            raise ValueError("update writes a file whose gates need a judge: give output and judge, or neither")
        if self.reward is not None and self.output is None:
            raise ValueError("reward rates new samples in the file that output names: give output, or leave it out")
        return self

    @model_validator(mode="after")
    def _faults_have_figures(self) -> Self:
        """A fault that nobody measures would keep the gate shut after all the training. A function may have names of
        its own, which are not near those of all measures."""
        is_chat = (self.safety or "").startswith(("http://", "https://"))
        for name in self.max_fault:
            near = nearest(name, FAULTS)
            if name not in FAULTS and (near is not None or is_chat):
                known = f"did you mean {near}?" if near is not None else f"safety measures {', '.join(FAULTS)}"
                raise ValueError(f"max_fault names {name}, which no measure of safety is known to give: {known}")
        return self

    @model_validator(mode="after")
    def _judge_is_not_the_reward(self) -> Self:
        if self.judge is not None and self.judge == self.reward:
            raise ValueError("judge is the reward that training sees, which every gain would please: give another")
        for name in ("data", "constraint", "problem"):
            given = getattr(self, name)
            if twice := [one for one in given if given.count(one) > 1]:
                raise ValueError(f"{name} names {twice[0]} twice: give it once")
        return self
