"""The successive steps of a completion, which are its lines: where each ends among the sampled tokens, and its number.

A step is a line with a visible character; the blank lines after it belong to it. As in the data of process models, it
ends with the token that holds its line break. The last step ends with the completion's last token (EOS, if it ended).
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
    """The lines with a visible character. A blank text has one empty step."""
    return [line for line in text.split(STEP_SEPARATOR) if line.strip()] or [""]


def step_ends(ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> tuple[int, ...]:
    """The last token of each of `steps_of(text)`, ascending. Two steps may end in the same token.

    ids      the completion's ids, at least one
    text     their text
    decode   the text of the first t ids, for any t. A line break is never part of another character, so that text has
             all line breaks up to token t
    """
    lines = text.split(STEP_SEPARATOR)
    seen = [number for number, line in enumerate(lines) if line.strip()]

    def breaks(t: int) -> int:
        return decode(ids[: t + 1]).count(STEP_SEPARATOR)

    ends = [bisect_left(range(len(ids) - 1), number + 1, key=breaks) for number in seen[:-1]]
    return (*ends, len(ids) - 1)


def checked_steps(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> Scores:
    """Process rewards: for each completion, one finite number for each of its steps, whose sum is its score; or None,
    to abstain."""
    given = checked_lists(name, scores, prompts, completions)
    abstained = [not numbers for numbers in given]  # a completion has at least one step
    flat = [number for numbers in given for number in numbers]
    of = [(prompt, text) for prompt, text, numbers in zip(prompts, completions, given, strict=True) for _ in numbers]
    checked = checked_scores(name, flat, [prompt for prompt, _ in of], [text for _, text in of])
    if any(checked.abstained):
        raise RunError(
            f"process reward {name} abstained for a step of {shown(*of[checked.abstained.index(True)])}",
            got="None among its numbers",
            expected="a number for each step, or None in place of the whole list",
        )
    finite = iter(checked)
    steps = [[next(finite) for _ in numbers] for numbers in given]
    totals = [None if gone else sum(numbers) for gone, numbers in zip(abstained, steps, strict=True)]
    return Scores(totals, steps=steps)


def checked_lists(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> list[list[Any]]:
    """A list for each completion, with one entry for each step; empty where None stands in its place. A RunError names
    the first completion without one."""
    if not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(completions):
        raise RunError(
            f"process reward {name} did not return a list for each completion",
            got=f"{len(scores)} for {len(completions)}" if isinstance(scores, Sequence) else repr(scores)[:100],
            expected="for each completion, one number for each of its steps",
        )
    lists: list[list[Any]] = []
    for prompt, text, numbers in zip(prompts, completions, scores, strict=True):
        if numbers is None:
            lists.append([])
            continue
        expected = len(steps_of(text))
        is_list = hasattr(numbers, "__iter__") and not isinstance(numbers, str | Mapping | Set)
        given = list(numbers) if is_list else []  # once: a generator is empty the second time
        if len(given) != expected:
            raise RunError(
                f"process reward {name} did not return one number for each step of {shown(prompt, text)}",
                got=repr(numbers)[:100],
                expected=f"{expected} number{'s' if expected > 1 else ''}: one for each line that is not blank",
            )
        lists.append(given)
    return lists
