"""data check: what is in a file, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import DataCheckConfig

if TYPE_CHECKING:
    from assent.data.loading import Dataset


@command(DataCheckConfig, positional="file")
def check(config: DataCheckConfig) -> Outcome:
    from assent.data.auditing import audit
    from assent.data.loading import load_groups

    dataset = load_groups(config.file, layout=config.layout, split=config.split, lenient=True)
    second = None if config.against is None else load_groups(config.against, lenient=True)
    text = audit(dataset, second)
    findings, lines = text.findings(), text.lines()
    document: dict[str, Any] = {"command": "data check", "text": text.as_dict()}
    if config.model is not None:
        tokens = _tokens(config, config.model, dataset)
        findings += tokens.pop("findings")
        lines += ["", f"with the tokenizer of {config.model}:", *tokens.pop("lines", [])]
        document["tokens"] = tokens
    if findings:
        lines += ["", "findings:", *(f"  {finding}" for finding in findings)]
    return Outcome(document | {"findings": findings}, "\n".join(lines), exit_status=1 if findings else 0)


def _tokens(config: DataCheckConfig, model: str, dataset: Dataset) -> dict[str, Any]:
    from assent.models.loading import load_tokenizer
    from assent.models.templates import resolve_template
    from assent.models.token_audit import token_audit

    tokenizer = load_tokenizer(model, revision=config.revision)
    template = resolve_template(
        tokenizer,
        chat_template=config.chat_template,
        system=config.system,
        prompt_format=config.prompt_format,
        chat_template_kwargs=config.chat_template_kwargs,
        keep_template_tail=config.keep_template_tail,
    )
    return token_audit(dataset, tokenizer, template, config.max_length)
