"""The app as a whole: its routes, sessions, and the check that each route needs."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from assent.feedback.app.guard import Guard, Place
from assent.feedback.store.database import Database
from assent.feedback.store.labelling import Mix
from assent.feedback.store.people import Annotator, annotator_of, session_key
from assent.feedback.store.reading import totals

HERE = Path(__file__).parent
SESSION_SECONDS = 12 * 3600
TRIES, TRIES_SECONDS = 8, 300.0
"""Wrong passwords for one name, or from one address, before it has to wait."""
COUNTING_SHARE = 0.02
"""Of the time, how much may go into counting what is done: a million places take longer to count than to give."""
TURNS = 2
"""Requests that are answered at the same time. Each is many short questions to the database, and Python runs one thread
at a time: with more of them all take longer (40 threads: 222 ms of PostgreSQL at the 95th percentile; 2: 49 ms)."""

Needs = Literal["nobody", "annotator", "admin"]


@dataclass(frozen=True, slots=True)
class Page:
    """A route. `needs` is checked before `handler` is called; a POST also needs the session's token."""

    path: str
    method: Literal["GET", "POST"]
    needs: Needs
    handler: Callable[[Site, Visit], Response]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: who sends it, and what it holds. `annotator` is there wherever the page needs one."""

    request: Request
    annotator: Annotator | None
    form: Mapping[str, str]

    @property
    def session(self) -> dict[str, Any]:
        return self.request.session

    @property
    def who(self) -> Annotator:
        assert self.annotator is not None
        return self.annotator

    @property
    def address(self) -> str:
        return self.request.client.host if self.request.client else ""


class Limiter:
    """Counts what failed, by key, over the last minutes. In memory: a restart forgets it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures: dict[str, deque[float]] = {}
        self._clock, self._lock = clock, threading.Lock()

    def is_open(self, *keys: str) -> bool:
        now = self._clock()
        with self._lock:
            for key in [key for key, times in self._failures.items() if times[-1] < now - TRIES_SECONDS]:
                del self._failures[key]
            return all(
                sum(moment > now - TRIES_SECONDS for moment in self._failures.get(key, ())) < TRIES for key in keys
            )

    def failed(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._failures.setdefault(key, deque(maxlen=TRIES)).append(self._clock())


@dataclass(eq=False)
class Site:
    """What pages share."""

    database: Database
    place: Place
    mix: Mix = field(default_factory=Mix)
    start_token: str | None = None
    """Signs its owner in as the first annotator, without a password. For loopback only."""
    owner: Annotator | None = None
    precision: float = 0.05
    limiter: Limiter = field(default_factory=Limiter)
    _counted: tuple[float, tuple[int, int]] = (0.0, (0, 0))
    """Until when the count holds, and the count: reviews done, and reviews in all."""
    _pages: Environment = field(init=False)

    def __post_init__(self) -> None:
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip

    def totals(self) -> tuple[int, int]:
        holds_until, found = self._counted
        start = time.monotonic()
        if start >= holds_until:
            found = totals(self.database)
            end = time.monotonic()
            self._counted = (end + (end - start) / COUNTING_SHARE, found)
        return found

    def html(self, template: str, visit: Visit, /, *, status: int = 200, **values: Any) -> Response:
        common = {"who": visit.annotator, "csrf": token_of(visit.session)}
        return HTMLResponse(self._pages.get_template(template).render(**common, **values), status)

    def message(self, visit: Visit, text: str, *, status: int, link: str = "/label") -> Response:
        return self.html("message.html.jinja", visit, status=status, text=text, link=link)

    def respond(self, page: Page, request: Request, form: FormData | None) -> Response:
        annotator = self._annotator(request)
        fields = {name: value for name, value in (form or {}).items() if isinstance(value, str)}
        visit = Visit(request, annotator, fields)
        if page.needs != "nobody" and annotator is None:
            return redirect("/login") if page.method == "GET" else self.message(
                visit, "Sign in first.", status=401, link="/login"
            )  # fmt: skip
        if page.needs == "admin" and annotator is not None and not annotator.is_admin:
            return self.message(visit, "This page is for administrators.", status=403)
        if page.method == "POST" and not hmac.compare_digest(
            fields.get("csrf", "").encode(), token_of(request.session).encode()
        ):
            return self.message(visit, "This form is out of date. Open the page again.", status=403, link="/")
        return page.handler(self, visit)

    def refuse(self, request: Request, error: Exception) -> Response:
        """The page for an address or a method that is no route of the app."""
        assert isinstance(error, HTTPException)
        visit = Visit(request, self._annotator(request), {})
        return self.message(visit, "There is no such page.", status=error.status_code)

    def _annotator(self, request: Request) -> Annotator | None:
        number = request.session.get("annotator")
        return annotator_of(self.database, number) if isinstance(number, int) else None


def token_of(session: dict[str, Any]) -> str:
    """The session's own secret, which every form carries back (against forged requests)."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def begin_session(visit: Visit, annotator: Annotator) -> None:
    """A new session: nothing of the one before it is kept."""
    visit.session.clear()
    visit.session["annotator"] = annotator.id
    token_of(visit.session)


def redirect(path: str) -> Response:
    return RedirectResponse(path, 303)


def build(site: Site, pages: Sequence[Page], *, port: int) -> Starlette:
    """The ASGI app. Its routes are `pages` and the style and script of this folder, which hold no data."""

    turns = CapacityLimiter(TURNS)

    def endpoint(page: Page) -> Any:
        async def respond(request: Request) -> Response:
            form = await request.form(max_files=0, max_fields=60) if page.method == "POST" else None
            # a dashboard takes seconds of a large store, and nobody has to wait for it
            limiter = None if page.needs == "admin" else turns
            return await to_thread.run_sync(site.respond, page, request, form, limiter=limiter)

        return respond

    routes: list[Any] = [Route(page.path, endpoint(page), methods=[page.method]) for page in pages]
    routes.append(Mount("/static", StaticFiles(directory=HERE / "static"), name="static"))
    sessions = Middleware(
        SessionMiddleware,
        secret_key=session_key(site.database),
        session_cookie=f"assent_label_{port}",
        max_age=SESSION_SECONDS,
        same_site="lax",
        https_only=site.place.is_secure,
    )
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, place=site.place), sessions],
        exception_handlers={HTTPException: site.refuse},
    )
