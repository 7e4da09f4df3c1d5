"""Serving the app: a socket, uvicorn, the browser."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from assent.errors import ConfigError
from assent.feedback.app.pages import PAGES
from assent.feedback.app.site import Site, build

BACKLOG = 2048
"""Connections that wait to be taken, as in uvicorn."""


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 takes a free one. Who comes before `serve` waits.

    Raises ConfigError where the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's delay (40 ms a page) only for sockets that were made with the protocol's number
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(BACKLOG)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"the app cannot listen on {host}:{port}",
                got="another program does" if taken else error.strerror,
                fix="end it, or choose another --port; --port 0 takes any free one"
                if taken
                else "choose another --host",
            ) from None
        yield bound


def server_of(site: Site, *, port: int, trusted_proxy: str | None) -> uvicorn.Server:
    """The app's server. It believes the X-Forwarded headers of `trusted_proxy`, an IP address, and of nobody else."""
    config = uvicorn.Config(
        build(site, PAGES, port=port),
        log_level="warning",
        access_log=False,
        proxy_headers=trusted_proxy is not None,
        forwarded_allow_ips=trusted_proxy or "",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def serve(site: Site, bound: socket.socket, *, trusted_proxy: str | None, open_link: str | None) -> None:
    """Serves until Ctrl-C or SIGTERM, which end it in good order."""
    server = server_of(site, port=bound.getsockname()[1], trusted_proxy=trusted_proxy)
    if open_link is not None:
        timer = threading.Timer(0.5, webbrowser.open, (open_link,))
        timer.daemon = True
        timer.start()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all requests have ended
        server.run(sockets=[bound])
