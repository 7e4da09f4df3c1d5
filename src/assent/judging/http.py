"""JSON over HTTP for judges and rewards behind an address: one request, repeated while the server is busy."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from assent.errors import ConfigError, RunError

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
LONGEST_WAIT_SECONDS = 30.0
MAX_ANSWER_BYTES = 32_000_000


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that a key is only sent to the address that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


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
) -> Any:
    """Sends `body` and returns the JSON of the answer. `key` is sent as a bearer token; if the answer or an error
    repeats it, it is replaced by asterisks.

    A busy or unreachable server is asked again up to `retries` times, after 1, 2, 4, … seconds or after its
    Retry-After. Raises RunError for any other status, if the server stays busy, and if the answer is not JSON.
    """
    request = urllib.request.Request(
        check_address(url),
        data=json.dumps(body, ensure_ascii=False, allow_nan=False).encode(),
        headers={"Content-Type": "application/json", **({} if key is None else {"Authorization": f"Bearer {key}"})},
        method="POST",
    )
    for attempt in range(retries + 1):
        try:
            with _opener.open(request, timeout=timeout_seconds) as response:
                content = response.read(MAX_ANSWER_BYTES + 1)
            break
        except urllib.error.HTTPError as error:
            problem, wait = _status(error, key), _retry_after(error)
            if error.code not in BUSY:
                raise RunError(f"{url} refused the request", got=problem, fix=_remedy(error.code)) from None
        except (OSError, urllib.error.URLError, HTTPException) as error:  # a time-out is an OSError
            problem, wait = str(getattr(error, "reason", None) or error or type(error).__name__), None
        if attempt == retries:
            raise RunError(
                f"{url} did not answer",
                got=f"{problem}, {attempt + 1} times",
                fix="check that the server is running and reachable, then repeat the command",
            )
        time.sleep(min(wait if wait is not None else 2.0**attempt, LONGEST_WAIT_SECONDS))
    try:
        if len(content) > MAX_ANSWER_BYTES:
            raise ValueError("longer than 32 MB")
        return json.loads(_without(key, content.decode()))
    except ValueError as error:
        shown = _without(key, content.decode(errors="replace"))[:200]
        raise RunError(f"{url} did not answer with JSON: {error}", got=repr(shown)) from None


def _without(key: str | None, text: str) -> str:
    return text.replace(key, "***") if key else text


def _status(error: urllib.error.HTTPError, key: str | None) -> str:
    text = " ".join(_without(key, error.read(8192).decode(errors="replace")).split())[:400]
    return f"status {error.code}" + (f": {text}" if text else "")


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:  # absent, or a date
        return None


def _remedy(status: int) -> str:
    named = {401: "check the key", 403: "check the key", 404: "check the address and the model's name"}
    return named.get(status, "see the server's message")
