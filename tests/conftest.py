"""Probes keep their answers in a folder of the tests. A test that changes code has a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    before = os.environ.get("ASSENT_CACHE")
    changes_code = "monkeypatch" in request.fixturenames
    os.environ["ASSENT_CACHE"] = str(tmp_path_factory.mktemp("cache") if changes_code else shared_cache)
    yield
    if before is None:
        os.environ.pop("ASSENT_CACHE", None)
    else:
        os.environ["ASSENT_CACHE"] = before
