"""One self-contained HTML page about a pipeline, a run or several of them. SCHEMA.md has the formats it reads."""

from assent.reporting.page import write_report

__all__ = ["write_report"]
