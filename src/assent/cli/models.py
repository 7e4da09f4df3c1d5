"""new-model: a small model and its tokenizer from text files."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import NewModelConfig


@command(NewModelConfig, positional="output_dir")
def new_model(config: NewModelConfig) -> Outcome:
    from assent.models.new_model import new_model as write

    summary = write(config.output_dir, **config.model_dump(exclude={"output_dir"}))
    document = {
        "command": "new-model",
        "model_path": str(summary.path),
        "parameters": summary.parameters,
        "vocab_size": summary.vocab_size,
        "characters": summary.characters,
    }
    return Outcome(document, summary.line())
