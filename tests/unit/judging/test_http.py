"""JSON over HTTP: what is asked again, what is refused at once, and what the messages say."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import pytest

from assent.errors import ConfigError, RunError
from assent.judging import http
from assent.judging.http import check_address, is_address, post_json
from tests.support.http import server


def test_the_request_arrives_and_a_busy_server_is_asked_again() -> None:
    seen: list[tuple[str, dict[str, Any], str]] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        seen.append((path, body, headers["Authorization"]))
        return (503, "busy") if len(seen) < 3 else (200, {"is": "well"})

    with server(answer) as url:
        got = post_json(f"{url}/score", {"text": "für"}, key="k")
    assert got == {"is": "well"}
    assert seen == [("/score", {"text": "für"}, "Bearer k")] * 3


@pytest.mark.parametrize(
    ("status", "document", "message"),
    [
        (401, {"error": "no such key"}, "no such key.*\n.*check the key"),
        (302, "", "status 302"),  # a key does not follow a redirection
        (200, "<html>", "did not answer with JSON"),
        (429, "slow down", "status 429: slow down, 3 times"),
    ],
)
def test_what_the_server_says_stands_in_the_message(status: int, document: Any, message: str) -> None:
    asked: list[str] = []

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(path)
        return status, document

    with server(answer) as url, pytest.raises(RunError, match=message):
        post_json(url, {}, retries=2)
    assert len(asked) == (3 if status == 429 else 1)


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("before", [0, 193, 393])
def test_a_key_that_the_server_repeats_is_not_told(status: int, before: int) -> None:
    """Not even where the message is cut within it."""
    with server(lambda *_: (status, "." * before + "s3cret-key and <more>")) as url, pytest.raises(RunError) as caught:
        post_json(url, {}, key="s3cret-key", retries=0)
    assert "s3c" not in str(caught.value)
    assert before or "***" in str(caught.value)


def test_an_answer_does_not_repeat_the_key() -> None:
    with server(lambda *_: (200, {"reply": "you sent k-123"})) as url:
        assert post_json(url, {}, key="k-123") == {"reply": "you sent ***"}


def test_a_server_that_does_not_answer_ends_the_call() -> None:
    with server(lambda *_: (200, {})) as url:
        pass
    with pytest.raises(RunError, match="did not answer"):
        post_json(url, {}, retries=0)


@pytest.mark.parametrize("said", [b"220 mail ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_a_server_that_speaks_something_else_or_breaks_off(said: bytes) -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.connection.recv(65536)
            self.wfile.write(said)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        with pytest.raises(RunError, match="did not answer"):
            post_json(f"http://127.0.0.1:{listener.server_address[1]}", {}, retries=0)
        listener.shutdown()
        thread.join()


@contextmanager
def raw_server(*answers: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """Its address, and the connections so far. Each connection gets the next answer, the last one again and again."""
    seen: list[int] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            seen.append(len(seen))
            with suppress(OSError):
                answers[min(len(seen), len(answers)) - 1](self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}", seen
        listener.shutdown()
        thread.join()


def says(text: str) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text.encode())


def drips(text: str) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for byte in text.encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.3)

    return answer


def waits(text: str) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(text.encode())
        time.sleep(120)

    return answer


GOOD = says('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"a": "b"}')
SLOW = "HTTP/1.1 200 OK\r\nX: " + "y" * 300 + "\r\nContent-Length: 300\r\n\r\n"
FAULTS = {
    "cut off": says('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a": '),
    "cut off without a length": says('HTTP/1.1 200 OK\r\n\r\n{"a": '),
    "cut off in a chunk": says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"),
    "no answer": lambda connection: connection.close(),
    "another protocol": says("220 mail ready\r\n"),
    "a 500 whose body never comes": waits("HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\n"),
    "a 500 that is cut off": says("HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\n{"),
    "headers that drip": drips(SLOW),
    "a body that drips": drips("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + " " * 900),
    "silence": waits(""),
}


ENDLESS = {"a 500 whose body never comes", "headers that drip", "a body that drips", "silence"}
"""They last for more than a minute and a half, unless the request ends before."""


@pytest.mark.parametrize("fault", FAULTS)
def test_transport_faults_of_any_shape_are_retried_and_end_in_time(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT_SECONDS", 0.0)
    with raw_server(FAULTS[fault], GOOD) as (url, seen):
        began = time.monotonic()
        if fault in ENDLESS:  # a good answer that is held up for two seconds is asked for again
            assert post_json(url, {}, timeout_seconds=2, retries=4) == {"a": "b"}
            assert len(seen) >= 2
        else:
            assert post_json(url, {}, timeout_seconds=120, retries=1) == {"a": "b"}
            assert len(seen) == 2
        assert time.monotonic() - began < 80


@pytest.mark.parametrize(
    ("fault", "seconds", "named"),
    [
        ("headers that drip", 1, r"timed out after 1 seconds, 2 times\n.*raise timeout_seconds"),
        ("a body that drips", 1, r"timed out after 1 seconds, 2 times\n.*raise timeout_seconds"),
        ("a 500 whose body never comes", 4, r"status 500, 2 times\n.*check that the server is running"),
        ("cut off without a length", 120, "perhaps cut off"),
    ],
)
def test_a_fault_that_stays_is_named(fault: str, seconds: int, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT_SECONDS", 0.0)
    with raw_server(FAULTS[fault]) as (url, _), pytest.raises(RunError, match=named):
        post_json(url, {}, timeout_seconds=seconds, retries=1)


def test_a_request_from_within_a_loop_is_answered() -> None:
    async def ask(url: str) -> Any:
        return post_json(url, {})

    with raw_server(GOOD) as (url, _):
        assert asyncio.run(ask(url)) == {"a": "b"}


def test_an_address_is_http_and_holds_no_password() -> None:
    assert is_address("https://a.b/c")
    assert not is_address("module:function")
    for wrong in ("http://", "ftp://a.b"):
        with pytest.raises(ConfigError, match="not the address of a server"):
            check_address(wrong)
    with pytest.raises(ConfigError) as caught:
        check_address("https://me:secret@a.b")
    assert "secret" not in str(caught.value)
