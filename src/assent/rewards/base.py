"""What a reward is, and the checks that every one's answers pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from assent.errors import NonFiniteError, RunError
from assent.types import PromptGroup, Rollout, Text


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
        """One finite score for each completion, in order.

        prompts[i], groups[i] (the row it came from, with its columns) and rollouts[i] (its ids) belong to
        completions[i]: a prompt with K completions stands there K times. RunError says which completion failed.
        """


def score_rollouts(reward: Reward, rollouts: Sequence[Rollout], groups: Sequence[PromptGroup]) -> list[float]:
    """One score for each rollout, in their order; `groups[rollout.prompt_index]` is the row its prompt came from."""
    of = [groups[rollout.prompt_index] for rollout in rollouts]
    prompts, texts = [group.prompt for group in of], [rollout.text for rollout in rollouts]
    scores = reward.score(prompts, texts, groups=of, rollouts=list(rollouts))
    return checked_scores(reward.name, scores, prompts, texts)


def statistics_of(reward: Reward) -> dict[str, float]:
    """More figures of the reward's last call, as metrics, where it has any: an ensemble's `ensemble_std`."""
    return dict(getattr(reward, "statistics", {}))


def shown(prompt: Text, completion: object) -> str:
    """A prompt and its completion for a message, shortened in the middle."""
    asked = prompt if isinstance(prompt, str) else prompt[-1].content if prompt else ""
    return f"completion {_short(str(completion))!r} of prompt {_short(asked)!r}"


def checked_scores(name: str, scores: Any, prompts: Sequence[Text], completions: Sequence[str]) -> list[float]:
    """The scores as floats. RunError for a wrong count or what is no number, NonFiniteError for NaN and infinities."""
    try:
        answers = list(scores)
    except TypeError:
        raise RunError(
            f"reward {name} gave no list of scores",
            got=_short(repr(scores)),
            expected=f"{len(completions)} numbers",
        ) from None
    if len(answers) != len(completions):
        raise RunError(
            f"reward {name} gave {len(answers)} scores for {len(completions)} completions",
            expected="one number for each completion, in their order",
        )
    numbers: list[float] = []
    for prompt, completion, answer in zip(prompts, completions, answers, strict=True):
        try:
            number = float(answer)
        except (TypeError, ValueError):
            raise RunError(
                f"reward {name} gave what is no number for {shown(prompt, completion)}",
                got=_short(repr(answer)),
                expected="a finite number",
            ) from None
        if not math.isfinite(number):
            raise NonFiniteError(
                f"reward {name} gave {number} for {shown(prompt, completion)}", expected="a finite number"
            )
        numbers.append(number)
    return numbers


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
