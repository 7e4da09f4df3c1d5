"""explain: a preference probability, taken apart."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.commands.explain import explain as run
from assent.config.explain import ExplainConfig


@command(ExplainConfig)
def explain(config: ExplainConfig) -> Outcome:
    document, lines = run(config)
    return Outcome({"command": "explain", **document}, "\n".join(lines))
