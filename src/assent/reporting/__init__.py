"""One self-contained HTML page for a pipeline, a comparison or a run. Formats it reads: SCHEMA.md."""

from assent.reporting.page import write_report

__all__ = ["write_report"]
