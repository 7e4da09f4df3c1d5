"""What every request must pass before a page sees it: the right Host, the right Origin, a small body."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assent.errors import ConfigError

LARGEST_BODY = 64 * 1024
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # no-referrer would make browsers send `Origin: null` with forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where browsers find the app. `origins` are the addresses that its forms may come from."""

    origins: frozenset[str]
    is_secure: bool

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(urlsplit(origin).netloc for origin in self.origins)


def place_of(port: int, public_url: str | None) -> Place:
    """Loopback at this port; with `public_url` that address alone. Raises ConfigError for an address in clear text."""
    if public_url is None:
        return Place(frozenset(f"http://{host}:{port}" for host in LOOPBACK), is_secure=False)
    parts = urlsplit(public_url)
    is_secure, host = parts.scheme == "https", parts.hostname or ""
    is_loopback = host in ("127.0.0.1", "localhost", "::1")
    if not host or parts.path.strip("/") or parts.query or parts.username or not (is_secure or is_loopback):
        raise ConfigError(
            "this cannot be the address of the labelling app",
            got=public_url,
            expected="https://host or https://host:port, with nothing after it",
            fix="put a reverse proxy with a certificate before the app: passwords must not travel in clear text",
        )
    return Place(frozenset({f"{parts.scheme}://{parts.netloc.lower()}"}), is_secure=is_secure)


class Guard:
    """Refuses what does not come from the app's own pages, before anything is read or looked up."""

    def __init__(self, app: ASGIApp, *, place: Place) -> None:
        self.app, self.place, self.hosts = app, place, place.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets here
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self.place.is_secure:
                    headers.setdefault("strict-transport-security", "max-age=31536000")
            await send(message)

        refused = self._refusal(scope["method"], Headers(scope=scope))
        if refused is not None:
            await refused(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self.hosts:
            return PlainTextResponse("This is not the address of the labelling app.", 400)
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin") not in self.place.origins:
            return PlainTextResponse("This request does not come from a page of the labelling app.", 403)
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("This request does not come from a page of the labelling app.", 403)
        length = headers.get("content-length", "")
        if not length.isdigit():
            return PlainTextResponse("A form must say how long it is.", 411)
        if int(length) > LARGEST_BODY:
            return PlainTextResponse("This form is too large.", 413)
        return None
