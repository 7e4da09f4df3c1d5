"""What a reward is, and the checks of what it returns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

from assent.data.texts import shorten_middle, shown
from assent.errors import AssentError, NonFiniteError, RunError
from assent.types import PromptGroup, Rollout, Text

LARGEST = 3.4e38
"""The largest float32. Training holds scores in float32; their means and squares stay finite in float64."""


class Scores(list[float]):
    """One finite score for each completion, in order, and its parts.

    parts       the scores of each of several sources, by name, before they are weighted
    steps       a process reward's numbers: for each completion, one for each of its steps (`rewards/steps.py`), as part
                of its score; None: the score belongs to the completion's end
    statistics  more metrics, such as an ensemble's `ensemble_std`
    """

    def __init__(
        self,
        scores: Iterable[float] = (),
        *,
        parts: Mapping[str, Sequence[float]] | None = None,
        steps: Sequence[Sequence[float]] | None = None,
        statistics: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(scores)
        self.parts = {name: list(numbers) for name, numbers in (parts or {}).items()}
        self.steps = None if steps is None else [list(numbers) for numbers in steps]
        self.statistics = dict(statistics or {})

    def metrics(self) -> dict[str, float]:
        """`rewards/<part>` and its deviation for each part, and the statistics."""
        found = dict(self.statistics)
        for name, numbers in self.parts.items():
            found[f"rewards/{name}"] = statistics.fmean(numbers)
            found[f"rewards/{name}/std"] = statistics.pstdev(numbers)
        return found

    def of(self, i: int) -> dict[str, Any]:
        """One completion's row in a file: `score`, `rewards` by source if there are several, `step_rewards` if any."""
        row: dict[str, Any] = {"score": self[i]}
        if self.parts:
            row["rewards"] = {name: numbers[i] for name, numbers in self.parts.items()}
        return row if self.steps is None else {**row, "step_rewards": self.steps[i]}


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several calls of one reward, as if from one call, without the statistics."""
    if not parts:
        return Scores()
    names = parts[0].parts
    steps = [numbers for part in parts for numbers in part.steps or []]
    return Scores(
        (score for part in parts for score in part),
        parts={name: [score for part in parts for score in part.parts[name]] for name in names},
        steps=steps if parts[0].steps is not None else None,
    )


class Reward(Protocol):
    """Scores completions; higher is better."""

    name: str

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        """One finite score for each completion, in order, or `Scores` to return parts, steps or statistics too.

        prompts[i], groups[i] (the row of the prompt, with its columns) and rollouts[i] (the ids) belong to
        completions[i], so a prompt with K completions appears K times. A RunError names the completion that failed.
        """


def score_rollouts(reward: Reward, rollouts: Sequence[Rollout], groups: Sequence[PromptGroup]) -> Scores:
    """One score for each rollout, in order. `groups[rollout.prompt_index]` is the row of its prompt."""
    rows = [groups[rollout.prompt_index] for rollout in rollouts]
    texts = [rollout.text for rollout in rollouts]
    return checked_reward(reward, [row.prompt for row in rows], texts, groups=rows, rollouts=list(rollouts))


def checked_reward(
    reward: Reward,
    prompts: Sequence[Text],
    completions: Sequence[str],
    *,
    groups: Sequence[PromptGroup] | None,
    rollouts: Sequence[Rollout] | None,
) -> Scores:
    """The reward's scores. Raises what `checked_scores` raises."""
    scores = reward.score(prompts, completions, groups=groups, rollouts=rollouts)
    checked = checked_scores(reward.name, scores, prompts, completions)
    return scores if isinstance(scores, Scores) else Scores(checked)


Call = Callable[[Sequence[Text], Sequence[str], "Sequence[PromptGroup] | None"], Any]


def score_each(
    name: str,
    call: Call,
    prompts: Sequence[Text],
    completions: Sequence[str],
    groups: Sequence[PromptGroup] | None,
    *,
    check: Callable[[str, Any, Sequence[Text], Sequence[str]], Any],
    alone: Call | None = None,
    hopeless: tuple[type[Exception], ...] = (),
) -> Any:
    """The answer of `call` for all completions, passed through `check`.

    If either raises, each completion is tried alone (with `alone`, if given, instead of `call`), and the RunError names
    the first one that fails again. `hopeless` errors are no completion's fault and are raised as they are.
    """
    try:
        return check(name, call(prompts, completions, groups), prompts, completions)
    except hopeless:
        raise
    except AssentError as error:
        if not isinstance(error, RunError):
            raise
        fault: Exception = error
    except Exception as error:  # raised by the call, or by a generator that it returned
        fault = error
    culprit = _culprit(name, alone or call, prompts, completions, groups, check)
    if not isinstance(fault, AssentError):
        raise RunError(
            f"reward {name} raised {type(fault).__name__}: {fault}",
            got=f"a batch of {len(completions)}, none of which fails alone" if culprit is None else shown(*culprit),
            fix="run the function on this completion by hand",
        ) from fault
    if culprit is None or shown(*culprit) in str(fault):
        raise fault
    got = f"{fault.got}; " if fault.got is not None else ""
    raise type(fault)(
        fault.what, got=f"{got}it also fails for {shown(*culprit)} alone", expected=fault.expected, fix=fault.fix
    ) from fault


def _culprit(
    name: str,
    call: Call,
    prompts: Sequence[Text],
    completions: Sequence[str],
    groups: Sequence[PromptGroup] | None,
    check: Callable[[str, Any, Sequence[Text], Sequence[str]], Any],
) -> tuple[Text, str] | None:
    """The first completion that fails alone; None if none does."""
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            answer = call([prompt], [completion], None if groups is None else [groups[i]])
            check(name, answer, [prompt], [completion])
        except Exception:  # any error is the one that is looked for
            return prompt, completion
    return None


def checked_scores(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> list[float]:
    """The scores as floats. Raises RunError for a wrong count or a score that is not a number, NonFiniteError for NaN,
    infinities and numbers beyond `LARGEST`."""
    try:
        # strings, mappings and sets can be iterated over too, but none of them is a list of scores
        answers = None if isinstance(scores, str | bytes | Mapping | Set) else list(scores)
    except TypeError:
        answers = None
    if answers is None:
        raise RunError(
            f"reward {name} did not return a list of scores",
            got=shorten_middle(repr(scores)),
            expected=f"{len(completions)} numbers",
        )
    if len(answers) != len(completions):
        raise RunError(
            f"reward {name} returned {len(answers)} scores for {len(completions)} completions",
            expected="one number for each completion, in the same order",
        )
    numbers: list[float] = []
    for prompt, completion, answer in zip(prompts, completions, answers, strict=True):
        try:
            number = float(answer)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        except (TypeError, ValueError):
            raise RunError(
                f"reward {name} returned a score that is not a number for {shown(prompt, completion)}",
                got=shorten_middle(repr(answer)),
                expected="a finite number",
            ) from None
        if not abs(number) <= LARGEST:
            raise NonFiniteError(
                f"reward {name} returned {number} for {shown(prompt, completion)}",
                expected=f"a finite number between -{LARGEST:.3g} and {LARGEST:.3g}",
            )
        numbers.append(number)
    return numbers
