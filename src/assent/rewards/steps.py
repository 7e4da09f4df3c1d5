"""The successive steps of a completion: its lines. Where each ends among the sampled tokens, and numbers for each.

A step is a line with something to see in it; blank lines behind it belong to it. As in the data of process models it
ends with the token that holds its line break, the last one with the completion's last token (EOS, where it ended).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from assent.data.rows_read import STEP_SEPARATOR
from assent.data.texts import shown
from assent.errors import RunError
from assent.rewards.base import Scores, checked_scores
from assent.types import Text


def steps_of(text: str) -> list[str]:
    """The lines in which there is something to see; of a blank text, one step without anything in it."""
    return [line for line in text.split(STEP_SEPARATOR) if line.strip()] or [""]


def step_ends(ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> tuple[int, ...]:
    """The last token of each of `steps_of(text)`, ascending; two steps may end in one token.

    ids      of the completion, at least one
    text     what they say
    decode   of any number of the first of them; a line break is never a part of another character, so the breaks among
             the first t tokens' text are those of the text up to there
    """
    lines = text.split(STEP_SEPARATOR)
    seen = [number for number, line in enumerate(lines) if line.strip()]

    def breaks(t: int) -> int:
        return decode(ids[: t + 1]).count(STEP_SEPARATOR)

    ends = [bisect_left(range(len(ids) - 1), number + 1, key=breaks) for number in seen[:-1]]
    return (*ends, len(ids) - 1)


def checked_steps(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> Scores:
    """Process rewards: for each completion as many finite numbers as it has steps. Its score is their sum."""
    given = checked_lists(name, scores, prompts, completions)
    flat = [number for numbers in given for number in numbers]
    of = [(prompt, text) for prompt, text, numbers in zip(prompts, completions, given, strict=True) for _ in numbers]
    finite = iter(checked_scores(name, flat, [prompt for prompt, _ in of], [text for _, text in of]))
    steps = [[next(finite) for _ in numbers] for numbers in given]
    return Scores(map(sum, steps), steps=steps)


def checked_lists(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> list[list[Any]]:
    """A list for each completion, as long as it has steps. RunError that names the completion where there is none."""
    if not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(completions):
        raise RunError(
            f"process reward {name} gave no list for each completion",
            got=f"{len(scores)} for {len(completions)}" if isinstance(scores, Sequence) else repr(scores)[:100],
            expected="for each completion, one number for each of its steps",
        )
    lists = []
    for prompt, text, numbers in zip(prompts, completions, scores, strict=True):
        expected = len(steps_of(text))
        is_list = hasattr(numbers, "__iter__") and not isinstance(numbers, str | Mapping | Set)
        given = list(numbers) if is_list else []  # once: a generator is empty the second time
        if len(given) != expected:
            raise RunError(
                f"process reward {name} gave other than a number for each step of {shown(prompt, text)}",
                got=repr(numbers)[:100],
                expected=f"{expected} number{'s' if expected > 1 else ''}: its lines, blank ones left out",
            )
        lists.append(given)
    return lists
