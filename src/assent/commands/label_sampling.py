"""Samples the completions that `label` asks people about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.commands.completions import sample
from assent.config.completions import SampleConfig
from assent.config.label import LabelConfig
from assent.data.loading import load_groups
from assent.errors import ConfigError
from assent.models.folders import content_hash
from assent.models.loading import load_config
from assent.types import PromptGroup

if TYPE_CHECKING:
    from assent.feedback.store.database import Database

SAMPLED = ("completion_index", "finish_reason", "tokens")
"""Columns of sampled completions that say nothing to an annotator."""


def sampled(config: LabelConfig, database: Database) -> Iterator[PromptGroup]:
    """Completions of each model in turn. What a run has sampled already is read, not sampled again.

    The longest sequence is `max_length`, or where the option is not given the model's context if that is shorter.
    """
    if len(set(config.model)) < len(config.model):
        raise ConfigError("a model is named twice", got=", ".join(config.model), fix="raise num_completions instead")
    assert config.prompts is not None
    for model in config.model:
        fingerprint = content_hash(model, revision=config.revision)
        folder = _folder(config, database) / f"{Path(model).name or 'model'}-{fingerprint[:12]}"
        options: dict[str, Any] = {
            "num_completions": config.num_completions,
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
            "seed": config.seed,
        }
        result = sample(
            SampleConfig(
                model=model,
                data=config.prompts,
                output_dir=str(folder),
                max_length=_max_length(config, model),
                split=config.split,
                columns=config.columns,
                revision=config.revision,
                chat_template=config.chat_template,
                chat_template_kwargs=config.chat_template_kwargs,
                system=config.system,
                device=config.device,
                dtype=config.dtype,
                allow_slow_dtype=config.allow_slow_dtype,
                **options,
            )
        )
        for group in load_groups(result["completions"]):
            columns = {name: value for name, value in group.columns.items() if name not in SAMPLED}
            origin = {"model": model, "fingerprint": fingerprint, "sampling": options}
            yield replace(group, columns={**columns, **origin})


def _folder(config: LabelConfig, database: Database) -> Path:
    if config.samples_dir is not None:
        return Path(config.samples_dir)
    return Path(f"{database.name}.samples" if database.is_sqlite else "labels.samples")


def _max_length(config: LabelConfig, model: str) -> int:
    context = getattr(load_config(model, revision=config.revision).get_text_config(), "max_position_embeddings", None)
    if "max_length" in config.model_fields_set or not context:
        return config.max_length
    return min(config.max_length, int(context))
