"""The commands that a stage of a pipeline can run. A command is imported when it is run, not before.

A step's function is called as `function(config, progress=progress)`. It returns a mapping, or an object with
`as_dict()`, that is JSON-able and holds at least the step's `outputs`; later stages refer to these as
`${stage.output}`. A step writes only into `config.output_dir`. Called again after an interruption, it resumes or
starts again there. An output `lines` is printed when the pipeline has finished.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from assent.runs.files import from_json, to_json
from assent.runs.progress import Progress, progress_for_stderr


@dataclass(frozen=True, slots=True)
class Step:
    """`config` and `function` are `module:name`; `outputs` are those that later stages may refer to; `growing` are
    options that name files which grow: a stage read them once, and what they hold now does not change it."""

    config: str
    function: str
    outputs: tuple[str, ...] = ("output_dir", "model_path")
    growing: tuple[str, ...] = ()

    def config_class(self) -> type[BaseModel]:
        return _imported(self.config)

    def run(self, config: BaseModel, *, progress: Progress, **keywords: Any) -> dict[str, Any]:
        function: Callable[..., Any] = _imported(self.function)
        result = function(config, progress=progress, **keywords)
        outputs: Mapping[str, Any] = result if isinstance(result, Mapping) else result.as_dict()
        missing = [name for name in self.outputs if name not in outputs]
        assert not missing, f"{self.function} returned no {', '.join(missing)}"
        return from_json(to_json(dict(outputs)))


def _imported(location: str) -> Any:
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(module), name)


GATE = "gate"
"""A stage of this command is a barrier: every stage below it in the file needs it."""

STEPS: dict[str, Step] = {
    "new-model": Step("assent.config.commands:NewModelConfig", "assent.commands.tools:new_model"),
    "merge": Step("assent.config.commands:MergeConfig", "assent.commands.tools:merge"),
    "sandbox-world": Step(
        "assent.config.sandbox:SandboxWorldConfig",
        "assent.sandbox.steps:write_world",
        outputs=("model", "demonstrations", "prompts", "test_prompts"),
    ),
    "sandbox-labels": Step(
        "assent.config.sandbox:SandboxLabelsConfig",
        "assent.sandbox.steps:write_labels",
        outputs=("train", "test", "labels"),
    ),
    "data-split": Step(
        "assent.config.commands:DataSplitConfig", "assent.commands.tools:split_stage", outputs=("train", "eval")
    ),
    "sandbox-annotate": Step(
        "assent.config.iterate:SandboxAnnotateConfig", "assent.sandbox.steps:annotate", outputs=("output_dir", "labels")
    ),
    "collect": Step(
        "assent.config.iterate:CollectConfig",
        "assent.commands.collect:collect",
        outputs=("output_dir", "labels"),
        growing=("store",),
    ),
    "logged-data": Step(
        "assent.config.update:LoggedDataConfig",
        "assent.commands.logged_data:logged_data",
        outputs=("output_dir", "train", "eval", "prompts"),
        growing=("logs",),
    ),
    "sft": Step("assent.config.stages:SftConfig", "assent.stages.sft:train"),
    "reward": Step("assent.config.stages:RewardConfig", "assent.stages.reward:train"),
    "dpo": Step("assent.config.stages:PreferenceConfig", "assent.stages.preference:train"),
    "kto": Step("assent.config.stages:KtoConfig", "assent.stages.kto:train"),
    "online-dpo": Step("assent.config.online_dpo:OnlineDpoConfig", "assent.stages.online_preference:train"),
    "ppo": Step("assent.config.online:PpoConfig", "assent.stages.online:train"),
    "a2c": Step("assent.config.online:A2cConfig", "assent.stages.online:train"),
    "grpo": Step("assent.config.online:GrpoConfig", "assent.stages.online:train"),
    "rloo": Step("assent.config.online:RlooConfig", "assent.stages.online:train"),
    "eval": Step(
        "assent.config.evaluation:EvalConfig", "assent.commands.evaluate:evaluate", outputs=("evaluation", "table")
    ),
    "frontier": Step(
        "assent.config.frontier:FrontierConfig",
        "assent.commands.frontier:frontier",
        outputs=("output_dir", "frontier", "picture", "table"),
    ),
    "compare": Step(
        "assent.config.compare:CompareConfig", "assent.commands.compare:compare", outputs=("comparison", "table")
    ),
    GATE: Step("assent.config.gate:GateConfig", "assent.commands.gate:gate", outputs=("output_dir", "gate")),
    "judge": Step(
        "assent.config.judge:JudgeConfig", "assent.commands.judge:judge", outputs=("output_dir", "judged", "report")
    ),
    "sample": Step(
        "assent.config.completions:SampleConfig",
        "assent.commands.completions:sample",
        outputs=("output_dir", "completions"),
    ),
    "best-of-n": Step(
        "assent.config.completions:BestOfNConfig",
        "assent.commands.best_of_n:best_of_n",
        outputs=("output_dir", "completions"),
    ),
    "score": Step("assent.config.scoring:ScoreConfig", "assent.commands.score:score", outputs=("output_dir", "scored")),
}


def run_step(name: str, config: BaseModel) -> dict[str, Any]:
    """Runs one step, with its progress on stderr. The outputs are JSON-able."""
    return STEPS[name].run(config, progress=progress_for_stderr())
