"""Opening what a command samples: the prompts that are answered, and the policies that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from assent.config.options import PromptOptions
from assent.errors import DataError
from assent.models.loading import load_config, load_policy, load_tokenizer
from assent.models.module import AlignmentModel, check_prompts_fit
from assent.models.templates import Template, resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts that can be answered: `ids[i]` are the tokens of `groups[i]`."""

    groups: list[PromptGroup]
    ids: list[tuple[int, ...]]
    lines: list[str]
    """What to tell the user about them: prompts that were shortened or refused."""


def open_prompts(
    groups: Sequence[PromptGroup],
    template: Template,
    *,
    source: str,
    max_length: int,
    max_new_tokens: int,
    models: Mapping[str, str] | None = None,
    revision: str | None = None,
    notes: Sequence[str] = (),
) -> Prompts:
    """Tokenizes the prompts of `groups` and leaves out those that cannot be used.

    source   where the prompts come from, for messages
    notes    what to say of how they were read, before what is said of the tokens
    models   name to folder: the models that answer. ConfigError if the longest prompt does not fit one's context

    Raises DataError if no prompt can be used. No weights are loaded.
    """
    tokenized = tokenize_groups(
        groups,
        tokenizer=template.tokenizer,
        template=template,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
    )
    lines = [*notes, *tokenized.report.lines()]
    if not tokenized.groups:
        raise DataError(f"{source}: no usable prompt is left", got="\n".join(lines), expected="at least one prompt")
    ids = [group.prompt_ids for group in tokenized.groups]
    for name, path in (models or {}).items():
        check_prompts_fit(load_config(path, revision=revision), ids, max_new_tokens, whose=name)
    return Prompts([groups[i] for i in tokenized.kept], ids, lines)


def template_of(options: PromptOptions, tokenizer: Any) -> Template:
    """The chat template that the options ask for."""
    return resolve_template(
        tokenizer,
        chat_template=options.chat_template,
        system=options.system,
        chat_template_kwargs=options.chat_template_kwargs,
    )


class ModelOptions(Protocol):
    """What a policy is loaded by."""

    @property
    def dtype(self) -> Any: ...
    @property
    def revision(self) -> str | None: ...


def open_policy(options: ModelOptions, path: str, device: torch.device, *, tokenizer: Any = None) -> Any:
    """A policy's transformers model on the device. `tokenizer`: its own, loaded if none is given."""
    if tokenizer is None:
        tokenizer = load_tokenizer(path, revision=options.revision)
    model: Any = load_policy(path, dtype=options.dtype, revision=options.revision, tokenizer=tokenizer)
    return model.to(device)


def open_reader(options: ModelOptions, path: str, device: torch.device) -> AlignmentModel:
    """A policy that only reads log-probabilities."""
    return AlignmentModel(open_policy(options, path, device), kind="policy").eval()
