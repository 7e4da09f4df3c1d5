"""No route without a check: a session, the right Host, the right Origin, the session's token. And what pages do."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from assent.errors import ConfigError
from assent.feedback.app.guard import POLICY, place_of
from assent.feedback.app.pages import PAGES, value_of_form
from assent.feedback.app.rendering import markdown, visible
from assent.feedback.app.site import TRIES, TRIES_SECONDS, Limiter, Site, build
from assent.feedback.store.database import Database, open_database
from assent.feedback.store.items import add_guidelines
from assent.feedback.store.people import accept, ensure_annotator, erase, invite
from assent.feedback.store.places import set_reviews
from assent.feedback.store.reading import counting
from assent.feedback.store.schema import ADJUDICATION
from tests.support.feedback import fill, hostile, label_all

PORT, ADDRESS, PASSWORD = 8765, "http://127.0.0.1:8765", "correct horse battery"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
ORIGIN = {"origin": ADDRESS}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(str(tmp_path / "labels.db")) as found:
        fill(found, 4)
        yield found


@pytest.fixture
def site(database: Database) -> Site:
    owner = ensure_annotator(database, "owner", role="admin")
    return Site(database, place_of(PORT, None), start_token="start-token", owner=owner)


def client_of(site: Site, address: str = ADDRESS) -> TestClient:
    return TestClient(build(site, PAGES, port=PORT), base_url=address, follow_redirects=False)


def signed_in(site: Site) -> TestClient:
    client = client_of(site)
    assert client.get("/start?token=start-token").status_code == 303
    return client


def token_in(text: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', text)
    assert found is not None
    return found[1]


def fields_of(text: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text.split('id="answer"')[1]))


def routes(site: Site) -> list[str]:
    paths = []
    for route in build(site, PAGES, port=PORT).routes:
        assert isinstance(route, Route | Mount)
        paths.append(f"{route.path}/style.css" if isinstance(route, Mount) else route.path.replace("{token}", "x"))
    return list(dict.fromkeys(paths))


ALLOWED = {("/login", "GET"), ("/login", "HEAD"), ("/static/style.css", "GET"), ("/static/style.css", "HEAD")}
"""All that answers without a session, and shows no data."""


def test_no_route_answers_without_a_session(site: Site) -> None:
    answered = set()
    for path in routes(site):
        for method in METHODS:
            response = client_of(site).request(method, path, headers=ORIGIN, content=b"a=b")
            if response.status_code < 300:
                answered.add((path, method))
            elif response.status_code == 303:
                assert (method in ("GET", "HEAD"), response.headers["location"]) == (True, "/login"), path
            else:
                assert response.status_code in (401, 403, 405), (path, method, response.status_code)
    assert answered == ALLOWED


@pytest.mark.parametrize("origin", [None, "https://example.org", "http://127.0.0.1:9999", "null"])
def test_no_form_is_taken_from_another_origin(site: Site, origin: str | None, database: Database) -> None:
    client = signed_in(site)
    fields = fields_of(client.get("/label").text)
    for path in routes(site):
        for method in METHODS[2:]:
            headers = {} if origin is None else {"origin": origin}
            response = client.request(method, path, headers=headers, data={**fields, "choice": "1"})
            assert response.status_code == 403, (path, method)
    with database.reading() as connection:
        assert list(counting(connection)) == []


@pytest.mark.parametrize("host", ["example.org", "example.org:8765", "127.0.0.1:9999", "127.0.0.1", "[::1]", ""])
def test_no_route_answers_to_another_host(site: Site, host: str) -> None:
    """A name that was bound to 127.0.0.1 after the page was loaded (DNS rebinding)."""
    client = signed_in(site)
    for path in routes(site):
        for method in METHODS:
            assert client.request(method, path, headers={"host": host, **ORIGIN}).status_code == 400, (path, method)


def test_no_form_is_taken_without_the_sessions_token(site: Site, database: Database) -> None:
    client = signed_in(site)
    fields = fields_of(client.get("/label").text)
    for token in (None, "", "another", token_in(client_of(site).get("/login").text)):
        own = {name: value for name, value in fields.items() if name != "csrf"}
        own |= {} if token is None else {"csrf": token}
        for path in ("/label", "/adjudicate", "/logout", "/login"):
            assert client.post(path, data={**own, "choice": "1"}, headers=ORIGIN).status_code == 403, (path, token)
    with database.reading() as connection:
        assert list(counting(connection)) == []
    assert client.post("/label", data={**fields, "choice": "1"}, headers=ORIGIN).status_code == 303
    with database.reading() as connection:
        assert len(list(counting(connection))) == 1


def test_a_page_of_another_site_in_the_same_browser_is_told_apart(site: Site) -> None:
    headers = {**ORIGIN, "sec-fetch-site": "cross-site"}
    assert signed_in(site).post("/label", data={}, headers=headers).status_code == 403


def test_annotators_do_not_see_what_is_for_administrators(site: Site, database: Database) -> None:
    client = client_of(site)
    token = invite(database, "mia")
    page = client.get(f"/invitation/{token}")
    form = {"csrf": token_in(page.text), "password": PASSWORD, "again": PASSWORD}
    assert client.post(f"/invitation/{token}", data=form, headers=ORIGIN).status_code == 303
    assert client.get("/label").status_code == 200
    for page_of in PAGES:
        if page_of.needs == "admin":
            form = {"csrf": token_in(client.get("/label").text)}
            response = client.request(page_of.method, page_of.path, headers=ORIGIN, data=form)
            assert response.status_code == 403, page_of.path
    assert {page.path for page in PAGES if page.needs == "admin"} >= {"/adjudicate"}


def test_an_invitation_works_once(site: Site, database: Database) -> None:
    token = invite(database, "mia")
    client = client_of(site)
    form = {"csrf": token_in(client.get(f"/invitation/{token}").text), "password": "short", "again": "short"}
    assert "10 to 200 characters" in client.post(f"/invitation/{token}", data=form, headers=ORIGIN).text
    form |= {"password": PASSWORD, "again": PASSWORD + "x"}
    assert "differ" in client.post(f"/invitation/{token}", data=form, headers=ORIGIN).text
    form |= {"again": PASSWORD}
    assert client.post(f"/invitation/{token}", data=form, headers=ORIGIN).status_code == 303
    assert client_of(site).get(f"/invitation/{token}").status_code == 403
    assert client_of(site).get("/invitation/none").status_code == 403


def test_signing_in_needs_the_password_and_is_slowed_down(site: Site, database: Database) -> None:
    accept(database, invite(database, "mia"), PASSWORD)
    client = client_of(site)

    def sign_in(name: str, password: str) -> int:
        form = {"csrf": token_in(client.get("/login").text), "name": name, "password": password}
        return client.post("/login", data=form, headers=ORIGIN).status_code

    assert sign_in("mia", "wrong password") == 403
    assert sign_in("nobody", PASSWORD) == 403
    assert sign_in("owner", "") == 403, "who has no password cannot sign in with one"
    assert sign_in("mia", PASSWORD) == 303
    client.cookies.clear()
    for _ in range(TRIES):
        sign_in("mia", "wrong password")
    assert sign_in("mia", PASSWORD) == 429


def test_the_limit_ends_with_time() -> None:
    now = [0.0]
    limiter = Limiter(lambda: now[0])
    for _ in range(TRIES):
        assert limiter.is_open("mia", "127.0.0.1")
        limiter.failed("mia")
    assert not limiter.is_open("mia", "127.0.0.1")
    assert limiter.is_open("ben", "127.0.0.1")
    now[0] = TRIES_SECONDS + 1
    assert limiter.is_open("mia", "127.0.0.1")


def test_the_start_link_is_a_secret_and_not_there_in_a_network(site: Site, database: Database) -> None:
    for token in ("", "wrong", "start-toke"):
        assert client_of(site).get(f"/start?token={token}").status_code == 403
    there = Site(database, place_of(PORT, "https://label.example.org"))
    assert client_of(there, "https://label.example.org").get("/start?token=").status_code == 403


def test_erased_and_signed_out_people_are_out(site: Site, database: Database) -> None:
    client = signed_in(site)
    form = {"csrf": token_in(client.get("/label").text)}
    assert client.post("/logout", data=form, headers=ORIGIN).headers["location"] == "/login"
    assert client.get("/label").headers["location"] == "/login"
    again = signed_in(site)
    erase(database, "owner")
    assert again.get("/label").headers["location"] == "/login"


def test_a_forged_session_is_none(site: Site) -> None:
    client = client_of(site)
    client.cookies.set(f"assent_label_{PORT}", "eyJhbm5vdGF0b3IiOiAxfQ==.aaaa.bbbb")
    assert client.get("/label").headers["location"] == "/login"


def test_every_answer_has_the_policy_and_cookies_are_closed(site: Site, database: Database) -> None:
    client = client_of(site)
    responses = [client.get(path) for path in ("/login", "/label", "/none", "/static/style.css")]
    responses += [client.get("/login", headers={"host": "example.org"}), client.post("/label")]
    for response in responses:
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "no-store" in response.headers["cache-control"]
    assert "unsafe" not in POLICY
    cookie = client.get("/login").headers.get("set-cookie") or client_of(site).get("/login").headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    there = Site(database, place_of(PORT, "https://label.example.org"))
    secure = client_of(there, "https://label.example.org").get("/login")
    assert "; secure" in secure.headers["set-cookie"].lower()
    assert "strict-transport-security" in secure.headers


def test_large_and_endless_forms_are_refused(site: Site) -> None:
    client = signed_in(site)
    assert client.post("/label", content=b"a" * 70_000, headers=ORIGIN).status_code == 413
    endless = client.post("/label", content=iter([b"a=b"]), headers=ORIGIN)
    assert endless.status_code == 411


def test_no_file_outside_the_folder_is_served(site: Site) -> None:
    for path in ("/static/../pages.py", "/static/%2e%2e/pages.py", "/static//etc/passwd", "/static/..%2fpages.py"):
        assert client_of(site).get(path).status_code in (404, 405)


@pytest.mark.parametrize(
    "address", ["http://label.example.org", "label.example.org", "https://a.org/path", "https://user@a.org", ""]
)
def test_an_address_in_clear_text_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the address"):
        place_of(PORT, address)


def test_answering_skipping_and_undoing(site: Site, database: Database) -> None:
    client = signed_in(site)
    first = fields_of(client.get("/label").text)
    client.post("/label", data={**first, "choice": "=", "comment": "  both fine "}, headers=ORIGIN)
    client.post("/label", data={**first, "choice": "1"}, headers=ORIGIN)  # the same page again
    page = client.get(f"/label?again={first['assignment']}")
    assert "you said “equally good”" in page.text
    client.post("/label", data={**fields_of(page.text), "choice": "2"}, headers=ORIGIN)
    second = fields_of(client.get("/label").text)
    assert second["assignment"] != first["assignment"]
    client.post("/label", data={**second, "choice": "skip"}, headers=ORIGIN)
    with database.reading() as connection:
        (found,) = counting(connection)
    shown = found.shown_order
    assert found.value == {"ranking": [2 - (place == shown[1]) for place in range(2)]}
    assert found.seconds is not None
    assert client.get("/label?again=9999").status_code == 404
    assert client.get("/label?again=x").status_code == 404
    for fields in ({**second, "choice": "7"}, {**second, "assignment": "9999"}, {**second, "revision": "x"}):
        assert client.post("/label", data=fields, headers=ORIGIN).status_code in (303, 400, 404)
    assert len(re.findall("Sign out", client.get("/label").text)) == 1


def test_a_decision_is_changed_where_decisions_are_made(site: Site, database: Database) -> None:
    set_reviews(database, 2)
    for name, ranking in (("mia", [1, 2]), ("ben", [2, 1])):
        label_all(database, ensure_annotator(database, name).id, lambda _, said=ranking: said)
    client = signed_in(site)
    asked = client.get("/adjudicate").text
    assert "What you say stands in their place." in asked
    case = fields_of(asked)
    assert client.post("/adjudicate", data={**case, "choice": "1"}, headers=ORIGIN).status_code == 303
    undo = re.search(r'href="(/label\?again=\d+)"', client.get("/label").text)
    assert undo is not None
    page = client.get(undo[1])
    assert 'form method="post" action="/adjudicate"' in page.text
    assert "Reviews" in page.text
    changed = client.post("/adjudicate", data={**fields_of(page.text), "choice": "="}, headers=ORIGIN)
    assert changed.status_code == 303
    with database.reading() as connection:
        (decided,) = [one for one in counting(connection) if one.occasion == ADJUDICATION]
    assert decided.value == {"ranking": [1, 1]}


def test_guidelines_stand_beside_the_task(site: Site, database: Database) -> None:
    add_guidelines(database, "Prefer the **shorter** one.")
    assert "Prefer the <strong>shorter</strong> one." in signed_in(site).get("/label").text


@pytest.mark.parametrize(
    ("task", "form", "places", "value"),
    [
        ("compare", {"choice": "1"}, (1, 0), {"ranking": [2, 1]}),
        ("compare", {"choice": "2"}, (1, 0), {"ranking": [1, 2]}),
        ("compare", {"choice": "="}, (1, 0), {"ranking": [1, 1]}),
        ("rank", {"rank_1": "1", "rank_2": "3", "rank_3": "3"}, (2, 0, 1), {"ranking": [2, 2, 1]}),
        ("rate", {"choice": "4"}, (0,), {"scores": [4]}),
        ("thumbs", {"choice": "down"}, (0,), {"thumbs": [False]}),
    ],
)
def test_a_form_is_read_in_the_stored_order(
    task: str, form: dict[str, str], places: tuple[int, ...], value: object
) -> None:
    assert value_of_form(task, form, places) == value


@pytest.mark.parametrize(
    ("task", "form"),
    [
        ("compare", {"choice": "3"}), ("compare", {}),
        ("rank", {"rank_1": "1"}), ("rank", {"rank_1": "0", "rank_2": "1"}),
        ("rate", {"choice": "6"}), ("rate", {"choice": "²"}), ("thumbs", {"choice": "1"}),
    ],
)  # fmt: skip
def test_a_form_that_says_nothing_usable_is_refused(task: str, form: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"choose|give"):
        value_of_form(task, form, (0, 1))


class Tags(HTMLParser):
    """The elements and attributes of a piece of HTML, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HARMLESS = {
    *("p", "strong", "em", "code", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "br", "hr", "s"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


def test_a_hundred_hostile_completions_are_text() -> None:
    for text in hostile():
        found = Tags(str(markdown(text)))
        assert found.tags <= HARMLESS, (text[:60], found.tags - HARMLESS)
        assert found.attributes <= {"class", "start"}, (text[:60], found.attributes)
        for word in ("javascript:", "owned", "example.org"):
            said = html.unescape(text)
            assert found.text.count(word) == said.count(word), f"{word} is hidden in {text[:60]!r}"


def test_what_turns_or_hides_text_is_shown_by_its_code() -> None:
    assert visible("a\u202eb\u2066c\x00d") == "a⟦U+202E⟧b⟦U+2066⟧c⟦U+0000⟧d"
    assert visible("שלום 123 עברית\nfine 👩‍🚀 ❤️") == "שלום 123 עברית\nfine 👩‍🚀 ❤️"
    for code in (0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xE0041, 0xE0100):
        assert visible(f"a{chr(code)}b") == f"a⟦U+{code:04X}⟧b"
        assert f"a⟦U+{code:04X}⟧b" in str(markdown(f"| h |\n|---|\n| a&#{code};b |")), "written as an entity"


def test_cells_beyond_the_head_of_a_table_are_not_left_out() -> None:
    for row in ("| 1 | hidden |", "1 | hidden", "| 1 | x \\| y | hidden |", "|| hidden |"):
        for before in ("", "> ", "- "):
            after = "  " if before == "- " else before
            text = f"{before}| a |\n{after}|---|\n{after}| fits |\n{after}{row}\n\nend"
            assert "hidden" in str(markdown(text)), text
            assert "end" in str(markdown(text))
    assert str(markdown("| a |\n|---|\n| 1 |\n|  |")).count("<td>") == 2, "rows that fit are a table"


def test_markdown_and_code_are_rendered() -> None:
    text = str(markdown("**bold**\n\n```python\nx < 1\n```\n\n| a |\n|--:|\n| 1 |"))
    assert "<strong>bold</strong>" in text
    assert '<p class="info">python</p><pre><code>x &lt; 1\n</code></pre>' in text
    assert "<td>1</td>" in text


def test_text_that_nests_too_deeply_is_shown_whole() -> None:
    text = ">" * 60 + " the end"
    assert "the end" in str(markdown(text))
    assert str(markdown(text)).startswith('<pre class="plain">')
