"""Commands that train nothing, as functions of their configuration: what both the CLI and pipelines call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assent.config.commands import NewModelConfig
    from assent.runs.progress import Progress


def new_model(config: NewModelConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """A small model and its tokenizer from text files."""
    from assent.models.new_model import new_model as write

    summary = write(config.output_dir, **config.model_dump(exclude={"output_dir"}))
    return {
        "output_dir": str(summary.path),
        "model_path": str(summary.path),
        "parameters": summary.parameters,
        "vocab_size": summary.vocab_size,
        "characters": summary.characters,
    }
