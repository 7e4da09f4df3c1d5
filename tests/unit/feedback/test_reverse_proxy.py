"""The app behind a reverse proxy that is set up as docs/label.md says."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2
import pytest

from assent.errors import ConfigError
from assent.feedback.app.guard import place_of
from assent.feedback.app.serving import listen, server_of
from assent.feedback.app.site import TRIES, Site
from assent.feedback.store.database import Database, open_database
from assent.feedback.store.people import accept, invite
from tests.support.docs import ROOT
from tests.support.feedback import fill
from tests.support.http import serving

HOST, PASSWORD = "label.example.org", "correct horse battery"
SETTING = re.compile(r"proxy_set_header (\S+) \$(\w+);")
"""A header that the page's nginx sets, and the variable with its value."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(str(tmp_path / "labels.db")) as found:
        fill(found, 1)
        accept(found, invite(found, "mia"), PASSWORD)
        yield found


@contextmanager
def served(database: Database, *, trusted_proxy: str | None) -> Iterator[int]:
    """The app at a free port."""
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        site = Site(database, place_of(port, f"https://{HOST}"))
        server = server_of(site, port=port, trusted_proxy=trusted_proxy)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def proxied(port: int, *, address: str) -> Iterator[httpx2.Client]:
    """A browser at this address, which reaches the app through a proxy that sets the headers of the page.

    The proxy ends TLS in life; here the browser speaks to it in clear text.
    """
    settings = dict(SETTING.findall((ROOT / "docs/label.md").read_text(encoding="utf-8")))
    values = {"host": HOST, "remote_addr": address, "scheme": "https"}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            headers = {name: value for name, value in headers.items() if name.title() not in settings}
            headers |= {name: values[variable] for name, variable in settings.items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            there = f"http://127.0.0.1:{port}{self.path}"
            with httpx2.Client() as client:
                answer = client.request(self.command, there, headers=headers, content=body, follow_redirects=False)
            self.send_response(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name not in ("connection", "content-length", "transfer-encoding", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def do_GET(self) -> None:
            self.forward()

        def do_POST(self) -> None:
            self.forward()

    with serving(Handler) as proxy, httpx2.Client(base_url=proxy) as client:
        yield client


def cookies_of(client: httpx2.Client, answer: httpx2.Response) -> None:
    """As a browser behind https keeps them: they are Secure, and this client speaks to its proxy in clear text."""
    if (given := answer.headers.get("set-cookie")) is not None:
        assert "; secure" in given.lower()
        client.headers["cookie"] = given.partition(";")[0]


def sign_in(client: httpx2.Client, name: str, password: str) -> httpx2.Response:
    page = client.get("/login")
    cookies_of(client, page)
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None
    form = {"csrf": found[1], "name": name, "password": password}
    return client.post("/login", data=form, headers={"origin": f"https://{HOST}"})


def test_people_sign_in_through_the_proxy_and_not_beside_it(database: Database) -> None:
    with served(database, trusted_proxy="127.0.0.1") as port:
        with proxied(port, address="203.0.113.5") as browser:
            assert browser.get("/label").headers["location"] == "/login"
            answer = sign_in(browser, "mia", PASSWORD)
            assert (answer.status_code, answer.headers["location"]) == (303, "/label")
            cookies_of(browser, answer)
            page = browser.get("/label")
            assert (page.status_code, "Which answer is better?" in page.text) == (200, True)
            assert "strict-transport-security" in page.headers
        assert httpx2.get(f"http://127.0.0.1:{port}/login").status_code == 400, "not at the app's own address"


@pytest.mark.parametrize(("trusted", "told_apart"), [("127.0.0.1", True), ("198.51.100.7", False), (None, False)])
def test_addresses_are_told_apart_where_the_proxy_is_trusted(
    trusted: str | None, told_apart: bool, database: Database
) -> None:
    """Otherwise anybody could write an address of their own and try passwords for ever."""
    with served(database, trusted_proxy=trusted) as port:
        with proxied(port, address="203.0.113.5") as browser:
            tried = [sign_in(browser, f"nobody {n}", "wrong password").status_code for n in range(TRIES + 1)]
            assert tried == [403] * TRIES + [429]
        with proxied(port, address="203.0.113.6") as other:
            assert sign_in(other, "mia", PASSWORD).status_code == (303 if told_apart else 429)


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"), listen("127.0.0.1", port):
            pass
