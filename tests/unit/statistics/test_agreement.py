"""Agreement of annotators by hand."""

from __future__ import annotations

import pytest

from assent.statistics.agreement import annotators_agreement


def test_agreement_of_annotators_by_hand() -> None:
    """Three labels 2 : 1: the two agree with a split rest (½ each), the third with none; two that agree: 1 and 1."""
    items = ["a", "a", "a", "b", "b", "c"]
    votes = [True, True, False, True, True, False]
    found = annotators_agreement(items, votes, items)
    assert found is not None
    assert found.value == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)
    assert (found.n, found.clusters) == (5, 2)
    assert annotators_agreement(["a", "b"], [True, False], ["a", "b"]) is None
