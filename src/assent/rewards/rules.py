"""Rewards that are rules about the text alone, by their names in `config/rewards.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assent.config.rewards import FormatSource, LengthSource, RegexSource, RepetitionSource, RewardSource
from assent.types import PromptGroup, Rollout, Text


class RuleReward:
    """Scores each completion with a function of its text."""

    judges_alone = True

    def __init__(self, rule: Callable[[str], float], *, name: str) -> None:
        self.rule, self.name = rule, name

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        return [self.rule(completion) for completion in completions]


def length(text: str, source: LengthSource) -> float:
    """0 between minimum and maximum, (n - minimum) / minimum below, (maximum - n) / maximum above."""
    n = len(text.split()) if source.unit == "words" else len(text)
    if source.minimum and n < source.minimum:
        return n / source.minimum - 1.0
    if source.maximum is not None and n > source.maximum:
        return 1.0 - n / source.maximum
    return 0.0


def format_of(text: str, source: FormatSource) -> float:
    """1 if the text has the format, otherwise 0."""
    if source.tags is not None:
        inside = r"((?:(?!</?(?:" + "|".join(source.tags) + r")>).)*)"
        sections = r"\s*".join(f"<{tag}>{inside}</{tag}>" for tag in source.tags)
        return float(re.fullmatch(rf"\s*{sections}\s*", text, re.DOTALL) is not None)
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return 0.0
    return float(not source.json_keys or (isinstance(value, dict) and set(source.json_keys) <= value.keys()))


def regex(text: str, source: RegexSource) -> float:
    """1 if the pattern matches, otherwise 0."""
    pattern = re.compile(source.pattern, re.DOTALL)
    found = pattern.search(text) if source.match == "search" else pattern.fullmatch(text.strip())
    return float(found is not None)


def repetition(text: str, source: RepetitionSource) -> float:
    """distinct / all - 1 over the runs of `ngram_size` lower-cased words; 0 for a text too short to repeat one."""
    words, n = text.lower().split(), source.ngram_size
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0


RULES: Mapping[str, Callable[[str, Any], float]] = {
    "length": length,
    "format": format_of,
    "regex": regex,
    "repetition": repetition,
}
"""Name in config/rewards.py -> rule."""


def rule_of(source: RewardSource) -> RuleReward:
    """The rule that the source names, with its options."""
    rule = RULES[source.kind]
    return RuleReward(lambda text: rule(text, source), name=source.label)
