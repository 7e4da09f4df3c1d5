"""`assent judge` against a server that fails in every way: the labels are those of a server that does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.errors import DataError, RunError
from assent.judging import http
from tests.support.chat import completion, prefers
from tests.support.http import serving
from tests.support.rows import read_rows, write_rows

LONGER = prefers(lambda a, b: len(a) > len(b))
PATIENCE_SECONDS = 120.0
SHORT_SECONDS = 5.0
"""The patience with a server that is slow."""
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


def whole(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def slow(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(120)  # longer than anybody waits
    whole(handler, body)


def dripping(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.2)


def cut_off(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


FAULTS: dict[str, Fault] = {
    "slow": slow,
    "dripping": dripping,
    "429": lambda handler, body: whole(handler, b"slow down", 429, Retry_After="0"),
    "500": lambda handler, body: whole(handler, b"oh", 500),
    "cut off": cut_off,
}
"""Those after which the same request is made again."""
BROKEN = {
    "malformed": b'{"choices": [',
    "no choices": b'{"choices": []}',
    "another document": b'["A"]',
}


@contextmanager
def failing(fault: Fault, *, times: int) -> Iterator[tuple[str, list[str]]]:
    """Its address and the questions so far. The first `times` requests of each question meet the fault."""
    seen: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            system, user = (message["content"] for message in asked["messages"])
            with lock:
                seen.append(user)
                number = seen.count(user)
            body = json.dumps(completion(LONGER(system, user))).encode()
            with suppress(OSError):
                fault(self, body) if number <= times else whole(self, body)

    with serving(Handler) as address:
        yield f"{address}/v1", seen


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT_SECONDS", 0.0)


def run(folder: Path, url: str, **options: Any) -> dict[str, Any]:
    rows = [{"prompt": f"q{i}", "completion": text} for i in range(3) for text in ("short", f"much longer {i}")]
    data = write_rows(folder / "data.jsonl", rows)
    given = {"data": data, "output_dir": folder / "out", "endpoint": url, "model": "m", "controls": 0}
    return assent.judge(**{**given, "timeout_seconds": PATIENCE_SECONDS, **options})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_changes_no_label_and_every_attempt_is_counted(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_slow = fault in ("slow", "dripping")
    asked: list[int] = []
    ask = http._ask

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return ask(*arguments, **options)

    monkeypatch.setattr(http, "_ask", counted)
    with failing(FAULTS[fault], times=1) as (url, seen):
        found = run(tmp_path, url, timeout_seconds=SHORT_SECONDS if is_slow else PATIENCE_SECONDS)
        # six questions, each twice; a good answer that is held up for so long is asked for again
        assert len(seen) == len(asked) == 12 or (is_slow and len(asked) >= len(seen) >= 12)
    assert [row["completions"][0] for row in read_rows(found["judged"])] == [f"much longer {i}" for i in range(3)]
    assert json.loads(Path(found["report"]).read_text())["spent"]["requests"] == len(asked)


@pytest.mark.parametrize("fault", ["429", "500"])
def test_a_fault_that_stays_ends_the_run_and_the_next_one_asks_only_the_rest(fault: str, tmp_path: Path) -> None:
    mended: list[bool] = []

    def late(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(seen) <= 3 or mended:
            whole(handler, body)
        else:
            FAULTS[fault](handler, body)

    with failing(late, times=10**6) as (url, seen):
        with pytest.raises(RunError, match=f"status {fault}.*5 times"):
            run(tmp_path, url, concurrency=1)
        assert len(seen) == 3 + 5  # after the error nothing more is asked
        answered = seen[:3]
        mended.append(True)
        found = run(tmp_path, url, concurrency=1)
    assert len(seen) == 8 + 3
    assert not set(answered) & set(seen[8:])
    assert len(read_rows(found["judged"])) == 3


@pytest.mark.parametrize("broken", BROKEN)
def test_an_answer_that_is_no_chat_completion_ends_the_run_and_is_shown(broken: str, tmp_path: Path) -> None:
    with (
        failing(lambda handler, body: whole(handler, BROKEN[broken]), times=10**6) as (url, _),
        pytest.raises(RunError, match="did not answer with"),
    ):
        run(tmp_path, url)


@pytest.mark.parametrize("reply", ["", "A or B", "B is better than A", "I cannot decide", "C"])
def test_a_reply_that_is_no_verdict_is_counted_never_guessed(reply: str, tmp_path: Path) -> None:
    body = json.dumps(completion(reply)).encode()
    with (
        failing(lambda handler, _: whole(handler, body), times=10**6) as (url, _),
        pytest.raises(RunError, match="6 of 6 replies of judge m"),
    ):
        run(tmp_path, url)


def test_contradictory_verdicts_tie(tmp_path: Path) -> None:
    body = json.dumps(completion("B")).encode()
    with failing(lambda handler, _: whole(handler, body), times=10**6) as (url, _):
        found = run(tmp_path, url)
    assert {tuple(row["ranking"]) for row in read_rows(found["judged"])} == {(1, 1)}
    assert json.loads(Path(found["report"]).read_text())["consistent"]["value"] == 0


def test_the_budget_counts_repeated_requests(tmp_path: Path) -> None:
    with failing(FAULTS["500"], times=1) as (url, seen):
        found = run(tmp_path, url, max_requests=7, concurrency=1)
    assert len(seen) == 7  # two for each question: three are answered, the fourth is not
    assert found["spent"]
    assert len(read_rows(found["judged"])) == 1


def test_the_budget_counts_what_failed_in_earlier_processes(tmp_path: Path) -> None:
    mended: list[bool] = []

    def until_mended(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        (whole if mended else FAULTS["500"])(handler, body)

    with failing(until_mended, times=10**6) as (url, seen):
        with pytest.raises(RunError, match="5 times"):
            run(tmp_path, url, max_requests=7, concurrency=1)
        with pytest.raises(DataError, match="the budget was spent before one prompt was judged"):
            run(tmp_path, url, max_requests=7, concurrency=1)
        assert len(seen) == 7
        mended.append(True)
        with pytest.raises(DataError, match="the budget was spent"):
            run(tmp_path, url, max_requests=7, concurrency=1)
        found = run(tmp_path, url, max_requests=13, concurrency=1)
    assert len(seen) == 7 + 6
    assert not found["spent"]
    assert json.loads(Path(found["report"]).read_text())["spent"]["requests"] == 13
