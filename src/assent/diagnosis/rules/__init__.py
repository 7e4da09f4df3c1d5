"""The doctor's rules, one file each. `CHEAP` are those that every run checks while it trains."""

from __future__ import annotations

from assent.diagnosis.finding import Rule
from assent.diagnosis.rules import empty_answers

CHEAP: tuple[Rule, ...] = (empty_answers.RULE,)
