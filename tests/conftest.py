"""Loaded before every test, and so before torch: `import assent` says how OpenMP's threads wait.

Probes keep their answers in a folder of the tests. A test that changes code has a folder of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import assent  # noqa: F401

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSENT_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    changes_code = "monkeypatch" in request.fixturenames
    os.environ["ASSENT_CACHE"] = str(tmp_path_factory.mktemp("cache") if changes_code else shared_cache)
    yield
    os.environ["ASSENT_CACHE"] = str(shared_cache)


@pytest.fixture(params=[1, 2], ids=["one pass at a time", "two at once"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch's threads; with two, micro-batches are passed two at a time (engine/passes.py)."""
    from tests.support.engine import torch_threads

    with torch_threads(request.param):
        yield request.param
