"""How long does an annotator wait for the next item, beside nineteen others, and is any item lost or given twice?

Simulated annotators label over HTTP at an app in a process of its own: each gets the page of its item, thinks, sends
the form, and follows the redirect to the next item. That last request, which gives the next item, is what is asked
about (`next_item_ms`); the annotator waits for the form's request too (`answer_ms`). They sign in first, and begin at
different moments of the time that they think. The clients share the computer with the app.

    python benchmarks/label_load.py                 SQLite: 10,000 items until all are labelled, in an empty store and
                                                    in one that holds a million comparisons
    python benchmarks/label_load.py --postgresql    the same on PostgreSQL, started for the purpose
    python benchmarks/label_load.py --stored 1000000 --seconds 60      a minute of the second alone

Prints a JSON document on a line for each store: percentiles in milliseconds, the app's processor time with its start,
answers, losses, doubles. Exit status 1 if
an answer is lost, or an item is given or judged twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import sqlalchemy as sa

from assent.feedback.store import schema
from assent.feedback.store.database import Database, open_database
from assent.feedback.store.items import add_items, add_within
from assent.feedback.store.people import accept, invite
from assent.feedback.tasks import Candidate, NewItem

PASSWORD = "correct horse battery"


def items(count: int, *, first: int = 0) -> list[NewItem]:
    """Prompts and answers of some hundred characters."""
    words = [
        "the",
        "answer",
        "is",
        "that",
        "some",
        "people",
        "prefer",
        "shorter",
        "texts",
        "and",
        "others",
        "do",
        "not",
    ]

    def text(number: int, salt: str) -> str:
        return " ".join(random.Random(f"{salt} {number}").choices(words, k=60))

    return [
        NewItem(prompt=f"{n}: {text(n, 'q')}?", completions=tuple(Candidate(text=text(n, s)) for s in "ab"))
        for n in range(first, first + count)
    ]


def store_before(database: Database, count: int, people: list[int]) -> None:
    """Comparisons that were made before: each annotator's on the same items, which are done."""
    size = max(1, count // len(people))
    rows = items(size, first=10**7)
    with database.writing() as connection:
        add_within(database, connection, rows, task="compare")
        prefixed = sa.select(schema.items.c.id).order_by(schema.items.c.id.desc()).limit(size)
        numbers = list(connection.scalars(prefixed))
        done = {"position": 0.0, "reviews": len(people), "remaining": 0, "disputed": 0}
        connection.execute(sa.insert(schema.queue), [{"item_id": number, **done} for number in numbers])
        start = (connection.scalar(sa.select(sa.func.max(schema.assignments.c.id))) or 0) + 1
        for at, person in enumerate(people):
            given = [
                {"id": start + at * size + i, "item_id": item, "annotator_id": person, "occasion": 0, "ordinal": i + 1,
                 "shown_order": [0, 1], "state": "done", "given": 0.0} for i, item in enumerate(numbers)
            ]  # fmt: skip
            said = [
                {"assignment_id": row["id"], "revision": 0, "item_id": row["item_id"], "annotator_id": person,
                 "value": {"ranking": [1, 2]}, "seconds": 1.0, "created": 0.0} for row in given
            ]  # fmt: skip
            connection.execute(sa.insert(schema.assignments), given)
            connection.execute(sa.insert(schema.judgements), said)
        if not database.is_sqlite:
            for table in ("assignments", "judgements"):
                connection.execute(
                    sa.text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
                )
    if not database.is_sqlite:  # what autovacuum does in a store that grows over days
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


class Annotator(threading.Thread):
    """Labels until nothing is left, or until the time is over.

    signed_in   all annotators meet there before they begin
    """

    def __init__(self, address: str, name: str, *, think: float, seconds: float, signed_in: threading.Barrier) -> None:
        super().__init__()
        self.address, self.token, self.think, self.seconds = address, name, think, seconds
        self.signed_in = signed_in
        self.sends: list[float] = []
        self.waits: list[float] = []
        self.began = self.ended = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx2.Client(base_url=self.address, headers={"origin": self.address}, timeout=60) as client:
                self._label(client)
        except BaseException as error:
            self.failure = error
            self.signed_in.abort()

    def _label(self, client: httpx2.Client) -> None:
        page = client.get("/login").text
        signed = client.post("/login", data={"csrf": csrf(page), "name": self.token, "password": PASSWORD})
        assert signed.status_code == 303, signed.text
        self.signed_in.wait()
        self.began = time.monotonic()
        time.sleep(random.uniform(0, self.think))
        page = checked(client.get("/label"), 200)
        while 'id="answer"' in page and time.monotonic() < self.began + self.seconds:
            time.sleep(self.think)
            fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))
            start = time.perf_counter()
            checked(client.post("/label", data={**fields, "choice": random.choice("12=")}), 303)
            middle = time.perf_counter()
            page = checked(client.get("/label"), 200)
            self.sends.append(middle - start)
            self.waits.append(time.perf_counter() - middle)
        self.ended = time.monotonic()


def checked(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    return response.text


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


@contextlib.contextmanager
def served(store: str) -> Iterator[str]:
    """`assent label` at a free port."""
    argv = [sys.executable, "-m", "assent", "label", "--store", store, "--port", "0", "--no-open"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r"http://[\d.]+:\d+", said)) is None:
            line = process.stderr.readline()
            assert line, f"the app ended: {said}"
            said += line
        # read on, so that the app never waits for somebody to read what it writes
        threading.Thread(target=shutil.copyfileobj, args=(process.stderr, sys.stderr), daemon=True).start()
        yield found[0]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def new_store(is_postgresql: bool) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if not is_postgresql:
            yield str(Path(folder) / "labels.db")
            return
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.support import postgresql

        if postgresql.PROGRAMS is None:
            sys.exit(postgresql.ABSENT)
        yield postgresql.new_database(stack.enter_context(postgresql.server(durable=True)), "labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--think", type=float, default=0.5, help="seconds between page and answer")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long")
    parser.add_argument(
        "--stored", type=int, nargs="+", default=[0, 1_000_000], help="comparisons in the store before, of each store"
    )
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    is_right = True
    for stored in options.stored:
        found = measured(options, stored)
        print(json.dumps(found), flush=True)
        is_right &= not (found["lost"] or found["judged_twice"] or found["given_twice"])
    sys.exit(0 if is_right else 1)


def measured(options: argparse.Namespace, stored: int) -> dict[str, Any]:
    with new_store(options.postgresql) as store:
        begun = time.monotonic()
        with open_database(store) as database:
            names = [f"annotator {n}" for n in range(options.annotators)]
            people = [accept(database, invite(database, name), PASSWORD).id for name in names]
            if stored:
                store_before(database, stored, people)
            add_items(database, items(options.items), task="compare", reviews=1)
        filling = time.monotonic() - begun
        print(f"the store was filled in {filling:.0f} s", file=sys.stderr, flush=True)
        before = _children_s()
        with served(store) as address:
            signed_in = threading.Barrier(len(names))
            more: Any = {"think": options.think, "seconds": options.seconds, "signed_in": signed_in}
            workers = [Annotator(address, name, **more) for name in names]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        app_cpu_s = _children_s() - before
        failures = [worker.failure for worker in workers if worker.failure is not None]
        for failure in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise failure  # the first that is not only that of another
        with open_database(store) as database:
            times = {"filling_s": round(filling, 1), "app_cpu_s": round(app_cpu_s, 1)}
            return {"stored_before": stored, **times, **report(database, options, workers)}


def _children_s() -> float:
    """Processor time of processes that have ended: here the app, with its start."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def report(database: Database, options: argparse.Namespace, workers: list[Annotator]) -> dict[str, Any]:
    judgements, assignments = schema.judgements, schema.assignments
    with database.reading() as connection:
        judged = connection.scalars(sa.select(judgements.c.item_id).where(judgements.c.created > 0)).all()
        given = connection.scalars(sa.select(assignments.c.item_id).where(assignments.c.given > 0)).all()
        version = connection.scalar(sa.text("SELECT sqlite_version()" if database.is_sqlite else "SHOW server_version"))
    sent = sum(len(worker.sends) for worker in workers)
    return {
        "store": f"{'SQLite' if database.is_sqlite else 'PostgreSQL'} {version}",
        "cores": os.cpu_count(),
        "annotators": options.annotators,
        "think_s": options.think,
        "seconds": round(max(worker.ended for worker in workers) - min(worker.began for worker in workers), 1),
        "next_item_ms": percentiles([wait for worker in workers for wait in worker.waits]),
        "answer_ms": percentiles([wait for worker in workers for wait in worker.sends]),
        "answers_sent": sent,
        "answers_stored": len(judged),
        "lost": sent - len(judged),
        "judged_twice": len(judged) - len(set(judged)),
        "given_twice": len(given) - len(set(given)),
        "left": options.items - len(set(judged)),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    waits = np.array(seconds) * 1000
    found = {f"p{p}": round(float(np.percentile(waits, p)), 1) for p in (50, 95, 99)}
    return {**found, "max": round(float(waits.max()), 1)}


if __name__ == "__main__":
    main()
