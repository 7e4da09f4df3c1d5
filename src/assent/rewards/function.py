"""A reward that is a plain Python function of prompts and completions."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assent.config.functions import import_function
from assent.errors import AssentError, ConfigError, RunError
from assent.rewards.base import checked_scores, shown
from assent.types import PromptGroup, Rollout, Text


class FunctionReward:
    """`function(prompts, completions) -> scores`; one with a parameter `groups` gets the rows, with their columns."""

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        self.function, self.name = function, name
        self._takes_groups = _takes(function, "groups")

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        if not completions:
            return []
        try:
            answer = self._call(prompts, completions, groups)
        except AssentError:
            raise
        except Exception as error:
            raise self._failed(error, prompts, completions, groups) from error
        try:
            return checked_scores(self.name, answer, prompts, completions)
        except RunError as error:
            culprit = self._culprit(prompts, completions, groups)
            if culprit is None or shown(*culprit) in str(error):
                raise
            raise RunError(error.what, got=f"so too for {shown(*culprit)} alone", expected=error.expected) from error

    def _call(self, prompts: Sequence[Text], completions: Sequence[str], groups: Sequence[PromptGroup] | None) -> Any:
        extra = {"groups": groups} if self._takes_groups else {}
        return self.function(list(prompts), list(completions), **extra)

    def _failed(
        self,
        error: Exception,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
    ) -> RunError:
        culprit = self._culprit(prompts, completions, groups)
        where = f"a batch of {len(completions)}, on none of them alone" if culprit is None else shown(*culprit)
        return RunError(
            f"reward {self.name} raised {type(error).__name__}: {error}",
            got=where,
            fix="run the function on this completion by hand",
        )

    def _culprit(
        self, prompts: Sequence[Text], completions: Sequence[str], groups: Sequence[PromptGroup] | None
    ) -> tuple[Text, str] | None:
        """The first completion that fails alone; None where none does."""
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                answer = self._call([prompt], [completion], None if groups is None else [groups[i]])
                checked_scores(self.name, answer, [prompt], [completion])
            except Exception:  # the function's own errors are what is looked for
                return prompt, completion
        return None


def load_function(spec: str) -> FunctionReward:
    """`module:function`, on Python's path or in the working directory. ConfigError where it cannot be imported."""
    function = import_function(spec, what="reward")
    _check_signature(function, spec)
    return FunctionReward(function, name=spec)


def source_hash(spec: str) -> str:
    """SHA-256 of the source of the module that `spec` names, and of the one in which its function was written.

    What these import is not looked at. ConfigError as of `load_function`.
    """
    function = load_function(spec).function
    digest = hashlib.sha256()
    for name in dict.fromkeys((spec.partition(":")[0], getattr(function, "__module__", None))):
        file = getattr(sys.modules.get(name or ""), "__file__", None)
        digest.update(f"{name}\n".encode() + (Path(file).read_bytes() if file else b""))
    return digest.hexdigest()


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in C
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_signature(function: Callable[..., Any], spec: str) -> None:
    """ConfigError for a function that cannot be called with prompts and completions, before anything is loaded."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind([], [], **({"groups": None} if _takes(function, "groups") else {}))
    except TypeError as error:
        raise ConfigError(
            f"the reward function cannot be called with prompts and completions: {error}",
            got=f"{spec}{signature}",
            expected="(prompts, completions) or (prompts, completions, groups)",
        ) from None
