"""new-model: a small model and its tokenizer from text files."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import NewModelConfig


@command(NewModelConfig, positional="output_dir")
def new_model(config: NewModelConfig) -> Outcome:
    from assent.pipelines.tools import new_model as write

    result = write(config)
    text = (
        f"{result['parameters']:,} parameters, vocabulary {result['vocab_size']} "
        f"from {result['characters']:,} characters -> {result['model_path']}"
    )
    return Outcome({"command": "new-model", **result}, text)
