"""A scripted chat endpoint: it answers what a test's function says, and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tests.support.http import Answer, server


@dataclass
class Chat:
    """`url`; and the bodies of the requests so far."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)


def completion(text: str, *, logprobs: dict[str, float] | None = None, usage: Any = None) -> dict[str, Any]:
    """The document of a chat completion."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if logprobs is not None:
        listed = [{"token": token, "logprob": logprob} for token, logprob in logprobs.items()]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return {"choices": [choice]} | ({"usage": usage} if usage is not None else {})


@contextmanager
def chat(reply: Callable[[str, str], Any]) -> Iterator[Chat]:
    """`reply(system, user)` gives the reply's text, a whole document, or (status, document)."""
    found = Chat()

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        with found.lock:
            found.bodies.append(body)
        said = reply(*(message["content"] for message in body["messages"]))
        if isinstance(said, tuple):
            return said
        return 200, completion(said) if isinstance(said, str) else said

    with server(answer) as url:
        found.url = f"{url}/v1"
        yield found


def answers_in(user: str) -> tuple[str, str]:
    """The two answers, from the text that a judge is shown."""
    mark = user.split(" request\n", maxsplit=1)[0]
    parts = user.split(mark)
    return parts[2].removeprefix(" answer A\n").rstrip("\n"), parts[3].removeprefix(" answer B\n").rstrip("\n")


def prefers(better: Callable[[str, str], bool]) -> Callable[[str, str], str]:
    """A judge that replies A where `better(A's answer, B's answer)`."""
    return lambda system, user: "A" if better(*answers_in(user)) else "B"
