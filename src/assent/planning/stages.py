"""The stages that carry out a choice: for each, its command, its options and why it is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from assent.errors import ConfigError
from assent.planning.choice import Choice
from assent.planning.facts import KINDS, Source
from assent.planning.starting import STARTS

BATCH, NUM_COMPLETIONS, BEST_OF = 32, 4, 16
WITH_ORDER = ("pairs", "rankings", "thumbs", "scores", "steps")
TRAINED_ON = {"sft": ("demonstrations", "pairs", "thumbs"), "dpo": ("pairs",), "pl-dpo": ("rankings",),
              "kto": ("thumbs", "pairs"), "iterated-dpo": ("pairs", "rankings")}  # fmt: skip
"""Kinds of data that a method trains on, the first that is there. The others learn from a reward."""


_STEPS = {"max_steps": 2, "batch_size": 4}
_ANSWERS = {"num_prompts": 4, "max_new_tokens": 8}
_ROUNDS = {"total_steps": 1, "batch_size": 4, "max_new_tokens": 8}
FAST: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("sft", "reward", "dpo", "kto"), _STEPS), **dict.fromkeys(("ppo", "grpo", "online-dpo"), _ROUNDS),
    "sample": _ANSWERS, "best-of-n": {**_ANSWERS, "n": 2}, "eval": {**_ANSWERS, "samples_per_prompt": 1},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of the file. `why` becomes its comment."""

    name: str
    command: str
    options: Mapping[str, Any]
    why: str

    @property
    def fast(self) -> dict[str, Any]:
        """Options of a smoke test, with `assent run --fast`."""
        found = dict(FAST.get(self.command, {}))
        return found | ({"best_of_n": 2} if "best_of_n" in self.options else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user gave, as far as stages need it. `length` is the longest sequence that the model reads."""

    model: str
    sources: Sequence[Source]
    choice: Choice
    length: int
    num_prompts: int
    """Prompts that the evaluation needs."""
    reward: str | None = None
    judge: str | None = None
    safety: str | None = None
    precision: float = 0.05
    slices: Sequence[str] = ()
    max_fault: Mapping[str, float] = field(default_factory=dict)
    sign_off: str | None = None
    """File in which somebody signs for the result; None: nobody has to."""

    @property
    def released(self) -> str:
        """The model that the pipeline's result stands on: of best-of-N, the reward model that chooses, and where no
        folder of a model does, the policy that answers."""
        if self.choice.method != "best-of-n":
            return "${train.model_path}"
        if self.reward is None:
            return "${reward.model_path}"
        if ":" not in self.reward:
            return self.reward
        return self.model if self.choice.first == "none" else "${sft.model_path}"

    @property
    def takes_chosen(self) -> bool:
        """Whether the file of chosen answers is what is evaluated and released. The evaluation chooses with a model
        alone, among answers at temperature 1: with a function or other settings it would be of another policy."""
        settings = self.choice.options.keys() & {"temperature", "top_p", "top_k"}
        return self.choice.method == "best-of-n" and (":" in str(self.reward) or bool(settings))

    @property
    def best_of(self) -> int:
        """Answers of which the best is kept: those of the measured frontier, or BEST_OF."""
        return int(self.choice.options.get("n", BEST_OF))

    def read(self, path: str) -> dict[str, Any]:
        """`data` of a stage, with its split and the names of its columns where the user gave it."""
        return {"data": path, **next((_reading(source) for source in self.sources if source.path == path), {})}

    def source(self, *kinds: str) -> Source | None:
        return largest(self.sources, kinds)


def _reading(source: Source) -> dict[str, Any]:
    """The options `split` and `columns` of a stage that reads this file."""
    split = {} if source.split is None else {"split": source.split}
    return {**split, "columns": dict(source.columns)} if source.columns else split


def largest(sources: Sequence[Source], kinds: Sequence[str]) -> Source | None:
    """The largest file of the first kind that is there."""
    for kind in kinds:
        if found := [source for source in sources if source.kind == kind]:
            return max(found, key=lambda source: source.count)
    return None


def main_source(sources: Sequence[Source], method: str) -> Source:
    """The file that the method learns from, and of which a part is held out."""
    found = largest(sources, (*TRAINED_ON.get(method, WITH_ORDER), "prompts", *KINDS))
    assert found is not None  # a file without rows is an error before this
    return found


def stages_of(wanted: Wanted) -> list[PlannedStage]:
    """The stages in order, ending with an evaluation where there is a judge."""
    choice = wanted.choice
    if choice.method == "collect":
        data = (wanted.source("prompts") or main_source(wanted.sources, choice.method)).path
        return [_sampled(wanted, wanted.model, data, "to be labelled: there is nothing to train on yet")]
    stages: list[PlannedStage] = []
    start = wanted.model
    main = main_source(wanted.sources, choice.method)
    stages.append(_split(wanted, main))
    if choice.first != "none":
        stages.append(_sft_first(wanted, main))
        start = "${sft.model_path}"
    stages += _method(wanted, main, start)
    if (evaluation := _evaluation(wanted, start)) is not None:
        stages.append(evaluation)
    return [_with_rate(stage) for stage in stages]


def _with_rate(stage: PlannedStage) -> PlannedStage:
    """A training stage with a learning rate to start from, and where it is from."""
    start = STARTS.get(stage.command)
    if start is None or "learning_rate" in stage.options:
        return stage
    why = (
        f"{stage.why}. The learning rate is that of {start.source}, for models of {start.sizes}; smaller ones bear more"
    )
    return replace(stage, options={**stage.options, "learning_rate": start.learning_rate}, why=why)


def held_out_share(rows: int) -> float:
    """A tenth; of small files more, up to three tenths, to have 200 rows."""
    return round(min(0.3, max(0.1, 200 / rows)), 2)


def _split(wanted: Wanted, main: Source) -> PlannedStage:
    return PlannedStage(
        name="split",
        command="data-split",
        options={"file": main.path, "fraction": held_out_share(main.count), **_reading(main)},
        why=f"holds out {held_out_share(main.count):.0%} of {main.count:,} {main.kind}, by conversation; no stage "
        "trains on them",
    )


def _sft_first(wanted: Wanted, main: Source) -> PlannedStage:
    demonstrations = wanted.source("demonstrations")
    if wanted.choice.first == "chosen":
        options: dict[str, Any] = {"data": "${split.train}", "eval_data": "${split.eval}"}
    elif demonstrations is None:
        raise ConfigError("the plan wants demonstrations first, and there are none")
    else:
        options = {**wanted.read(demonstrations.path), "eval_fraction": held_out_share(demonstrations.count)}
    return PlannedStage(
        name="sft",
        command="sft",
        options={"model": wanted.model, **options, "max_length": wanted.length, "batch_size": BATCH},
        why=next(r.text for r in wanted.choice.reasons if "start" in r.cites),
    )


def _trained(wanted: Wanted, start: str, main: Source) -> dict[str, Any]:
    """Options of a stage that trains on the split, and keeps the best weights by held-out loss, the start included."""
    steps = math.ceil(main.count * (1 - held_out_share(main.count)) / BATCH)
    return {
        "model": start,
        "data": "${split.train}",
        "eval_data": "${split.eval}",
        "max_length": wanted.length,
        "batch_size": BATCH,
        "eval_steps": max(1, steps // 4),
        "metric_for_best_model": "loss",
    }


def _method(wanted: Wanted, main: Source, start: str) -> list[PlannedStage]:
    method, choice = wanted.choice.method, wanted.choice
    why = choice.reasons[0].text
    if method in ("sft", "dpo", "pl-dpo", "kto", "iterated-dpo"):
        options = {**_trained(wanted, start, main), **choice.options}
        if method == "kto" and main.kind == "pairs":
            options["split_comparisons"] = True
        command = {"pl-dpo": "dpo", "iterated-dpo": "dpo"}.get(method, method)
        stages = [PlannedStage(name="train", command=command, options=options, why=why)]
        if method == "iterated-dpo":
            prompts = wanted.source("prompts")
            data = "${split.train}" if prompts is None else prompts.path
            why = "the next round: have people or a judge order these answers; then plan again, from this round's model"
            stages.append(_sampled(wanted, "${train.model_path}", data, why))
        return stages
    stages = []
    reward = wanted.reward
    if reward is None:
        stages.append(_reward(wanted, main, start))
        reward = "${reward.model_path}"
    prompts = wanted.source("prompts")
    data = "${split.train}" if prompts is None or prompts is main else prompts.path
    if method == "best-of-n":
        options = {"model": start, "data": "${split.eval}", "reward": reward, "max_length": wanted.length,
                   "max_new_tokens": _new_tokens(wanted), **choice.options, "n": wanted.best_of}  # fmt: skip
        return [*stages, PlannedStage(name="best", command="best-of-n", options=options, why=why)]
    options = {"model": start, **wanted.read(data), "reward": reward, "max_length": wanted.length,
               "max_new_tokens": _new_tokens(wanted), **choice.options}  # fmt: skip
    return [*stages, PlannedStage(name="train", command=method, options=options, why=why)]


REWARD_LOSSES = {"rankings": "plackett_luce", "scores": "mse", "thumbs": "bce"}


def _reward(wanted: Wanted, main: Source, start: str) -> PlannedStage:
    loss = {"loss_type": REWARD_LOSSES[main.kind]} if main.kind in REWARD_LOSSES else {}
    process = {"loss_type": "bce", "supervision": "process"} if main.kind == "steps" else {}
    heads = dict(wanted.choice.reward_options)
    return PlannedStage(
        name="reward",
        command="reward",
        options={**_trained(wanted, start, main), **loss, **process, **heads},
        why=f"the reward, learned from {main.kind}; its held-out accuracy says how far it can be believed",
    )


def _new_tokens(wanted: Wanted) -> int:
    """Room for an answer: a quarter of the length, at least 16 tokens."""
    return max(16, wanted.length // 4)


def _sampled(wanted: Wanted, model: str, data: str, why: str) -> PlannedStage:
    options = {"model": model, **wanted.read(data), "num_completions": NUM_COMPLETIONS, "max_length": wanted.length,
               "max_new_tokens": _new_tokens(wanted)}  # fmt: skip
    return PlannedStage(name="answers", command="sample", options=options, why=why)


def _evaluation(wanted: Wanted, start: str) -> PlannedStage | None:
    """None without a judge, where held-out data is all that is measured, and where only answers are sampled."""
    if wanted.judge is None:
        return None
    best = wanted.choice.method == "best-of-n"
    policies = {"start": wanted.model}
    if start != wanted.model:
        policies["sft"] = start
    baseline = "sft" if "sft" in policies else "start"
    options: dict[str, Any] = {"data": "${split.eval}", "judge": wanted.judge, "baseline": baseline}
    if wanted.takes_chosen:
        policies["trained"] = "${best.completions}"
    elif best and wanted.reward is None:
        options |= {"best_of_n": wanted.best_of, "reward_model": "${reward.model_path}"}
        options |= {"reward_pairs": "${split.eval}"} if wanted.source("pairs") is not None else {}
    elif best:
        options |= {"best_of_n": wanted.best_of, "reward_model": wanted.reward}
    else:
        policies["trained"] = "${train.model_path}"
    if wanted.safety is not None:
        options["safety"] = wanted.safety
    if wanted.slices:
        options["slices"] = list(wanted.slices)
    options |= {"num_prompts": wanted.num_prompts, "precision": wanted.precision} if len(policies) > 1 or best else {}
    options |= {"max_length": wanted.length, "max_new_tokens": _new_tokens(wanted)}
    return PlannedStage(
        name="evaluation",
        command="eval",
        options={"policies": policies, **options},
        why=f"win rates on held-out prompts, judged by {wanted.judge}",
    )
