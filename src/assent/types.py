"""The records of alignment data. Every datum is a prompt and its K completions.

A demonstration has K = 1, a comparison K = 2, a ranking K > 2; PPO's rollouts and best-of-N are K samples.
Standard library only: these records cross every layer, torch-free ones included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` holds the row's other keys (`tool_calls`, `name` …) and is passed to the template unchanged."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content, **self.extra}


Text = str | tuple[Message, ...]
"""Raw text (no template, EOS appended) or a conversation (rendered by the chat template)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What is known about a group's K completions: at most one of ranking, scores, thumbs and step_labels.

    ranking        1 is best, equal ranks tie; a comparison is (1, 2)
    scores         higher is better
    thumbs         True is desirable
    step_labels    per completion, one label for each of its successive steps
    """

    ranking: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    thumbs: tuple[bool, ...] | None = None
    step_labels: tuple[tuple[float, ...], ...] | None = None
    margin: float | None = None
    """By how much the first is better (Llama 2's margin); comparisons only."""
    chosen_probability: float | None = None
    """Probability in [0, 1] that the first wins; comparisons only."""
    weight: float = 1.0
    annotator: str | None = None

    @property
    def kind(self) -> str:
        """The name of the judgement that is set, for messages; "no preference" if none is."""
        kinds = ("ranking", "scores", "thumbs", "step_labels")
        return next((kind for kind in kinds if getattr(self, kind) is not None), "no preference")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGroup:
    """One prompt and its K completions, at rest. In `messages` the completion starts at the first assistant turn."""

    prompt: Text
    completions: tuple[Text, ...] = ()
    preference: Preference | None = None
    logps: tuple[float, ...] | None = None
    """Logged sums of log-probabilities, one for each completion (`chosen_logps`, `rejected_logps`)."""
    steps: tuple[tuple[str, ...], ...] | None = None
    """The successive steps of each completion, where the layout has them (TRL's stepwise layout)."""
    tools: tuple[Mapping[str, Any], ...] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the row: slices, generators, the sandbox's facts."""
    source: str = ""
    """Where the row stands: `file.jsonl:12`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled completion: its token ids, each with its log-probability under the policy that sampled it."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    """`stop`: the last id is in the EOS set, or it completed a requested stop string. `length`: the completion was cut
    at max_new_tokens."""
    text: str
    """The decoded completion without special tokens."""
    prompt_index: int
    completion_index: int
    policy_version: str
