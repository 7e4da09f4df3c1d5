"""What an audit of the data finds: each fact against rows whose answer is known by construction."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from assent.data.loading import load_groups
from assent.errors import DataError
from assent.planning.facts import Facts, audited, flip_of, source_of
from tests.support.rows import write_rows


def facts_of(tmp_path: Path, *files: Iterable[dict[str, Any]]) -> Facts:
    paths = [write_rows(tmp_path / f"{number}.jsonl", rows) for number, rows in enumerate(files)]
    return audited([source_of(load_groups(path, lenient=True)) for path in paths], start="base")


def pair(number: int, *, chosen: str = "a long answer", rejected: str = "short", **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected, **more}


def test_every_kind_is_counted_under_its_name(tmp_path: Path) -> None:
    rows = [
        [{"prompt": f"p{i}", "completion": "x"} for i in range(2)],
        [pair(i) for i in range(3)],
        [{"prompt": f"p{i}", "completions": list("abc"), "ranking": [1, 2, 3]} for i in range(4)],
        [{"prompt": f"p{i}", "completion": "x", "label": i > 0} for i in range(5)],
        [{"prompt": f"p{i}", "completion": "x", "score": i} for i in range(6)],
        [{"prompt": f"p{i}", "completions": ["x", "y"], "labels": [True, False]} for i in range(7)],
        [{"prompt": f"p{i}"} for i in range(8)],
    ]
    facts = facts_of(tmp_path, *rows)
    counted = (
        facts.demonstrations,
        facts.pairs,
        facts.rankings,
        facts.thumbs,
        facts.scores,
        facts.steps,
        facts.prompts,
    )
    assert counted == (2, 3, 4, 5, 6, 7, 8)
    assert facts.largest_group == 3
    assert facts.thumbs_up == pytest.approx(4 / 5)


def test_length_ties_and_logged_numbers_are_shares(tmp_path: Path) -> None:
    logged = {"chosen_logps": -1.0, "rejected_logps": -2.0}
    facts = facts_of(
        tmp_path, [pair(0, **logged), pair(1, chosen="no", rejected="longer", **logged), pair(2, **logged)]
    )
    assert facts.longer_wins == pytest.approx(2 / 3)
    assert facts.logged == 1.0
    assert facts.tied == 0.0
    tied = facts_of(
        tmp_path, [{"prompt": f"p{i}", "completions": ["x", "yy"], "ranking": [1, 1 + i % 2]} for i in range(4)]
    )
    assert (tied.pairs, tied.tied, tied.logged) == (4, 0.5, 0.0)


def test_agreement_is_that_of_labels_of_the_same_pair(tmp_path: Path) -> None:
    """30 pairs judged by two people, who differ on 6: they agree in 24 of 30."""
    first = [pair(i, annotator="one") for i in range(30)]
    second = [pair(i, annotator="two") for i in range(24)]
    second += [pair(i, chosen="short", rejected="a long answer", annotator="two") for i in range(24, 30)]
    facts = facts_of(tmp_path, [*first, *second])
    assert facts.raters == 2
    assert facts.agreement == pytest.approx(24 / 30)
    assert facts.noise == pytest.approx((1 - (2 * 0.8 - 1) ** 0.5) / 2)
    assert facts_of(tmp_path, first).agreement is None  # nobody judged a pair twice


def test_agreement_of_scores_is_the_share_of_pairs_that_two_raters_order_alike(tmp_path: Path) -> None:
    """Scores 1 2 3 and 1 3 2: of three pairs of answers, two have the same order."""
    scores = {"one": (1, 2, 3), "two": (1, 3, 2)}
    rows = [
        {"prompt": f"p{i}", "completion": "x", "score": value, "annotator": rater}
        for rater, values in scores.items()
        for i, value in enumerate(values)
    ]
    assert facts_of(tmp_path, rows).agreement == pytest.approx(2 / 3)


def test_noise_and_agreement_invert_each_other() -> None:
    for noise in (0.0, 0.1, 0.25, 0.5):
        assert flip_of(1 - 2 * noise * (1 - noise)) == pytest.approx(noise)


def test_a_row_of_another_kind_is_refused_and_a_file_without_any_is_an_error(tmp_path: Path) -> None:
    kinds = [{"prompt": "p", "completion": "x"}, {"prompt": "q"}]
    assert facts_of(tmp_path, kinds).demonstrations == 1  # a row without a completion is refused
    with pytest.raises(DataError, match="identical in every row"):
        facts_of(tmp_path, [pair(0, rejected="a long answer")])
