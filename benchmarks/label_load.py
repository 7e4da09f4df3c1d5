"""How long does an annotator wait for the next item, beside nineteen others, and is any item lost or given twice?

Simulated annotators label over HTTP at an app in a process of its own: each gets the page of its item, thinks, sends
the form, and follows the redirect to the next item. That last request, which gives the next item, is what is timed.

    python benchmarks/label_load.py                                   10,000 items on SQLite, until all are labelled
    python benchmarks/label_load.py --stored 1000000 --seconds 60     a minute, with a million comparisons stored before
    python benchmarks/label_load.py --postgresql                      on PostgreSQL, started for the purpose

Prints one JSON document: percentiles of the next item's request in milliseconds, items, doubles, losses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
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
from assent.feedback.store.reading import counting
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
    """Comparisons that were made before, ten on each of some items, written by the thousand."""
    size = max(1, count // len(people))
    rows = items(size, first=10**7)
    with database.writing() as connection:
        add_within(database, connection, rows, task="compare")
        prefixed = sa.select(schema.items.c.id).order_by(schema.items.c.id.desc()).limit(size)
        numbers = list(connection.scalars(prefixed))
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


class Annotator(threading.Thread):
    """Labels until nothing is left, or until the time is over."""

    def __init__(self, address: str, token: str, *, think: float, end: float) -> None:
        super().__init__()
        self.address, self.token, self.think, self.end = address, token, think, end
        self.waits: list[float] = []
        self.done = 0

    def run(self) -> None:
        with httpx2.Client(base_url=self.address, headers={"origin": self.address}, timeout=60) as client:
            page = client.get("/login").text
            client.post("/login", data={"csrf": csrf(page), "name": self.token, "password": PASSWORD})
            page = client.get("/label").text
            while 'id="answer"' in page and time.monotonic() < self.end:
                time.sleep(self.think)
                fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))
                sent = client.post("/label", data={**fields, "choice": random.choice("12=")})
                assert sent.status_code == 303, sent.text
                self.done += 1
                start = time.perf_counter()
                answer = client.get("/label")
                self.waits.append(time.perf_counter() - start)
                page = answer.text


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
        found = re.search(r"http://[\d.]+:\d+", process.stderr.readline())
        assert found is not None, process.stderr.read()
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
        yield postgresql.new_database(stack.enter_context(postgresql.server()), "labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--think", type=float, default=0.5, help="seconds between page and answer")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long")
    parser.add_argument("--stored", type=int, default=0, help="comparisons in the store before")
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    with new_store(options.postgresql) as store:
        with open_database(store) as database:
            names = [f"annotator {n}" for n in range(options.annotators)]
            people = [accept(database, invite(database, name), PASSWORD).id for name in names]
            if options.stored:
                store_before(database, options.stored, people)
            add_items(database, items(options.items), task="compare", reviews=1)
        with served(store) as address:
            end = time.monotonic() + options.seconds
            workers = [Annotator(address, name, think=options.think, end=end) for name in names]
            start = time.monotonic()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            took = time.monotonic() - start
        with open_database(store) as database:
            print(json.dumps(report(database, options, workers, took), indent=1))


def report(database: Database, options: argparse.Namespace, workers: list[Annotator], took: float) -> dict[str, Any]:
    with database.reading() as connection:
        judged = [one.item_id for one in counting(connection) if one.created > 0]
    waits = np.array([wait for worker in workers for wait in worker.waits]) * 1000
    sent = sum(worker.done for worker in workers)
    return {
        "store": "PostgreSQL" if not database.is_sqlite else "SQLite",
        "stored_before": options.stored,
        "annotators": options.annotators,
        "think_s": options.think,
        "seconds": round(took, 1),
        "next_item_ms": {f"p{p}": round(float(np.percentile(waits, p)), 1) for p in (50, 95, 99)}
        | {"max": round(float(waits.max()), 1)},
        "answers_sent": sent,
        "answers_stored": len(judged),
        "lost": sent - len(judged),
        "doubled": len(judged) - len(set(judged)),
        "left": options.items - len(set(judged)),
    }


if __name__ == "__main__":
    main()
