"""JSON over HTTP for judges and rewards behind an address: one request, repeated while the server is busy."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from assent.errors import ConfigError, RunError

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
LONGEST_WAIT_SECONDS = 30.0
MAX_ANSWER_BYTES = 32_000_000
_UNREACHABLE = "check that the server is running and reachable, then repeat the command"
_TOO_SLOW = "raise timeout_seconds, or send less at a time: many servers go on with what nobody waits for any more"


def is_address(spec: str) -> bool:
    """Whether `spec` is an address rather than a folder or a function."""
    return spec.startswith(("http://", "https://"))


def check_address(url: str) -> str:
    """Returns the address. Raises ConfigError if it names no server or holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.password is not None:
        raise ConfigError(
            "this is not the address of a server",
            got=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            expected="http://HOST[:PORT]/PATH or https://…; put a key into the environment, not into the address",
        )
    return url


def key_from(variable: str | None, *, url: str) -> str | None:
    """The key for a server from an environment variable. Raises ConfigError if the variable is not set."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(
            f"the environment has no key for {url}",
            got=f"{variable} is not set",
            fix=f"export {variable}=…, or name another variable",
        )
    return key


def post_json(
    url: str,
    body: Mapping[str, Any],
    *,
    key: str | None = None,
    timeout_seconds: float = 60.0,
    retries: int = 4,
    before_attempt: Callable[[], None] | None = None,
) -> Any:
    """Sends `body` and returns the JSON of the answer. `key` is sent as a bearer token; if the answer or an error
    repeats it, it is replaced by asterisks.

    A request ends after `timeout_seconds`, however its answer comes. A busy or unreachable server, and one whose answer
    breaks off, is asked again up to `retries` times, after 1, 2, 4, … seconds or after its Retry-After. Raises RunError
    for any other status, if the server stays busy, and if the answer is not JSON. `before_attempt` is called before the
    first attempt and each further one; what it raises ends the call.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    check_address(url)
    for attempt in range(retries + 1):
        wait, remedy = None, _UNREACHABLE
        if before_attempt is not None:
            before_attempt()
        try:
            answer = _run(_ask(url, content, headers, seconds=timeout_seconds))
            if answer.is_success:
                return _parsed(url, answer, key)
            wait, problem = answer.retry_after, _shown_status(answer, key)
            if answer.status not in BUSY:
                raise RunError(f"{url} refused the request", got=problem, fix=_remedy(answer.status))
        except (httpx.HTTPError, OSError, _CutOffError) as error:  # a time-out is an OSError
            problem = _without(key, str(error) or type(error).__name__)
            remedy = _TOO_SLOW if isinstance(error, TimeoutError) else remedy
        except httpx.InvalidURL as error:
            raise ConfigError("this is not the address of a server", got=url, expected=str(error)) from None
        if attempt == retries:
            raise RunError(
                f"{url} did not answer",
                got=f"{problem}, {attempt + 1} times",
                fix=remedy,
            )
        time.sleep(min(wait if wait is not None else 2.0**attempt, LONGEST_WAIT_SECONDS))
    raise AssertionError("the last attempt returns or raises")


class _CutOffError(Exception):
    """An answer that may have ended before its end."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """`sized`: whether the server said how long the body is, so that it is known to be whole."""

    status: int
    content: bytes
    sized: bool
    retry_after: float | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


async def _ask(url: str, content: bytes, headers: Mapping[str, str], *, seconds: float) -> _Answer:
    """One request, which ends after `seconds` in all. A refusal whose body does not come has an empty or partial one.

    Redirects are not followed, so that a key is only sent to the address that was given.
    """
    parts: list[bytes] = []
    response: httpx.Response | None = None
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(follow_redirects=False, timeout=seconds, verify=_tls()) as client,
            client.stream("POST", url, content=content, headers=dict(headers)) as response,
        ):
            async for part in response.aiter_bytes():
                parts.append(part)
                if sum(map(len, parts)) > MAX_ANSWER_BYTES:
                    break
    except (httpx.HTTPError, OSError) as error:
        if response is None or response.is_success:
            if isinstance(error, TimeoutError | httpx.TimeoutException):
                raise TimeoutError(f"timed out after {seconds:g} seconds") from None
            raise
    named = {name.lower() for name in response.headers}
    return _Answer(
        response.status_code,
        b"".join(parts),
        bool(named & {"content-length", "transfer-encoding"}),
        _retry_after(response.headers.get("Retry-After", "")),
    )


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Made once: it reads all certificates."""
    return httpx.create_ssl_context()


def _run(request: Coroutine[Any, Any, _Answer]) -> _Answer:
    """The result of a request, here or, where a loop runs in this thread (a notebook has one), in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(request)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, request).result()


def _parsed(url: str, answer: _Answer, key: str | None) -> Any:
    try:
        if len(answer.content) > MAX_ANSWER_BYTES:
            raise ValueError("longer than 32 MB")
        return json.loads(_without(key, answer.content.decode()))
    except (ValueError, RecursionError) as error:
        shown = _without(key, answer.content.decode(errors="replace"))[:200]
        if not answer.sized:  # it ends where the connection ended, so it may be cut off
            raise _CutOffError(f"not JSON, perhaps cut off: {shown!r}") from None
        raise RunError(f"{url} did not answer with JSON: {error}", got=repr(shown)) from None


def _without(key: str | None, text: str) -> str:
    return text.replace(key, "***") if key else text


def _shown_status(answer: _Answer, key: str | None) -> str:
    text = " ".join(_without(key, answer.content[:8192].decode(errors="replace")).split())[:400]
    return f"status {answer.status}" + (f": {text}" if text else "")


def _retry_after(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:  # absent, or a date
        return None


def _remedy(status: int) -> str:
    named = {401: "check the key", 403: "check the key", 404: "check the address and the model's name"}
    return named.get(status, "see the server's message")
