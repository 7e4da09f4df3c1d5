"""A reward that is a Python function of prompts and completions, synchronous or async."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any

from assent.config import functions
from assent.config.functions import import_function
from assent.errors import ConfigError
from assent.rewards.base import Scores, checked_scores, score_each
from assent.rewards.steps import checked_steps, steps_of
from assent.types import PromptGroup, Rollout, Text

EXTRAS = ("groups", "steps")


class FunctionReward:
    """`function(prompts, completions) -> scores`, which may be async.

    A function with a parameter `groups` gets the rows with their columns; one with a parameter `steps` gets the lines
    of each completion. With `process` it returns a list for each completion, with one number for each step.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, process: bool = False) -> None:
        self.function, self.name, self.process = function, name, process
        self._extras = [extra for extra in EXTRAS if _takes(function, extra)]

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        if not completions:
            return Scores(steps=[] if self.process else None)
        check = checked_steps if self.process else checked_scores
        found: list[float] = score_each(self.name, self._call, prompts, completions, groups, check=check)
        return found

    def _call(self, prompts: Sequence[Text], completions: Sequence[str], groups: Sequence[PromptGroup] | None) -> Any:
        values = {"groups": groups, "steps": [steps_of(text) for text in completions]}
        extra = {name: values[name] for name in self._extras}
        try:
            return _run(self.function, list(prompts), list(completions), **extra)
        except SystemExit as error:  # a function must not end the command, least of all with status 0
            raise RuntimeError(f"sys.exit({error.code!r})") from error


def _run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What the function returns. An awaitable is awaited."""
    answer = function(*arguments, **keywords)
    if inspect.isawaitable(answer):
        return asyncio.run_coroutine_threadsafe(_awaited(answer), _loop()).result()
    return answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except SystemExit as error:  # it would end the event loop without a message
        raise RuntimeError(f"sys.exit({error.code!r})") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all calls, in its own thread. What a function keeps between calls (a client, a semaphore) is
    bound to the loop that first used it, and a notebook already runs a loop in the caller's thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward functions", daemon=True).start()
    return loop


def load_function(spec: str, *, process: bool = False) -> FunctionReward:
    """Loads `module:function` from Python's path or the working directory. Raises ConfigError if it cannot."""
    function = import_function(spec, what="reward", may_be_async=True)
    _check_signature(function, spec)
    return FunctionReward(function, name=spec, process=process)


def source_hash(spec: str) -> str:
    """The hash of the module that `spec` names and of the module that defines the function. Raises ConfigError as
    `load_function` does."""
    function = load_function(spec).function
    if spec.startswith(f"{functions.LENT}:"):  # its name has the hash of its source
        return spec
    return functions.source_hash([spec.partition(":")[0], getattr(function, "__module__", None)])


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function written in C
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_signature(function: Callable[..., Any], spec: str) -> None:
    """Raises ConfigError if the function cannot be called with prompts and completions. Nothing else is loaded yet."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind([], [], **{name: None for name in EXTRAS if _takes(function, name)})
    except TypeError as error:
        raise ConfigError(
            f"the reward function cannot be called with prompts and completions: {error}",
            got=f"{spec}{signature}",
            expected="(prompts, completions), and optionally groups and steps",
        ) from None
    names = list(signature.parameters)
    if names[0] == "completions" or names[1:2] == ["prompts"]:
        raise ConfigError(
            "the reward function is called with prompts first, but its parameters are in the other order",
            got=f"{spec}{signature}",
            expected="(prompts, completions), and optionally groups and steps",
            fix="change the order of its first two parameters",
        )
