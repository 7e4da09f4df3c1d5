"""Does pieces of work in a pool of workers. A worker that dies and a row that fails lose nothing.

A piece is a range of rows. It is tried again when its worker dies, and halved when it fails again, until the row that
fails stands alone: that row is kept apart, and the rest of the piece is done.

    inline      in this process                         here
    local       processes on this machine               integrations/local_pool.py
    ray         actors on a Ray cluster                 integrations/ray_pool.py
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from assent.errors import RunError

TRIES = 3
"""Of a piece whose worker dies. A piece that raises is not tried again as it is, because it would raise again."""
MOST_APART = 100
"""With more rows than this kept apart, it is not the rows that are at fault."""

Work = Callable[[Any], Any]
"""What a worker does with the rows of a piece."""
Open = Callable[[int], Work]
"""Called once in the worker of this number: loads its models. It can be sent to another process."""


@dataclass(frozen=True, slots=True)
class Finished:
    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """`died`: the worker is gone; otherwise its work raised. `opening`: it failed before it had any work."""

    reason: str
    died: bool = False
    opening: bool = False


Outcome = Finished | Failed


class Pool(Protocol):
    """Workers, counted from 0. Each has one piece of work at a time."""

    size: int

    def submit(self, worker: int, rows: Any) -> None: ...

    def wait(self) -> tuple[int, Outcome]:
        """The next worker that ended its work. One that died is replaced."""

    def close(self) -> None: ...


class Inline:
    """The work done in this process, when it is waited for."""

    size = 1

    def __init__(self, opened: Open) -> None:
        self._work: Work | None = None
        self._open, self._rows = opened, None

    def submit(self, worker: int, rows: Any) -> None:
        self._rows = rows

    def wait(self) -> tuple[int, Outcome]:
        if self._work is None:
            self._work = self._open(0)
        return 0, guarded(self._work, self._rows)

    def close(self) -> None:
        self._work = None


def guarded(work: Work, rows: Any) -> Outcome:
    """The work's value, or the error it raised as text: not every error can be sent to another process."""
    try:
        return Finished(work(rows))
    except Exception as error:  # any error is the rows', until proven otherwise
        return Failed(reason_of(error))


def reason_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(slots=True)
class Result:
    """What became of a piece: the values of its parts in order, and the rows kept apart with the reason."""

    values: list[Any] = field(default_factory=list)
    apart: list[tuple[int, str]] = field(default_factory=list)


Range = tuple[int, int]


def attempts(first: int, last: int, *, failed: Callable[[str], None]) -> Generator[Range, Outcome, Result]:
    """Yields ranges to work on, and is sent how each ended. Returns what became of the piece."""
    result, waiting = Result(), [(first, last, 0)]
    while waiting:
        first, last, tries = waiting.pop()
        outcome = yield first, last
        if isinstance(outcome, Finished):
            result.values.append(outcome.value)
            continue
        failed(outcome.reason)
        if outcome.died and tries + 1 < TRIES:
            waiting.append((first, last, tries + 1))
        elif last - first == 1:
            result.apart.append((first, outcome.reason))
            if len(result.apart) > MOST_APART:
                raise _not_the_rows(result)
        else:
            middle = (first + last) // 2
            waiting += [(middle, last, 0), (first, middle, 0)]
    if not result.values and len(result.apart) > 1:
        raise _not_the_rows(result)
    return result


def _not_the_rows(result: Result) -> RunError:
    return RunError(
        "the work fails on so many rows that it is not the rows",
        got=f"{len(result.apart)} rows that each fail alone; the last: {result.apart[-1][1]}",
        fix="do the work on one row by hand; the shards that are done are kept",
    )


def execute(
    pool: Pool,
    pieces: Iterable[tuple[Any, int, int]],
    *,
    load: Callable[[int, int], Any],
    keep: Callable[[Any, Result], None],
    failed: Callable[[Any, str], None],
) -> None:
    """Works on all pieces (a key, and its rows from `first` to `last`).

    load     the rows to send to a worker
    keep     gets each piece's key and what became of it
    failed   gets each piece's key and the reason, whenever a try fails

    Raises RunError if a worker cannot be opened, or if the work fails on too many rows.
    """
    loaded = ((piece, load(piece[1], piece[2])) for piece in pieces)
    ahead = next(loaded, None)  # read before a worker waits for it
    going: dict[int, tuple[Any, Generator[Range, Outcome, Result]]] = {}

    def start(worker: int) -> None:
        if ahead is not None:
            (key, first, last), rows = ahead
            steps = attempts(first, last, failed=lambda reason: failed(key, reason))
            next(steps)
            going[worker] = key, steps
            pool.submit(worker, rows)

    for worker in range(pool.size):
        start(worker)
        ahead = next(loaded, None)
    while going:
        worker, outcome = pool.wait()
        if isinstance(outcome, Failed) and outcome.opening:
            raise RunError("a worker cannot be started", got=outcome.reason)
        key, steps = going.pop(worker)
        try:
            again = steps.send(outcome)
        except StopIteration as ended:
            start(worker)  # first, so that it works while its last result is kept
            keep(key, ended.value)
            ahead = next(loaded, None)
        else:
            going[worker] = key, steps
            pool.submit(worker, load(*again))
