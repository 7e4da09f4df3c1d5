"""The labelling app in a real browser: by keyboard, two annotators at once, a killed server in between."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assent.feedback.store.database import open_database
from assent.feedback.store.items import add_guidelines, add_items
from assent.feedback.store.labelling import answer, next_assignment
from assent.feedback.store.people import ensure_annotator, invite
from assent.feedback.store.reading import counting
from assent.feedback.tasks import to_items
from tests.support.chromium import PROGRAM
from tests.support.feedback import fill, hostile, label_all
from tests.support.rows import group, pair, read_rows, turns

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian's package: chromium)")
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=PROGRAM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=240_000
        )
        yield chromium
        chromium.close()


class Served:
    """`assent label` in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.store = store
        self.begin()

    def begin(self) -> None:
        argv = [sys.executable, "-m", "assent", "label", "--store", str(self.store), "--no-open"]
        argv += ["--port", str(self.port), "--annotator", "owner"]
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + self._process.stderr.read()
        self.link = found[0]
        self._process.stderr.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(240)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return status


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], Served]]:
    begun: list[Served] = []

    def begin() -> Served:
        begun.append(Served(tmp_path / "labels.db"))
        return begun[-1]

    yield begin
    for one in begun:
        one.kill()


def quiet(page: Any) -> list[str]:
    """What the page says in the console, violations of the policy included, and what it asks for elsewhere."""
    said: list[str] = []
    page.on("console", lambda message: None if message.text.startswith("[DOM]") else said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if "127.0.0.1" not in request.url else None)
    return said


def press(page: Any, key: str) -> None:
    """A key that leads to another page; the next page is there when this returns, so the answer is stored."""
    with page.expect_navigation(wait_until="load"):
        page.keyboard.press(key)


def is_done(page: Any) -> bool:
    return bool(page.locator("#answer").count() == 0)


def test_fifty_items_two_annotators_and_a_killed_server(
    browser: Any, serve: Callable[[], Served], tmp_path: Path
) -> None:
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 50)
        token = invite(database, "mia")
    served = serve()
    first, second = browser.new_context().new_page(), browser.new_context().new_page()
    said = quiet(first), quiet(second)
    first.goto(served.link)
    second.goto(f"http://127.0.0.1:{served.port}/invitation/{token}")
    second.fill("input[name=password]", PASSWORD)
    second.fill("input[name=again]", PASSWORD)
    press(second, "Enter")
    keys = "12=12"
    for step in range(60):
        if step == 12:
            served.kill()
            served.begin()
        for page, shift in ((first, 0), (second, 2)):
            if not is_done(page):
                press(page, keys[(step + shift) % 5])
        if step == 5:
            press(first, "u")
            assert "You had this item before" in first.inner_text("main")
            press(first, "=")
        if is_done(first) and is_done(second):
            break
    assert said == ([], [])
    for page in (first, second):
        assert "Nothing left for you" in page.inner_text("main")
    assert served.end() == 0
    with open_database(str(tmp_path / "labels.db")) as database, database.reading() as connection:
        found = list(counting(connection))
    assert len(found) == len({one.item_id for one in found}) == 50
    assert min(Counter(one.annotator_id for one in found).values()) >= 20
    argv = [
        sys.executable,
        "-m",
        "assent",
        "label",
        "--export",
        tmp_path / "out.jsonl",
        "--store",
        tmp_path / "labels.db",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    rows = read_rows(tmp_path / "out.jsonl")
    assert len(rows) == 50
    assert {row["annotator"] for row in rows} == {"owner", "mia"}


def test_a_ranking_by_keyboard(browser: Any, serve: Callable[[], Served], tmp_path: Path) -> None:
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 1, task="rank", answers=4)
    page = browser.new_context().new_page()
    said = quiet(page)
    page.goto(serve().link)
    for key in ("2", "Backspace", "3", "Enter"):
        page.keyboard.press(key)
    assert page.inner_text("#missing") == "No rank yet: answer 1, 2, 4", "and the keys go on as before"
    for key in ("1", "=", "4", "2"):
        page.keyboard.press(key)
    assert page.locator("[data-rank]").evaluate_all("all => all.map(one => one.value)") == ["2", "4", "1", "2"]
    page.keyboard.press("c")
    page.keyboard.type("3 is best = yes")
    page.keyboard.press("Escape")
    press(page, "Enter")
    assert said == []
    with open_database(str(tmp_path / "labels.db")) as database, database.reading() as connection:
        (found,) = counting(connection)
    assert [found.value["ranking"][place] for place in found.shown_order] == [2, 3, 1, 2]
    assert found.comment == "3 is best = yes"


def test_what_is_asked_and_the_buttons_are_in_sight(browser: Any, serve: Callable[[], Served], tmp_path: Path) -> None:
    """Of a long conversation the last turn, under long answers the buttons; closed guidelines stay closed."""
    rows = [
        pair(turns(("user", "hi"), ("assistant", "so\n\n" * 99), ("user", f"why {n}?")), "it\n\n" * 99, "no")
        for n in "ab"
    ]
    with open_database(str(tmp_path / "labels.db")) as database:
        items, _ = to_items(rows, "compare")
        add_items(database, items, task="compare", reviews=1)
        add_guidelines(database, "Prefer the true one.")
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    said = quiet(page)
    page.goto(serve().link)
    in_sight = "one => { const b = one.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight; }"
    for found in ("text=/^why .\\?$/", "button[value='1']", "button[value='2']", "button[value='=']"):
        assert page.locator(found).evaluate(in_sight), found
    page.click("summary")
    press(page, "1")
    assert page.locator(".guidelines details[open]").count() == 0
    assert "answer 1 is better" in page.inner_text(".stored")
    assert said == []


def test_a_hundred_hostile_completions_do_nothing(browser: Any, serve: Callable[[], Served], tmp_path: Path) -> None:
    texts = hostile()
    with open_database(str(tmp_path / "labels.db")) as database:
        rows = [group(n, *texts[n * 5 : n * 5 + 5]) for n in range(20)]
        items, _ = to_items(rows, "rank")
        add_items(database, items, task="rank", reviews=1)
        add_guidelines(database, "\n\n".join(texts[:20]))
    page = browser.new_context().new_page()
    said = quiet(page)
    page.goto(serve().link)
    seen = 0
    while not is_done(page):
        assert page.title() == "Rank the answers, best first."
        seen += page.locator(".answer").count()
        for link in page.locator(".answer a, .prompt a, .guidelines a").all():
            raise AssertionError(link.get_attribute("href"))
        press(page, "s")
    assert seen == 100
    assert said == []


def test_the_policy_would_be_heard(browser: Any, serve: Callable[[], Served], tmp_path: Path) -> None:
    """The control: what the test above listens with hears a violation."""
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 1)
    page = browser.new_context().new_page()
    said = quiet(page)
    page.goto(serve().link)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=1><p style=color:red>')")
    for _ in range(300):
        if any("Content Security Policy" in line for line in said):
            return
        page.wait_for_timeout(200)
    raise AssertionError(said)


SEVERE = ("serious", "critical")


def test_every_page_can_be_used_by_all(browser: Any, serve: Callable[[], Served], tmp_path: Path) -> None:
    """axe-core finds nothing serious, and nothing leaves the window, at two widths, light and dark."""
    from axe_playwright_python.sync_playwright import Axe

    with open_database(str(tmp_path / "labels.db")) as database:
        one, two = (ensure_annotator(database, name).id for name in ("ben", "kim"))
        items, _ = to_items(
            [group(77, "it is **one**.\n\n" * 9, "`it` is two.\n```python\n" + "x = 1; " * 99)], "compare"
        )
        add_items(database, items, task="compare", reviews=2)
        label_all(database, one)
        given = next_assignment(database, two)
        assert given is not None
        answer(database, given.id, two, revision=0, value={"ranking": [2, 1]})
        more, _ = to_items(
            [pair(turns(("user", "why? " * 999), ("assistant", "so"), ("user", "and?")), "yes", "no")], "compare"
        )
        add_items(database, more, task="compare", reviews=1)
        for task, count in (("compare", 2), ("rank", 3), ("rate", 1), ("thumbs", 1)):
            fill(database, 1, task=task, answers=count)
        add_guidelines(database, "Prefer the *true* one.\n\n- then the shorter one")
        token = invite(database, "mia")
        owner, items_of_all = ensure_annotator(database, "owner").id, []
        while (given := next_assignment(database, owner)) is not None:  # so that `start` leads to the page at the end
            answer(database, given.id, owner, revision=0, value=None)
            items_of_all.append(f"/label?again={given.id}")
    served = serve()
    faults = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        paths = ("/login", f"/invitation/{token}", "/none", "start", "/adjudicate", "/dashboard", *items_of_all)
        for path in paths:
            page.goto(served.link if path == "start" else f"http://127.0.0.1:{served.port}{path}")
            for width in (400, 1400):
                page.set_viewport_size({"width": width, "height": 900})
                found = Axe().run(page).response["violations"]
                faults += [(path, scheme, width, one["id"]) for one in found if one["impact"] in SEVERE]
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    faults.append((path, scheme, width, "too wide"))
        context.close()
    assert faults == []
