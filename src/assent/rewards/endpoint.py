"""A reward that a server computes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from assent.config.rewards import EndpointSource
from assent.data.texts import as_plain
from assent.errors import ConfigError, RunError
from assent.judging.http import key_from, post_json
from assent.rewards.base import checked_scores, score_each
from assent.runs.kept import Kept
from assent.types import PromptGroup, Rollout, Text


class RefusedError(RunError):
    """The server cannot be reached or refuses access, whatever the request."""


class EndpointReward:
    """POST {"prompts": […], "completions": […]} -> {"scores": […]}. A prompt is a string or a list of messages.

    The key is read from the environment when the reward is created.
    """

    def __init__(self, source: EndpointSource) -> None:
        self.source, self.name = source, source.reward
        self._key = key_from(source.api_key_env, url=source.reward)
        self.kept: Kept | None = None

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float | None]:
        scores: list[float | None] = []
        for start in range(0, len(completions), self.source.batch_size):
            part = slice(start, start + self.source.batch_size)
            scores += score_each(
                self.name,
                self._ask,
                prompts[part],
                completions[part],
                None if groups is None else groups[part],
                check=checked_scores,
                alone=self._ask_once,
                hopeless=(RefusedError,),
            ).given()
        return scores

    def _ask_once(
        self, prompts: Sequence[Text], completions: Sequence[str], groups: Sequence[PromptGroup] | None
    ) -> Any:
        return self._ask(prompts, completions, groups, retries=0)

    def _ask(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
        *,
        retries: int | None = None,
    ) -> Any:
        body: dict[str, Any] = {"prompts": [as_plain(prompt) for prompt in prompts], "completions": list(completions)}
        if self.source.columns:
            body["columns"] = {name: _column(groups, name) for name in self.source.columns}
        asked = {"url": self.source.reward, **body}
        known = None if self.kept is None else self.kept.find(asked)
        if known is not None:
            return known
        try:
            answer = post_json(
                self.source.reward,
                body,
                key=self._key,
                timeout_seconds=self.source.timeout_seconds,
                retries=self.source.retries if retries is None else retries,
            )
        except RunError as error:
            if "JSON" in error.what or re.match(r"status (?!401|403|404|429)\d", str(error.got)):
                raise  # the request itself may be the cause
            raise RefusedError(error.what, got=error.got, expected=error.expected, fix=error.fix) from None
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list):
            raise RunError(
                f"{self.name} did not return scores",
                got=repr(answer)[:200],
                expected='{"scores": [a number for each completion, or null to abstain]}',
            )
        return (
            scores
            if self.kept is None
            else self.kept.keep(asked, checked_scores(self.name, scores, prompts, completions).given())
        )


def endpoints_of(reward: Any) -> list[EndpointReward]:
    """The servers that a reward calls, those of its members included."""
    own = [reward] if isinstance(reward, EndpointReward) else []
    return [*own, *(one for member in getattr(reward, "members", ()) for one in endpoints_of(member))]


def _column(groups: Sequence[PromptGroup] | None, name: str) -> list[Any]:
    values = []
    for group in groups or ():
        if name not in group.columns:
            known = ", ".join(sorted(group.columns)) or "none"
            raise ConfigError(f"columns: {group.source or 'a row'} has no column {name}", expected=f"one of: {known}")
        values.append(group.columns[name])
    return values
