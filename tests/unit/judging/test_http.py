"""JSON over HTTP: what is asked again, what is refused at once, and what the messages say."""

from __future__ import annotations

import socketserver
from threading import Thread
from typing import Any

import pytest

from assent.errors import ConfigError, RunError
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


def test_an_address_is_http_and_holds_no_password() -> None:
    assert is_address("https://a.b/c")
    assert not is_address("module:function")
    for wrong in ("http://", "ftp://a.b"):
        with pytest.raises(ConfigError, match="not the address of a server"):
            check_address(wrong)
    with pytest.raises(ConfigError) as caught:
        check_address("https://me:secret@a.b")
    assert "secret" not in str(caught.value)
