"""The verdict: one sentence with its interval, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assent.reporting.choice import Choice, choice_of
from assent.reporting.formatting import label, number, percent
from assent.reporting.frontier import sentence as sentence_of
from assent.reporting.held_out import held_out
from assent.reporting.progress import ends_of, of_steps, trained_stage
from assent.reporting.sources import Source, Stage

FAR_FROM_REFERENCE = 10.0
"""Nats per completion beyond which a higher score may only come from leaving the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence also says what `tone` says."""

    sentence: str
    tone: Literal["better", "worse", "open", "plain", "stopped"]
    beside: tuple[str, ...] = ()
    winner: str | None = None
    """The policy that the sentence is about; samples compare it with the baseline."""
    mark: str = "Training"
    """What stands over a sentence of tone `plain`."""


def verdict_of(source: Source) -> Verdict:
    """A fault that ended the pipeline; otherwise from the evaluation if there is one, or from training, with a note
    that this is not an evaluation."""
    if failed := [stage for stage in source.stages if stage.fault]:
        advice = "Nothing after it has run. The same command asks again, once what failed has changed."
        return Verdict(sentence=f"{failed[0].fault}.", tone="stopped", beside=(advice,))
    if source.evaluation is not None and _compared(source.evaluation):
        return _from_evaluation(source.evaluation)
    unfinished = [stage for stage in source.stages if not stage.finished]
    if unfinished:
        stage = unfinished[0]
        sentence = f"Unfinished: {stage.name} is at step {stage.step}."
        advice = "If it was interrupted, the same command continues from its last checkpoint."
        if stage.stopped:
            sentence = f"Unfinished: a finding stopped {stage.name} after step {stage.step}."
            advice = "Below is what was found and what to change. The same command with --no-stop continues."
        return Verdict(sentence=sentence, tone="plain", beside=(advice,))
    if source.frontier is not None and source.frontier["methods"]:
        advice = (
            "This is about distance, not a comparison with a baseline: for that, evaluate the model that you choose."
        )
        return Verdict(sentence=sentence_of(source.frontier), tone="plain", beside=(advice,))
    if choice := choice_of(source.stages):
        return _from_choice(choice, source.stages)
    trained = trained_stage(source.stages)
    if trained is None:
        return Verdict(sentence="Nothing was trained here.", tone="plain")
    return _from_training(trained)


def _compared(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The policies with a win rate against the baseline."""
    return [policy for policy in evaluation["policies"] if policy["sampled"]["win_rate"] is not None]


def _from_evaluation(evaluation: Mapping[str, Any]) -> Verdict:
    def low_end(policy: Mapping[str, Any]) -> float:
        return float(policy["sampled"]["win_rate"]["low"] or 0.0)

    policies = [policy for policy in _compared(evaluation) if policy["name"] != evaluation["reference"]]
    policies = policies or _compared(evaluation)
    best = max(policies, key=low_end)
    rate, name, baseline = best["sampled"]["win_rate"], label(best["name"]), label(evaluation["baseline"])
    confidence = percent(rate["confidence"])
    interval = f"({confidence} interval {percent(rate['low'])} to {percent(rate['high'])})"
    kl = best["kl"]
    distance = f", at a KL of {kl['value']:.1f} nats" if kl is not None else ""
    if rate["low"] > 0.5:
        tone: Literal["better", "worse", "open"] = "better"
        sentence = f"{name} beats {baseline} {percent(rate['value'])} of the time {interval}{distance}."
    elif rate["high"] < 0.5:
        tone = "worse"
        sentence = (
            f"No method beats {baseline}: the best one, {name}, wins {percent(rate['value'])} of the time {interval}."
        )
    else:
        tone = "open"
        sentence = (
            f"No method clearly beats {baseline}: the best one, {name}, wins {percent(rate['value'])} "
            f"of the time {interval}, which includes 50%."
        )
    if greedy := _greedy_disagrees(best):
        tone = "open" if tone == "better" else tone
        sentence += f" {greedy}"
    prompts = f"Answers to {evaluation['num_prompts']:,} prompts, sampled at temperature 1"
    beside = [f"{prompts} and scored by {evaluation['scorer']}; a tie counts half; the interval is over prompts."]
    if len(policies) > 1:
        beside.append(f"{name} is the best of {len(policies)} methods by the lower end of the interval.")
    if kl is not None and kl["value"] > FAR_FROM_REFERENCE:
        beside.append(
            f"It is more than {FAR_FROM_REFERENCE:g} nats from the reference: read its samples before you rely on it."
        )
    return Verdict(sentence=sentence, tone=tone, beside=tuple(beside), winner=best["name"])


def _greedy_disagrees(policy: Mapping[str, Any]) -> str:
    """A sentence if greedy answers point to the other side of 50% than sampled ones and at least one of the two
    intervals excludes 50%; otherwise "". Sampled and greedy answers are the same policy, used in two ways."""
    sampled, greedy = policy["sampled"]["win_rate"], (policy.get("greedy") or {}).get("win_rate")
    if greedy is None or (sampled["value"] - 0.5) * (greedy["value"] - 0.5) >= 0:
        return ""
    low, high = (0.0 if greedy["low"] is None else greedy["low"]), (1.0 if greedy["high"] is None else greedy["high"])
    is_clear = low > 0.5 or high < 0.5
    if not is_clear and (sampled["low"] or 0.0) <= 0.5 <= (1.0 if sampled["high"] is None else sampled["high"]):
        return ""
    rate = f"greedy ones win {percent(greedy['value'])} of the time ({percent(low)} to {percent(high)})"
    return f"Its greedy answers disagree: {rate}." if is_clear else f"Its greedy answers do not show this: {rate}."


def _from_choice(choice: Choice, stages: Sequence[Stage]) -> Verdict:
    """Of best-of-n, which trains nothing: what its own reward gains, and how right a reward model of the same pipeline
    is on held-out pairs."""
    beside = ["The gain is by the reward that chose. To know whether people gain too, evaluate the kept answers."]
    figures = [figure for stage in stages if stage.command == "reward" for figure in held_out(stage)[:1]]
    beside = [*(figure.sentence for figure in figures), *beside]
    is_open = choice.low <= 0 or any(figure.against_coin for figure in figures)
    return Verdict(
        sentence=choice.sentence, tone="open" if is_open else "plain", beside=tuple(beside), mark="Best of N"
    )


def _from_training(stage: Stage) -> Verdict:
    """Of a run without an evaluation: its held-out figure, or the move of its most important curve, as means."""
    advice = "to know whether the model got better, evaluate it against its start."
    if figures := held_out(stage):
        beside = f"Measured on held-out data, of the model that the run kept: {advice}"
        tone: Literal["open", "plain"] = "open" if figures[0].against_coin else "plain"
        return Verdict(sentence=figures[0].sentence, tone=tone, beside=(beside,))
    beside = f"These are training figures only, without held-out data: {advice}"
    return Verdict(sentence=_training_sentence(stage), tone="plain", beside=(beside,))


def _training_sentence(stage: Stage) -> str:
    """The start and end of the stage's most important curve, each as a mean of several steps."""
    for metric, name, digits in (
        ("objective/scores", "reward", 2),
        ("rewards/margins", "margin", 2),
        ("loss", "loss", 3),
    ):
        series = stage.metrics.get(metric)
        parts = ends_of(series) if series is not None else None
        if series is not None and parts is not None:
            first, last = (number(value, digits) for value in parts[:2])
            sentence = f"The {name} of {stage.name} went from {first} to {last}"
            kl = ends_of(stage.metrics["objective/kl"]) if "objective/kl" in stage.metrics else None
            distance = f", {kl[1]:.1f} nats from the reference" if kl is not None else ""
            return f"{sentence} by step {series.steps[-1]:,}{distance} ({of_steps(parts[2])})."
    return f"{stage.name} finished."
