"""Reading without gradient: what all processes do together they do in one order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from assent.engine import reading
from tests.support.engine import make_groups, make_learner

pytestmark = pytest.mark.usefixtures("threads")


class Backwards(frozenset[str]):
    """A set as another process may hold it: Python's order of text in sets differs from process to process."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__(), reverse=True))


def test_outputs_are_added_up_in_one_order_whatever_the_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a reduction over the processes: two that differ in their order would add up different outputs."""
    order: list[str] = []

    def note(results: Any, groups: Any, name: str, runtime: Any) -> torch.Tensor:
        order.append(name)
        return torch.zeros(1)

    monkeypatch.setattr(reading, "_in_order", note)
    learner = make_learner()
    want = Backwards({"logprobs", "entropy", "values"})
    reading.read_groups(learner.module, make_groups(2), want=want, runtime=learner.runtime, budget=learner.budget)
    assert order == ["entropy", "logprobs", "values"]
