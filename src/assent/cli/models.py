"""new-model, sample, best-of-n: a small model from text files; completions of a policy."""

from __future__ import annotations

from typing import Any

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import NewModelConfig
from assent.config.completions import BestOfNConfig, SampleConfig
from assent.runs.progress import progress_for_stderr


@command(NewModelConfig, positional="output_dir")
def new_model(config: NewModelConfig) -> Outcome:
    from assent.pipelines.tools import new_model as write

    result = write(config)
    text = (
        f"{result['parameters']:,} parameters, vocabulary {result['vocab_size']} "
        f"from {result['characters']:,} characters -> {result['model_path']}"
    )
    return Outcome({"command": "new-model", **result}, text)


@command(SampleConfig)
def sample(config: SampleConfig) -> Outcome:
    from assent.pipelines.completions import sample as write

    return _outcome("sample", write(config, progress=progress_for_stderr()))


@command(BestOfNConfig)
def best_of_n(config: BestOfNConfig) -> Outcome:
    from assent.pipelines.completions import best_of_n as write

    return _outcome("best-of-n", write(config, progress=progress_for_stderr()))


def _outcome(name: str, result: dict[str, Any]) -> Outcome:
    lines = [f"{name} -> {result['completions']}"]
    lines += [f"  {metric:<28} {value:.6g}" for metric, value in sorted(result["metrics"].items())]
    return Outcome({"command": name, **result}, "\n".join(lines))
