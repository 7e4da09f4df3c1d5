"""The held-out figures of a run, which its report leads with. A last batch is noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from assent.reporting.formatting import nats, number, percent
from assent.reporting.sources import Stage
from assent.runs.files import as_number


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A figure of the model that the run kept. `ends` is its interval as text, or ""."""

    title: str
    sentence: str
    value: str
    ends: str
    start: str = ""
    """The value before the first step, if it was measured."""
    unit: str = ""
    against_coin: str = ""
    """Of an accuracy on pairs whose interval is not above one half: a sentence that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    metric: str
    title: str
    sentence: str
    shown: Callable[[float | None], str] = number
    unit: str = ""
    of_pairs: bool = False
    """Whether a coin would be right half of the time."""


_KINDS = (
    _Kind(
        metric="eval_rewards/accuracies",
        title="Accuracy",
        sentence="{name} ranks {value} of held-out pairs as labelled",
        shown=percent,
        of_pairs=True,
    ),
    _Kind(
        metric="eval_accuracy",
        title="Accuracy",
        sentence="{name} ranks {value} of held-out pairs as labelled",
        shown=percent,
        of_pairs=True,
    ),
    _Kind(
        metric="eval_label_accuracy",
        title="Accuracy",
        sentence="{name} judges {value} of held-out labels as given",
        shown=percent,
    ),
    _Kind(
        metric="eval_objective/scores",
        title="Reward",
        sentence="the answers of {name} to held-out prompts score {value}",
    ),
    _Kind(
        metric="eval_label_error", title="Error", sentence="the squared error of {name} on held-out labels is {value}"
    ),
    _Kind(metric="eval_loss", title="Loss", sentence="the held-out loss of {name} is {value}"),
    _Kind(
        metric="eval_kl",
        title="KL to the reference",
        sentence="{name} is {value} nats from the reference on held-out prompts",
        shown=nats,
        unit="nats",
    ),
)
"""The one that says most comes first."""


def held_out(stage: Stage) -> list[HeldOut]:
    """The held-out figures that the stage measured, at most one of each title."""
    found: dict[str, HeldOut] = {}
    for kind in _KINDS:
        value = of_kept(stage, kind.metric)
        if value is None or kind.title in found:
            continue
        low, high = (of_kept(stage, kind.metric + end) for end in ("_low", "_high"))
        ends = "" if low is None or high is None else f"{kind.shown(low)} to {kind.shown(high)}"
        series = stage.metrics.get(kind.metric)
        first = kind.shown(series.values[0]) if series is not None and series.steps[0] == 0 else ""
        text, name = kind.shown(value), stage.name
        sentence = kind.sentence.format(name=name, value=text) + (f" (95% interval {ends})" if ends else "")
        sentence += f"; before training it was {first}" if first else ""
        sentence = sentence if sentence.startswith(name) else sentence[0].upper() + sentence[1:]
        against_coin = _against_coin(low, high) if kind.of_pairs else ""
        found[kind.title] = HeldOut(
            title=kind.title,
            sentence=" ".join(filter(None, [f"{sentence}.", against_coin])),
            value=text,
            ends=ends,
            start=first,
            unit=kind.unit,
            against_coin=against_coin,
        )
    return list(found.values())


def _against_coin(low: float | None, high: float | None) -> str:
    if low is None or high is None or low > 0.5:
        return ""
    if high < 0.5:
        return "That is worse than a coin: it ranks pairs the wrong way round."
    return "That is not shown to be better than a coin: the interval includes 50%."


def of_kept(stage: Stage, metric: str) -> float | None:
    """The figure of the model that the run has kept, which need not be the last one; while it runs, the newest."""
    metrics = stage.result.get("metrics")
    value = as_number(metrics.get(metric)) if isinstance(metrics, dict) else None
    return stage.last(metric) if value is None else value
