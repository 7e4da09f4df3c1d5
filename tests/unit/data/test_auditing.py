"""The audit, counted by hand."""

from __future__ import annotations

import json

import pytest

from assent.data.auditing import audit
from assent.data.loading import Dataset, RefusedRow, load_groups
from assent.types import Preference, PromptGroup


def pair(prompt, better, worse, **known):
    return PromptGroup(
        prompt=prompt, completions=(better, worse), preference=Preference(ranking=(1, 2), **known)
    )  # fmt: skip


def audit_of(*groups, refused=(), second=None):
    return audit(Dataset(groups, layout="comparisons", path="x.jsonl", sha256="0", refused=refused), second)


def test_duplicates_ties_and_contradictions_are_counted():
    result = audit_of(
        pair("p one", "long answer", "short"),
        pair("p one", "long answer", "short"),  # exact duplicate
        pair("P  one", "x", "yy"),  # the same prompt when normalised
        pair("q", "a", "b"),
        pair("q", "b", "a"),  # contradicts
        pair("q", "c", "d", chosen_probability=0.5),  # tied
    )
    assert (result.groups, result.completions) == (6, 12)
    assert (result.distinct_prompts, result.distinct_roots) == (2, 2)
    assert result.duplicate_groups == 1
    assert (result.pairs, result.tied_pairs, result.contradictory_pairs) == (6, 1, 1)
    lengths = result.lengths["completion_characters"]
    assert (lengths.minimum, lengths.median, lengths.maximum) == (1, 1.0, 11)
    assert result.lengths["prompt_words"].maximum == 2


def test_the_same_pair_by_two_annotators_is_no_duplicate_but_may_contradict():
    result = audit_of(pair("p", "a", "b", annotator="x"), pair("p", "a", "b", annotator="y"), pair("p", "b", "a"))
    assert (result.duplicate_groups, result.contradictory_pairs, result.annotators) == (0, 1, 2)


def test_pairs_of_rankings_and_scores():
    ranked = PromptGroup(prompt="p", completions=("a", "b", "c"), preference=Preference(ranking=(1, 2, 2)))
    scored = PromptGroup(prompt="p", completions=("b", "a", "b"), preference=Preference(scores=(1.0, 0.5, 0.0)))
    result = audit_of(ranked, scored)
    # ranked: a>b, a>c, b=c. scored: b>a (contradicts a>b), b and b again (identical texts order nothing), a>b.
    assert (result.pairs, result.tied_pairs, result.contradictory_pairs) == (6, 1, 1)
    assert result.groups_with_identical_completions == 1


def test_a_thumb_up_and_one_down_for_the_same_answer_contradict():
    groups = [
        PromptGroup(prompt="p", completions=("a",), preference=Preference(thumbs=(thumb,))) for thumb in (True, False)
    ]
    assert audit_of(*groups).contradictory_pairs == 1
    assert audit_of(groups[0], groups[0]).contradictory_pairs == 0


def test_share_of_longer_choices_takes_the_prompt_as_unit():
    result = audit_of(
        pair("p", "long", "s"), pair("p", "long", "t"), pair("p", "long", "u"),  # one prompt: 1
        pair("q", "s", "long"),  # 0
        pair("r", "ab", "cd"),  # equal lengths: 1/2
    )  # fmt: skip
    share = result.chosen_longer
    assert share is not None
    assert (share.value, share.prompts) == (0.5, 3)
    # Wilson at p = 1/2, n = 3, z = 1.959964: centre 1/2, half width z sqrt(n/4 + z²/4) / (n + z²)
    z = 1.959963984540054
    half = z * (3 / 4 + z * z / 4) ** 0.5 / (3 + z * z)
    assert (share.low, share.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)


def test_blank_completions_are_counted_whether_refused_or_not(tmp_path):
    refused = [RefusedRow("x:1", "empty completion"), RefusedRow("x:2", "broken JSON")]
    result = audit_of(pair("p", "a", " "), refused=refused)
    assert result.empty_completions == 2
    assert result.refused == {"empty completion": 1, "broken JSON": 1}
    (tmp_path / "x.jsonl").write_text('{"prompt":"p","completion":"c"}\n{"prompt":"p","completion":""}\n')
    assert audit(load_groups(tmp_path / "x.jsonl", lenient=True)).empty_completions == 1


def test_overlap_with_a_second_dataset():
    result = audit_of(pair("p", "a", "b"), second=[PromptGroup(prompt="p"), PromptGroup(prompt="q")])
    assert result.overlap is not None
    assert result.overlap.groups_with_shared_prompt == 1


def test_report_is_json_and_fits_80_columns():
    reasons = ["completion does not begin with an assistant turn", "prompt and completion of different kinds"]
    result = audit_of(
        pair("p" * 10_000_000, "a", "b", annotator="x"), refused=[RefusedRow("x:1", reason) for reason in reasons]
    )
    assert json.loads(json.dumps(result.as_dict()))["lengths"]["prompt_characters"]["maximum"] == 10_000_000
    lines = result.lines()
    assert max(map(len, lines)) <= 80
    assert any("10,000,000" in line for line in lines)
    assert all(any(reason in line for line in lines) for reason in reasons)
