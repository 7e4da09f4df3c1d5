"""What moved is named, and nothing else; quiet logs stay quiet; seasons are no drift."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from assent.diagnosis.drift.baseline import _edges, _tree
from assent.diagnosis.drift.encoding import DAY_SECONDS, FORMATS, Bags, Rows, Vocabulary, format_of, words_of
from assent.diagnosis.drift.reference import fit, fit_rows
from assent.diagnosis.drift.served import Served
from assent.diagnosis.drift.watcher import Watcher
from assent.errors import DataError
from assent.sandbox.traffic import MOVES
from tests.support.traffic import BASE_DAYS, FIRST_DAY, NEXT_DAY, logged, reference, release, served

CAUSE = {
    "prompts": "prompts_moved",
    "taste": "taste_moved",
    "reward model": "reward_model_aged",
    "behaviour": "behaviour_moved",
    "judge": "judge_changed",
    "feedback": "feedback_selected",
    "serving": "serving_differs",
}


def found_in(rows: list[Served], *, baseline: Watcher | None = None) -> set[str]:
    one = baseline or Watcher(reference=reference(), alpha=0.05)
    now = max(row.time for row in rows if row.time is not None) + DAY_SECONDS
    one.take(rows, now=now)
    return {finding.rule for look in one.test(now=now) for finding in look.report.findings}


@pytest.mark.parametrize("what", MOVES)
def test_each_cause_alone_is_named_alone(what: str) -> None:
    assert found_in(served(logged(what, days=8))) == {CAUSE[what]}


def test_quiet_logs_are_quiet() -> None:
    assert found_in(served(logged(days=10, seed=11))) == set()


def test_two_causes_are_both_named() -> None:
    """Each row is logged by a changed judge, with log-probabilities of another server."""
    judged, elsewhere = served(logged("judge", days=8)), served(logged("serving", days=8))
    both = [replace(one, logprob=other.logprob) for one, other in zip(judged, elsewhere, strict=True)]
    assert found_in(both) == {CAUSE["judge"], CAUSE["serving"]}


def test_the_trainers_log_probabilities_speak_for_the_whole_call() -> None:
    """If they agree, for every day of it; if they do not, for the last."""
    rows = served(logged("serving", days=8))
    now = max(row.time for row in rows if row.time is not None) + DAY_SECONDS

    def days(policy: dict[str, float] | None) -> list[bool]:
        one = Watcher(reference=reference(), alpha=0.05)
        one.take(rows, now=now)
        return [CAUSE["serving"] in {found.rule for found in look.report.findings}
                for look in one.test(now=now, policy=policy)]  # fmt: skip

    assert any(days(None)[:-1])
    assert not any(days({"nats_per_token": 0.01, "scale": 1.0}))
    assert days({"nats_per_token": 0.4, "scale": 0.7}) == [*days(None)[:-1], True]


def test_a_column_that_the_baseline_lacks_is_not_compared() -> None:
    bare = [Served(prompt=row.prompt, completion=row.completion, time=row.time) for row in served(release())]
    one = Watcher(reference=fit(bare), alpha=0.05)
    assert found_in(served(logged("taste", days=7)), baseline=one) == set()
    assert "rating/level" not in {signal for look in one.told for signal in look["differences"]}


def test_weekdays_are_compared_with_their_like() -> None:
    """Longer prompts on two days of the week: a season, which is drift only to who does not know it."""

    def weekly(rows: tuple[dict[str, object], ...]) -> list[Served]:
        return [
            replace(row, prompt=row.prompt + " please" * 12) if int(row.time or 0) // DAY_SECONDS % 7 < 2 else row
            for row in served(rows)
        ]

    base, later = weekly(release()), weekly(logged(days=9, seed=3))
    knows = Watcher(reference=fit(base, season="week"), alpha=0.05)
    assert knows.reference.is_seasonal
    assert found_in(later, baseline=knows) == set()
    no_weekend = [row for row in base if int(row.time or 0) // DAY_SECONDS % 7 >= 2]
    assert "prompts_moved" in found_in(later, baseline=Watcher(reference=fit(no_weekend), alpha=0.05))
    with pytest.raises(DataError, match="lacks weekdays"):
        fit(no_weekend, season="week")
    assert fit(base).is_seasonal  # auto: 14 days, each weekday twice
    assert not fit(served(logged(days=13, first=FIRST_DAY, seed=1))).is_seasonal
    assert BASE_DAYS == 14


def test_days_that_differ_more_than_chance_raise_the_bar() -> None:
    """One client sends one long prompt a hundred times on some days; the baseline has such days as well."""
    rows = served(release())
    clients = [
        replace(row, prompt="please " * 40 + row.prompt) if int(row.time or 0) // DAY_SECONDS * 7919 % 11 % 2 else row
        for row in rows
    ]
    plain, bursty = fit(rows), fit(clients, season="none")
    assert plain.inflation["prompt/length"] == 1
    assert bursty.inflation["prompt/length"] > 10


def test_a_small_baseline_is_refused() -> None:
    with pytest.raises(DataError, match="too small"):
        fit(served(release())[:200])


def test_words_numbers_and_forms() -> None:
    assert words_of("It's 2 of B12, isn’t it?") == ["it's", "#", "of", "b", "#", "isn’t", "it"]
    texts = {"one paragraph": "a b", "paragraphs": "a\nb", "list": "x:\n- a\n- b", "headings": "# A\nb",
             "code": "```\nx\n```", "table": "| a | b |", "JSON": '{"a": 1}', "empty": " \n"}  # fmt: skip
    assert {name: FORMATS[format_of(text)] for name, text in texts.items()} == {name: name for name in FORMATS}
    vocabulary = Vocabulary.of(["a b", "a c", "a b"], most=2, least=2)
    assert (vocabulary.words, vocabulary.size) == (("a", "b"), 3)


def test_edges_part_values_that_differ() -> None:
    assert _edges(np.arange(8.0), 4).tolist() == [1, 3, 5]
    assert _edges(np.array([0.0] + [1.0] * 99), 8).tolist() == [0]
    assert _edges(np.array([math.nan, 2.0, 2.0]), 8).tolist() == []


def test_a_tree_finds_the_leaf_of_a_row() -> None:
    """The answer is long where word 1 is there, and longer with word 2 beside it."""
    draw = np.random.default_rng(0)
    words = (draw.random((400, 4)) < 0.5).astype(np.float32)
    target = 3 * words[:, 1] + 2 * words[:, 1] * words[:, 2]
    tree = _tree(words, target)
    leaves = tree.leaves(csr_array(words))
    assert tree.num_leaves == 3
    for leaf in range(3):
        assert np.ptp(target[leaves == leaf]) == 0
    alone = _tree(words, np.zeros(400))
    assert (alone.num_leaves, set(alone.leaves(csr_array(words)))) == (1, {0})


def test_bags_take_and_join() -> None:
    bags = Bags.of([[1, 2], [], [0]])
    assert bags.take(np.array([2, 0, 2])).places.tolist() == [0, 1, 2, 0]
    joined = Bags.joined([bags, bags.take(np.array([0]))])
    assert joined.matrix(3).toarray().tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_what_is_compared_has_not_been_chosen() -> None:
    """No row of the third that chooses words, bins and predictions is among the counts."""
    rows = reference().encoder.encode(served(release()))
    assert isinstance(rows, Rows)
    counted = int((rows.key % np.uint64(3) != 0).sum())
    assert reference().tables["rows"].sum() == counted
    again = fit_rows(rows, prompts=reference().prompt_words, completions=reference().completion_words, slices={})
    assert np.array_equal(again.tables["completion/length"], reference().tables["completion/length"])
    assert NEXT_DAY - FIRST_DAY == BASE_DAYS
