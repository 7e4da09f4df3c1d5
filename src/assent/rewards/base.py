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
    """One finite score for each completion, in order, and its parts. None: the reward abstains. Such a completion's
    entry in the list is NaN, so that who overlooks it does not train on a number that nobody gave.

    parts       the scores of each of several sources, by name, before they are weighted; None where it abstained
    steps       a process reward's numbers: for each completion, one for each of its steps (`rewards/steps.py`), as part
                of its score, and none where that reward abstained; None: the score belongs to the completion's end
    statistics  more metrics, such as an ensemble's `ensemble_std`
    """

    def __init__(
        self,
        scores: Iterable[float | None] = (),
        *,
        parts: Mapping[str, Sequence[float | None]] | None = None,
        steps: Sequence[Sequence[float]] | None = None,
        statistics: Mapping[str, float] | None = None,
    ) -> None:
        given = list(scores)
        super().__init__(math.nan if score is None else score for score in given)
        self.abstained = [score is None for score in given]
        self.parts = {name: list(numbers) for name, numbers in (parts or {}).items()}
        self.steps = None if steps is None else [list(numbers) for numbers in steps]
        self.statistics = dict(statistics or {})

    def given(self) -> list[float | None]:
        """The scores as they were given."""
        return [None if gone else score for score, gone in zip(self, self.abstained, strict=True)]

    def metrics(self) -> dict[str, float]:
        """`rewards/<part>` and its deviation for each part, over what it scored, and the statistics. Counts, where
        there are any: what each part abstained on, and what was left without a score."""
        found = dict(self.statistics)
        for name, numbers in self.parts.items():
            known = [number for number in numbers if number is not None]
            if known:
                found[f"rewards/{name}"] = statistics.fmean(known)
                found[f"rewards/{name}/std"] = statistics.pstdev(known)
            if len(known) < len(numbers):
                found[f"rewards/{name}/abstained"] = float(len(numbers) - len(known))
        if any(self.abstained):
            found["objective/abstained"] = float(sum(self.abstained))
        return found

    def of(self, i: int) -> dict[str, Any]:
        """One completion's row in a file: `score`, `rewards` by source if there are several, `step_rewards` if any."""
        row: dict[str, Any] = {"score": self.given()[i]}
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
        (score for part in parts for score in part.given()),
        parts={name: [score for part in parts for score in part.parts[name]] for name in names},
        steps=steps if parts[0].steps is not None else None,
    )


class Reward(Protocol):
    """Scores completions; higher is better. A score of None abstains."""

    name: str

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Sequence[float | None]:
        """One finite score for each completion, in order, or `Scores` to return parts, steps or statistics too.

        prompts[i], groups[i] (the row of the prompt, with its columns) and rollouts[i] (the ids) belong to
        completions[i], so a prompt with K completions appears K times. A RunError names the completion that failed.
        """


def score_rollouts(
    reward: Reward, rollouts: Sequence[Rollout], groups: Sequence[PromptGroup], *, may_abstain: bool = False
) -> Scores:
    """One score for each rollout, in order. `groups[rollout.prompt_index]` is the row of its prompt.

    may_abstain   some of the scores may be missing, but not all: a RunError; False: none
    """
    rows = [groups[rollout.prompt_index] for rollout in rollouts]
    texts, prompts = [rollout.text for rollout in rollouts], [row.prompt for row in rows]
    of = checked_reward(reward, prompts, texts, groups=rows, rollouts=list(rollouts), may_abstain=may_abstain)
    if rollouts and all(of.abstained):
        raise RunError(
            f"reward {reward.name} abstained for every completion of the round, so there is nothing to learn from",
            got=f"None for all {len(rollouts)}, the first of them {shown(prompts[0], texts[0])}",
            expected="a number for at least some of them",
            fix="look at what the reward abstains on, or add a source that scores these completions",
        )
    return of


def checked_reward(
    reward: Reward,
    prompts: Sequence[Text],
    completions: Sequence[str],
    *,
    groups: Sequence[PromptGroup] | None,
    rollouts: Sequence[Rollout] | None = None,
    may_abstain: bool = False,
) -> Scores:
    """The reward's scores. Raises what `checked_scores` raises, and RunError if the reward abstains and must not."""
    scores = reward.score(prompts, completions, groups=groups, rollouts=rollouts)
    checked = checked_scores(reward.name, scores, prompts, completions)
    if not may_abstain and any(checked.abstained):
        first = checked.abstained.index(True)
        raise RunError(
            f"reward {reward.name} abstained for {shown(prompts[first], completions[first])}",
            got=f"None for {sum(checked.abstained)} of {len(completions)} completions",
            expected="a number for each: only training (ppo, grpo and the like, online-dpo) can leave a completion out",
            fix="return a number for these too, or add a source that scores them",
        )
    return scores if isinstance(scores, Scores) else checked


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


def checked_scores(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> Scores:
    """The scores as floats, or None where the reward abstains. Raises RunError for a wrong count or a score that is not
    a number, NonFiniteError for NaN, infinities and numbers beyond `LARGEST`."""
    if isinstance(scores, Scores):
        scores = scores.given()
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
    numbers: list[float | None] = []
    for prompt, completion, answer in zip(prompts, completions, answers, strict=True):
        if answer is None:
            numbers.append(None)
            continue
        try:
            number = float(answer)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        except (TypeError, ValueError):
            raise RunError(
                f"reward {name} returned a score that is not a number for {shown(prompt, completion)}",
                got=shorten_middle(repr(answer)),
                expected="a finite number, or None to abstain",
            ) from None
        if not abs(number) <= LARGEST:
            raise NonFiniteError(
                f"reward {name} returned {number} for {shown(prompt, completion)}",
                expected=f"a finite number between -{LARGEST:.3g} and {LARGEST:.3g}",
            )
        numbers.append(number)
    return Scores(numbers)
