"""What a reward is, and the checks that every one's answers pass."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

from assent.data.texts import shorten_middle, shown
from assent.errors import AssentError, NonFiniteError, RunError
from assent.types import PromptGroup, Rollout, Text

LARGEST = 3.4e38
"""Of float32: training holds scores in it, and their means and squares stay finite in float64."""


class Scores(list[float]):
    """One finite score for each completion, in order, and what they were made of.

    parts       of several sources: the scores of each, by name, before their weights
    steps       of a process reward: for each completion, one number for each of its steps (`rewards/steps.py`), a part
                of its score; None: the score belongs to the end
    statistics  more figures, as metrics: an ensemble's `ensemble_std`
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
        """`rewards/<part>` and its deviation, for each part; and the statistics."""
        found = dict(self.statistics)
        for name, numbers in self.parts.items():
            found[f"rewards/{name}"] = statistics.fmean(numbers)
            found[f"rewards/{name}/std"] = statistics.pstdev(numbers)
        return found

    def of(self, i: int) -> dict[str, Any]:
        """Of one completion, for a file: `score`, of several sources the `rewards` of each, of steps `step_rewards`."""
        row: dict[str, Any] = {"score": self[i]}
        if self.parts:
            row["rewards"] = {name: numbers[i] for name, numbers in self.parts.items()}
        return row if self.steps is None else {**row, "step_rewards": self.steps[i]}


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several calls of one reward, as if it had been one; figures that are none of a completion's go."""
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
        """One finite score for each completion, in order; `Scores`, where there is more to say.

        prompts[i], groups[i] (the row it came from, with its columns) and rollouts[i] (its ids) belong to
        completions[i]: a prompt with K completions stands there K times. RunError says which completion failed.
        """


def score_rollouts(reward: Reward, rollouts: Sequence[Rollout], groups: Sequence[PromptGroup]) -> Scores:
    """One score for each rollout, in their order; `groups[rollout.prompt_index]` is the row its prompt came from."""
    of = [groups[rollout.prompt_index] for rollout in rollouts]
    prompts, texts = [group.prompt for group in of], [rollout.text for rollout in rollouts]
    scores = reward.score(prompts, texts, groups=of, rollouts=list(rollouts))
    checked = checked_scores(reward.name, scores, prompts, texts)
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
    """`check` of what `call` answers for all completions.

    Where it raises or `check` refuses, each completion is tried alone (by `alone`, where that is another way to call),
    and the RunError names the first one that fails then too. `hopeless` errors are no completion's fault, and pass.
    """
    try:
        return check(name, call(prompts, completions, groups), prompts, completions)
    except hopeless:
        raise
    except AssentError as error:
        if not isinstance(error, RunError):
            raise
        fault: Exception = error
    except Exception as error:  # of the call, or of a generator that it gave
        fault = error
    culprit = _culprit(name, alone or call, prompts, completions, groups, check)
    if not isinstance(fault, AssentError):
        raise RunError(
            f"reward {name} raised {type(fault).__name__}: {fault}",
            got=f"a batch of {len(completions)}, on none of them alone" if culprit is None else shown(*culprit),
            fix="run the function on this completion by hand",
        ) from fault
    if culprit is None or shown(*culprit) in str(fault):
        raise fault
    told = f"{fault.got}; " if fault.got is not None else ""
    raise type(fault)(
        fault.what, got=f"{told}so too for {shown(*culprit)} alone", expected=fault.expected, fix=fault.fix
    ) from fault


def _culprit(
    name: str,
    call: Call,
    prompts: Sequence[Text],
    completions: Sequence[str],
    groups: Sequence[PromptGroup] | None,
    check: Callable[[str, Any, Sequence[Text], Sequence[str]], Any],
) -> tuple[Text, str] | None:
    """The first completion that fails alone; None where none does."""
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            answer = call([prompt], [completion], None if groups is None else [groups[i]])
            check(name, answer, [prompt], [completion])
        except Exception:  # whatever the reward does wrong is what is looked for
            return prompt, completion
    return None


def checked_scores(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> list[float]:
    """The scores as floats. RunError for a wrong count or what is no number, NonFiniteError for one beyond
    `LARGEST`, for NaN and for infinities."""
    try:
        # text is read letter by letter, a mapping by its keys, a set in no order: none of them is a list of scores
        answers = None if isinstance(scores, str | bytes | Mapping | Set) else list(scores)
    except TypeError:
        answers = None
    if answers is None:
        raise RunError(
            f"reward {name} gave no list of scores",
            got=shorten_middle(repr(scores)),
            expected=f"{len(completions)} numbers",
        )
    if len(answers) != len(completions):
        raise RunError(
            f"reward {name} gave {len(answers)} scores for {len(completions)} completions",
            expected="one number for each completion, in their order",
        )
    numbers: list[float] = []
    for prompt, completion, answer in zip(prompts, completions, answers, strict=True):
        try:
            number = float(answer)
        except OverflowError:  # an integer that no float holds
            number = math.inf
        except (TypeError, ValueError):
            raise RunError(
                f"reward {name} gave what is no number for {shown(prompt, completion)}",
                got=shorten_middle(repr(answer)),
                expected="a finite number",
            ) from None
        if not abs(number) <= LARGEST:
            raise NonFiniteError(
                f"reward {name} gave {number} for {shown(prompt, completion)}",
                expected=f"a finite number, no further from 0 than {LARGEST:.3g}",
            )
        numbers.append(number)
    return numbers
