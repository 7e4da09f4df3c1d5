"""How many requests are answered at a time, and who does not wait for a turn."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import PlainTextResponse

from assent.feedback.app.guard import place_of
from assent.feedback.app.pages import PAGES
from assent.feedback.app.site import TURNS, Page, Site, build
from assent.feedback.store.database import open_database


def test_a_dashboard_needs_no_turn_and_items_wait_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_database(str(tmp_path / "labels.db")) as database:
        site = Site(database, place_of(8765, None))
        entered: list[str] = []
        go = threading.Event()

        def respond(page: Page, *_: Any) -> PlainTextResponse:
            entered.append(page.path)
            assert page.path == "/dashboard" or go.wait(60)
            return PlainTextResponse("")

        monkeypatch.setattr(site, "respond", respond)
        app: Any = build(site, PAGES, port=8765)

        async def ask() -> None:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as client:
                items = [asyncio.create_task(client.get("/label")) for _ in range(TURNS + 1)]
                while len(entered) < TURNS:
                    await asyncio.sleep(0.001)
                for _ in range(20):  # one after the other: what need not wait has entered by then
                    await client.get("/dashboard")
                assert entered.count("/label") == TURNS
                go.set()
                await asyncio.gather(*items)

        asyncio.run(asyncio.wait_for(ask(), 60))
        assert entered.count("/label") == TURNS + 1
