"""convert-config: another trainer's configuration in our names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.commands import ConvertConfig


@command(ConvertConfig, positional="file")
def convert_config(config: ConvertConfig) -> Outcome:
    from assent.commands.convert_config import convert_config as convert

    document, lines = convert(config)
    printed = lines if config.output is None else _told(config.output, document)
    return Outcome({"command": "convert-config", **document}, "\n".join(printed), int(bool(document["to_do"])))


def _told(output: str, document: Mapping[str, Any]) -> list[str]:
    """What was written, and what is to be done before the command takes it; the rest stands in the file."""
    said = [
        ("to do", document["to_do"]),
        ("changed in meaning", document["changed"]),
        ("without counterpart", document["left"]),
    ]
    counts = ", ".join(f"{len(notes)} {what}" for what, notes in said)
    lines = [f"convert-config -> {output}", f"  {counts}:", "  its comments say what and why"]
    if not document["to_do"]:
        named = any(note.startswith("data ") for note in document["changed"])  # theirs, which nothing here knows
        return [*lines, f"  assent {document['for']} --config {output}{' --data FILE' * named}"]
    to_do = [
        textwrap.wrap(f"- {note}", 80, initial_indent="  ", subsequent_indent="    ") for note in document["to_do"]
    ]
    last = f"exit status 1: assent {document['for']} --config {output} needs what is to do"
    return [*lines, "", "To do:", *(line for note in to_do for line in note), last]
