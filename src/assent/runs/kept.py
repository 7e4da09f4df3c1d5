"""Keeps answers that were paid for as they arrive, so that a resumed run does not ask again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock
from typing import Any

from assent.runs.files import append_line, keep_lines, put_aside_damage, read_lines, to_json


def content_key(asked: Any) -> str:
    """SHA-256 of everything that an answer depends on, as JSON."""
    return hashlib.sha256(to_json(asked).encode()).hexdigest()


class Kept:
    """A file of answers, one on each line, found by the content of the question. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        rows = [row for row in read_lines(path) if _is_whole(row)]
        self.said: list[str] = []
        """What to report of damaged lines: they are put aside, and what they answered is asked again."""
        if path.exists():
            self.said = put_aside_damage(path, _is_whole)
            keep_lines(path, rows)  # drops a line that a kill has cut
        self._answers = {row["key"]: row["answer"] for row in rows}

    def __len__(self) -> int:
        return len(self._answers)

    def answers(self) -> list[Any]:
        """All answers, in the order in which they came."""
        return list(self._answers.values())

    def find(self, asked: Any) -> Any | None:
        """The answer; None if there is none."""
        return self._answers.get(content_key(asked))

    def keep(self, asked: Any, answer: Any) -> Any:
        """Keeps the answer and returns it. If there already is one, returns that: each question has one answer."""
        key = content_key(asked)
        with self._lock:
            if key not in self._answers:
                append_line(self._path, {"key": key, "answer": answer, "sha256": content_key([key, answer])})
                self._answers[key] = answer
            return self._answers[key]


def _is_whole(row: dict[str, Any]) -> bool:
    return row.get("sha256") == content_key([row.get("key"), row.get("answer")])
