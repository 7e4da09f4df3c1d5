"""What a rule of the doctor may look at: one run, without torch and numpy, whoever's trainer wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from assent.diagnosis.objective import UNKNOWN, Objective, infer_objective
from assent.runs.reading import Series

LARGEST = 1e60
"""What is beyond is infinite in float32, and its square overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run, as far as it is known. Everything may be absent.

    series          metrics by our names (assent.metrics), finite values only, in the order of the steps
    not_finite      steps at which a metric was NaN, infinite or absurdly large
    config          the run's options by our names
    stage           the command that trains like this: sft, reward, dpo, kto, ppo …
    objective       the loss, stated or inferred
    source          whose log it is: assent, or the other trainer's name
    status          finished, running, stopped; None: the log does not say
    planned_steps   updates that the run was to make
    rewinds         how often the steps of the log go back: a resumed run, or two runs in one file
    silent_seconds  time since the log's last line, for a run that is not finished, and for another trainer's log
    is_alive        whether a process still has it open, for a run that is not finished
    reading         what was noticed while the log was read, for people
    data, models    what rules of data and probes read; None unless they were asked for
    logs            what rules of a deployed model's logs read (`assent.diagnosis.drift`)
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    not_finite: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    stage: str | None = None
    objective: Objective = UNKNOWN
    source: str = "assent"
    status: str | None = None
    planned_steps: int | None = None
    rewinds: int = 0
    silent_seconds: float | None = None
    is_alive: bool | None = None
    reading: tuple[str, ...] = ()
    data: Any = None
    models: Any = None
    logs: Any = None

    def find(self, names: str) -> Series | None:
        """The series of a metric; of `a or b`, the first that was logged."""
        return next((self.series[name] for name in names.split(" or ") if name in self.series), None)

    def __getitem__(self, names: str) -> Series:
        found = self.find(names)
        if found is None:
            raise KeyError(names)
        return found

    def named(self, names: str) -> str:
        """Of `a or b`, the first that was logged: for evidence."""
        return next((name for name in names.split(" or ") if name in self.series), names)

    def matching(self, start: str) -> dict[str, Series]:
        """Series whose names begin with `start`."""
        return {name: series for name, series in self.series.items() if name.startswith(start)}

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the run; the default where the configuration is not known or has none. A verdict, a cause or
        a change must not rest on a default that stands for what is not known: ask `tells` first."""
        value = self.config.get(name)
        return default if value is None else value

    def tells(self, name: str) -> bool:
        """Whether the option's value is known. A run of ours names every option that applies to it, so that one it
        does not name has no effect there; another trainer's log names few, and one that is absent may be anything."""
        return name in self.config or (self.source == "assent" and bool(self.config))

    @property
    def steps(self) -> int:
        """The last step that anything was logged at."""
        return max((series.steps[-1] for series in self.series.values()), default=0)


def make_case(
    columns: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    config: Mapping[str, Any] | None = None,
    stage: str | None = None,
    **known: Any,
) -> Case:
    """A case from columns of (steps, values) by our names. Stage and objective are inferred where they are not stated.

    Values are put in the order of their steps; of two values at one step the later one counts.
    """
    series: dict[str, Series] = {}
    not_finite: dict[str, tuple[int, ...]] = {}
    for name, (steps, values) in columns.items():
        finite = _in_order(steps, values)
        if not all(map(is_number, finite.values)):
            pairs = list(zip(finite.steps, finite.values, strict=True))
            not_finite[name] = tuple(step for step, value in pairs if not is_number(value))
            kept = [(step, value) for step, value in pairs if is_number(value)]
            finite = Series(tuple(step for step, _ in kept), tuple(value for _, value in kept))
        if finite.values:
            series[name] = finite
    longest = max((steps for steps, _ in columns.values()), key=len, default=())
    config = _readable(config or {})
    stage = stage or infer_stage(series)
    return Case(
        series=series,
        not_finite=not_finite,
        config=config,
        stage=stage,
        objective=infer_objective(config, stage, series),
        rewinds=sum(after < before for before, after in pairwise(longest)),
        **known,
    )


NUMBERS = frozenset(
    {"beta", "label_smoothing", "learning_rate", "kl_coef", "num_train_epochs", "num_ppo_epochs", "num_mini_batches",
     "warmup_ratio", "warmup_steps", "max_new_tokens", "target_kl", "center_rewards_coefficient", "batch_size",
     "max_steps", "total_steps", "critic_learning_rate", "missing_eos_penalty", "entropy_coef", "reference_sync_steps"}
)  # fmt: skip
"""Options that rules compute with: what is no number, in a file that anybody wrote, is as good as not given."""


def _readable(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in NUMBERS or _is_option(value)}
    if not isinstance(kept.get("hyperparameters", {}), Mapping):
        del kept["hyperparameters"]
    elif "hyperparameters" in kept:
        kept["hyperparameters"] = _readable(kept["hyperparameters"])
    return kept


def _is_option(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and is_number(value)


def is_number(value: float) -> bool:
    """Neither NaN, nor infinite, nor absurdly large."""
    return -LARGEST < value < LARGEST


def _in_order(steps: Sequence[int], values: Sequence[float]) -> Series:
    if all(after > before for before, after in pairwise(steps)):
        return Series(tuple(steps), tuple(values))
    by_step = dict(zip(steps, values, strict=True))
    return Series(tuple(sorted(by_step)), tuple(by_step[step] for step in sorted(by_step)))


SIGNS_OF_STAGE = (
    ("ppo", ("val/ratio", "loss/value_avg", "critic/loss", "val/explained_variance")),
    ("kto", ("kl_baseline",)),
    ("grpo", ("frac_reward_zero_std", "objective/scores", "rollout/completion_length")),
    ("dpo", ("rewards/margins", "eval_rewards/margins", "logps/chosen", "eval_logps/chosen", "rewards/accuracies")),
    ("reward", ("margin", "min_reward", "eval_margin", "accuracy", "eval_accuracy")),
)
"""Metrics that only one kind of training writes, in the order in which they are asked."""


def infer_stage(series: Mapping[str, object]) -> str | None:
    """The command that would write these metrics; None where none is recognised."""
    for stage, signs in SIGNS_OF_STAGE:
        if any(sign in series for sign in signs):
            return stage
    return "sft" if "mean_token_accuracy" in series else None


def example(
    series: Mapping[str, Sequence[float] | Mapping[int, float]],
    *,
    stage: str,
    status: str | None = None,
    planned_steps: int | None = None,
    is_alive: bool | None = None,
    silent_seconds: float | None = None,
    rewinds: int = 0,
    **config: Any,
) -> Case:
    """A case written down by hand, for a rule's FIRES and QUIET: values at steps 1, 2, 3 …, or at the steps named.

    What is no field of a case is an option of the run.
    """
    columns: dict[str, tuple[Sequence[int], Sequence[float]]] = {}
    for name, values in series.items():
        by_step = values if isinstance(values, Mapping) else dict(enumerate(values, start=1))
        columns[name] = (list(by_step), list(by_step.values()))
    known: dict[str, Any] = {"status": status, "planned_steps": planned_steps, "is_alive": is_alive}
    case = make_case(columns, config=config, stage=stage, silent_seconds=silent_seconds, **known)
    return replace(case, rewinds=rewinds)
