"""data check: what is in a file, and what is wrong with it."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import DataCheckConfig


@command(DataCheckConfig, positional="file")
def check(config: DataCheckConfig) -> Outcome:
    """What is in a file of prompts and completions, and what is wrong with it. Nothing is written.

    Exit status 1 if something is wrong with a row: refused, empty, identical or contradictory.
    """
    from assent.data.auditing import audit
    from assent.data.loading import load_groups

    dataset = load_groups(config.file, layout=config.layout, split=config.split, lenient=True)
    second = None if config.against is None else load_groups(config.against, lenient=True)
    text = audit(dataset, second)
    findings = text.findings()
    lines = [*text.lines(), "", *(f"! {finding}" for finding in findings)]
    document = {"command": "data check", "findings": findings, "text": text.as_dict()}
    return Outcome(document, "\n".join(lines).rstrip(), exit_status=1 if findings else 0)
