"""Answers that were paid for, kept as they come: a run that goes on does not ask again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock
from typing import Any

from assent.runs.files import append_line, keep_lines, read_lines, to_json


def content_key(asked: Any) -> str:
    """SHA-256 of all that an answer depends on, as JSON."""
    return hashlib.sha256(to_json(asked).encode()).hexdigest()


class Kept:
    """A file of answers, a line each, found by the content of what was asked. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        rows = read_lines(path)
        if path.exists():
            keep_lines(path, rows)  # without a line that a kill has cut
        self._answers = {row["key"]: row["answer"] for row in rows}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, asked: Any) -> Any | None:
        """The answer; None where there is none."""
        return self._answers.get(content_key(asked))

    def keep(self, asked: Any, answer: Any) -> Any:
        """Keeps the answer and gives it back; or the one that came first, so that a question has one answer."""
        key = content_key(asked)
        with self._lock:
            if key not in self._answers:
                append_line(self._path, {"key": key, "answer": answer})
                self._answers[key] = answer
            return self._answers[key]
