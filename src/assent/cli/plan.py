"""plan: which method the data supports, and the pipeline file that runs it."""

from __future__ import annotations

from assent.cli.flags import command
from assent.cli.outcome import Outcome
from assent.config.plan import PlanConfig


@command(PlanConfig)
def plan(config: PlanConfig) -> Outcome:
    from assent.commands.plan import plan as planned

    document, lines, whole = planned(config)
    return Outcome({"command": "plan", **document}, "\n".join(lines), whole="\n".join(whole))
