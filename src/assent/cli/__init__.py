"""The command line: one thin file per command group, imported when its command is named."""

from assent.cli.entry import main

__all__ = ["main"]
