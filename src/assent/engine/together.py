"""Several processes as one run: what each of them does, waits without a limit of the process group, and one end.

They talk through the store by which they found each other, beside the process group. Each process has a thread that
says every few seconds that it lives and what it does, and that looks whether another one has failed. So

- a wait for slow work elsewhere (a judge, a disk) lasts as long as whoever works is alive, and no longer;
- a wait that ends in failure says what each process was doing;
- one process's error ends all of them, with that error. A process that is stuck in a collective call cannot be told;
  after a few seconds its thread ends it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch.distributed
from torch.distributed import PrefixStore, Store, TCPStore

from assent.errors import AssentError, RunError

COLLECTIVE_SECONDS = 1800
"""The longest that a collective call waits: all processes do the same work before each."""
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 300.0
"""A process that has said nothing for so long is taken for dead."""
LONGEST_SECONDS = 24 * 3600.0
"""The longest wait for a process that is alive."""
FAREWELL_SECONDS = 10.0
"""How long a failed process, and whoever holds the store, waits for the others to notice."""
GRACE_SECONDS = 10.0
"""How long a process may take to end by itself after another one has failed."""

_runs = itertools.count()


class Together:
    """The processes of one run. Use it in a `with` block around all that they do together."""

    def __init__(self, rank: int, number: int) -> None:
        self.rank, self.number = rank, number
        self.doing = "starting"
        """What this process does, in a few words, for the message of another one that waits for it in vain."""
        self._since = time.monotonic()
        name = f"assent/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_runs)}"
        self._store, self._beats_on = _store(name), _store(name)  # a connection for each thread
        self._meetings = 0
        self._leaving = threading.Event()
        self._failure: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._beat, name="assent-together", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._leaving.set()
        self._thread.join()
        try:
            first = None if error is None else self._fail(error)
            self._farewell(failed=error is not None)
        except (RuntimeError, OSError):  # whoever holds the store is gone
            first = self._failure
        if error is not None and not isinstance(error, AssentError | KeyboardInterrupt):
            if first is not None and first["rank"] != self.rank:
                raise _of_another(first) from error
            if _is_of_communication(error):
                raise self._given_up("a collective call", str(error)) from error

    def begins(self, what: str) -> None:
        """Says what this process does from now on."""
        self.doing, self._since = what, time.monotonic()

    def meet(self, what: str) -> None:
        """Waits until every process is here, however long their work takes, as long as they live. `what` names the
        work before the meeting. Raises RunError, which says what each process does."""
        self._meetings += 1
        key, began = f"meeting/{self._meetings}", time.monotonic()
        was, before = self.doing, self._since
        self.begins(f"waiting for the others after {what}")
        if self._store.add(f"{key}/here", 1) == self.number:
            self._store.set(f"{key}/all", "1")
        heard = dict.fromkeys(range(self.number), (b"", began))
        while not self._is_set(f"{key}/all", wait=BEAT_SECONDS):
            if self._failure is not None:
                raise _of_another(self._failure)
            now = time.monotonic()
            for rank in range(self.number):
                beat = self._heard(self._store, rank)
                if beat != heard[rank][0]:
                    heard[rank] = beat, now
                elif now - heard[rank][1] > SILENCE_SECONDS:
                    raise self._given_up(what, f"process {rank} is silent for {SILENCE_SECONDS:.0f} s")
            if now - began > LONGEST_SECONDS:
                raise self._given_up(what, f"it took longer than {LONGEST_SECONDS / 3600:.0f} h")
        self.doing, self._since = was, before

    def everyone(self) -> str:
        """What each process said last that it does."""
        lines = []
        for rank in range(self.number):
            told = self._heard(self._store, rank)
            what, seconds = json.loads(told)[:2] if told else ("has said nothing", 0)
            if rank == self.rank:
                what, seconds = self.doing, time.monotonic() - self._since
            lines.append(f"process {rank}: {what}, for {seconds:.0f} s")
        return "; ".join(lines)

    def _given_up(self, what: str, why: str) -> RunError:
        try:
            doing = self.everyone()
        except (RuntimeError, OSError):
            doing = f"the process that keeps the store is gone; this one, {self.rank}: {self.doing}"
        return RunError(
            f"process {self.rank} waited for the others in vain, in {what}: {' '.join(why.split())[:200]}",
            got=doing,
            fix="look at the log of the process that does something else, or that is gone; the same command resumes",
        )

    def _fail(self, error: BaseException) -> dict[str, Any]:
        """Tells the others. Returns the first failure of any process."""
        text = str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
        status = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 3)
        own = json.dumps({"rank": self.rank, "text": text, "status": status})
        first: dict[str, Any] = json.loads(self._store.compare_set("failure", "", own))
        return first

    def _farewell(self, *, failed: bool) -> None:
        """The first process may hold the store, and a failed one's end breaks connections: both go last."""
        self._store.add("left", 1)
        until = time.monotonic() + FAREWELL_SECONDS
        if failed or self.rank == 0:
            self._wait_for("left", self.number, until)
        self._store.add("gone", 1)
        if self.rank == 0:
            self._wait_for("gone", self.number, until)

    def _wait_for(self, key: str, number: int, until: float) -> None:
        while self._store.add(key, 0) < number and time.monotonic() < until:
            time.sleep(0.02)

    def _beat(self) -> None:
        """The thread: says that this process lives, and ends it if another one has failed and it does not end."""
        for number in itertools.count():
            try:
                seconds = time.monotonic() - self._since
                self._beats_on.set(f"doing/{self.rank}", json.dumps([self.doing, round(seconds), number]))
                if self._is_set("failure", self._beats_on):
                    self._failure = json.loads(self._beats_on.get("failure"))
            except (RuntimeError, OSError) as error:
                self._failure = {"rank": 0, "text": f"it cannot be reached any more: {error}", "status": 3}
            if self._failure is not None:
                break
            if self._leaving.wait(BEAT_SECONDS):
                return
        assert self._failure is not None
        if not self._leaving.wait(GRACE_SECONDS):
            print(f"error: {_of_another(self._failure)}", file=sys.stderr, flush=True)
            os._exit(self._failure["status"])

    def _is_set(self, key: str, store: Store | None = None, *, wait: float = 0.0) -> bool:
        store = store or self._store
        if not wait:
            return bool(store.check([key]))
        try:
            store.wait([key], timedelta(seconds=wait))
        except torch.distributed.DistStoreError:
            return bool(store.check([key]))
        return True

    @staticmethod
    def _heard(store: Store, rank: int) -> bytes:
        """The last that a process said."""
        return bytes(store.get(f"doing/{rank}")) if store.check([f"doing/{rank}"]) else b""


def _store(name: str) -> Store:
    """A connection of its own to the store by which the processes found each other."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
    return PrefixStore(name, store)


def _of_another(failure: dict[str, Any]) -> RunError:
    error = RunError(f"process {failure['rank']} failed, which ends this one too: {failure['text']}")
    error.exit_status = failure["status"]
    return error


def _is_of_communication(error: BaseException) -> bool:
    """Whether a collective call failed. Gloo raises plain RuntimeErrors."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("gloo", "nccl", "timed out", "connection closed", "connection reset", "broken pipe")
    )
