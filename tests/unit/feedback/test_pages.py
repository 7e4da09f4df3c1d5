"""What a newcomer asks of a page: what do I press, was it stored, how many are left, what happens to what I skip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from assent.feedback.app.guard import place_of
from assent.feedback.app.pages import PAGES, _time_left
from assent.feedback.app.rendering import markdown
from assent.feedback.app.site import Site, build
from assent.feedback.store.database import Database, open_database
from assent.feedback.store.items import add_guidelines
from assent.feedback.store.people import ensure_annotator
from assent.feedback.store.reading import MOST_LEFT, Progress, counting
from tests.support.feedback import fill, read

PORT, ADDRESS = 8765, "http://127.0.0.1:8765"


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def fields_of(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.split('id="answer"')[1]))


def send(client: TestClient, page: str, choice: str, **more: str) -> str:
    form = {**fields_of(page), "choice": choice, **more}
    response = client.post("/label", data=form, headers={"origin": ADDRESS})
    assert response.status_code == 200
    return response.text


@contextmanager
def opened(tmp_path: Path, count: int) -> Iterator[tuple[Database, TestClient, str]]:
    """A store with so many questions, a browser that has signed in, and its first page."""
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, count)
        owner = ensure_annotator(database, "owner", role="admin")
        site = Site(database, place_of(PORT, None), start_token="start-token", owner=owner)
        client = TestClient(build(site, PAGES, port=PORT), base_url=ADDRESS)
        yield database, client, client.get("/start?token=start-token").text


def test_pages_say_what_was_stored_what_is_left_and_where_skipped_items_go(tmp_path: Path) -> None:
    with opened(tmp_path, 2) as (_, client, page):
        assert "0 done or skipped by you · 2 left for you" in text_of(page)
        assert "Stored." not in page
        page = send(client, page, "=")
        assert "1 done or skipped by you · 1 left for you (less than a minute)" in text_of(page)
        assert "Stored. Last item: you said “equally good”." in text_of(page)
        assert "somebody else gets it" in page
        page = send(client, page, "skip")
        assert "Nothing left for you" in page
        assert "that you skipped" in page, "the last review is not in others' hands: it was skipped"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("compare", "Press 1 or 2 for the better answer, = if they are equally good."),
        ("rank", "Press the numbers of the answers from best to worst"),
        ("rate", "Press 1 (bad) to 5 (good)."),
        ("thumbs", "Press 1 for good, 2 for not good."),
    ],
)
def test_the_keys_stand_above_the_answers(task: str, said: str, tmp_path: Path) -> None:
    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 1, task=task)
        owner = ensure_annotator(database, "owner", role="admin")
        site = Site(database, place_of(PORT, None), start_token="start-token", owner=owner)
        page = TestClient(build(site, PAGES, port=PORT), base_url=ADDRESS).get("/start?token=start-token").text
    assert said in text_of(page.partition('class="answers')[0])
    assert re.search(r"<h2>Answer( 1)?</h2>", page)


def test_a_label_names_the_guidelines_that_were_shown(tmp_path: Path) -> None:
    """Not those of the moment in which it is stored: a change comes while pages are open."""
    with opened(tmp_path, 4) as (database, client, page):
        shown: list[int | None] = [None]
        for text in ("one", "two"):
            shown.append(add_guidelines(database, text))
            page = send(client, page, "1")
        add_guidelines(database, "one")
        page = send(client, page, "1")
        assert [one.guideline_id for one in read(database, lambda connection: list(counting(connection)))] == shown
        for forged in ("77", "x", "-1"):
            form = {**fields_of(page), "guidelines": forged, "choice": "1"}
            assert client.post("/label", data=form, headers={"origin": ADDRESS}).status_code == 400
        assert len(read(database, lambda connection: list(counting(connection)))) == 3


def test_a_change_of_mind_begins_with_the_comment(tmp_path: Path) -> None:
    """What is sent unchanged is kept: the last answer counts, and its comment with it."""
    with opened(tmp_path, 2) as (_, client, page):
        after = send(client, page, "1", comment="a </textarea> & more")
        assert "></textarea>" in after, "it is of that item alone"
        again = client.get(f"/label?again={fields_of(page)['assignment']}").text
        assert ">a &lt;/textarea&gt; &amp; more</textarea>" in again


@pytest.mark.parametrize(
    ("seconds", "left", "said"),
    [
        (None, 7, None),
        (6.0, 0, None),
        (6.0, 4, "less than a minute"),
        (6.0, 40, "about 4 min"),
        (90.0, 50, "about 1 h 15 min"),
        (6.0, MOST_LEFT, "more than 10 min"),
        (90.0, MOST_LEFT, "more than 2 h 30 min"),
        (0.1, MOST_LEFT, None),
    ],
)
def test_the_time_left_is_at_the_annotators_pace(seconds: float | None, left: int, said: str | None) -> None:
    """Items are counted up to a limit; from there on it is the least time."""
    assert _time_left(Progress(done=0, total=9, own=3, own_seconds=seconds, left=left)) == said


def test_code_without_a_fence_keeps_its_indent() -> None:
    html = str(markdown("def f(x):\n    if x:\n\treturn 1\nend"))
    assert [line.count("\xa0") for line in html.splitlines()] == [0, 4, 4, 0]


def test_an_unknown_address_is_a_page_that_leads_back(tmp_path: Path) -> None:
    with open_database(str(tmp_path / "labels.db")) as database:
        owner = ensure_annotator(database, "owner", role="admin")
        site = Site(database, place_of(PORT, None), start_token="start-token", owner=owner)
        client = TestClient(build(site, PAGES, port=PORT), base_url=ADDRESS)
        for is_known in (False, True):
            if is_known:
                client.get("/start?token=start-token")
            unknown, wrong = client.get("/nowhere"), client.post("/dashboard", headers={"origin": ADDRESS})
            assert (unknown.status_code, wrong.status_code) == (404, 405)
            for answer in (unknown, wrong):
                assert "There is no such page." in answer.text
                assert 'href="/label"' in answer.text
                assert ("Sign out" in answer.text) == is_known
