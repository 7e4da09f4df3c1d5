"""From answers to figures: who is compared with whom, what a slice holds, what the options of a subject do."""

from __future__ import annotations

import numpy as np
import pytest

from assent.evaluation.answers import Answers, Completions
from assent.evaluation.figures import Compared, Subject, compare_by_judge, compare_scores, figures_of
from assent.evaluation.generators import rank_writers
from assent.evaluation.versus import judge_record, ratings_of, wins_of
from assent.judging.verdicts import FunctionJudge, Verdicts
from assent.statistics.comparisons import length_controlled, prompts_needed
from assent.types import Preference, PromptGroup


def wanted(prompts, first, second, groups):
    return ["A" if group.columns["wanted"] in one else "B" for group, one in zip(groups, first, strict=True)]


def test_a_judge_compares_the_kth_answers_of_a_prompt_and_sees_its_row() -> None:
    groups = [PromptGroup(prompt=f"p{i}", columns={"wanted": w}) for i, w in enumerate(["x", "y", "x"])]
    a = Answers(prompt_index=[0, 0, 1, 2], texts=["x", "xx", "x and so on", "y, too"])
    b = Answers(prompt_index=[0, 1, 1, 2], texts=["y y y", "y", "yy", "x"])
    found = compare_by_judge(FunctionJudge(wanted, name="wanted"), a, b, groups, None)
    assert found.prompts.tolist() == [0, 1, 2]
    assert found.shares.tolist() == [1, 0, 0]
    assert found.longer.tolist() == [1 - 5, 11 - 1, 6 - 1]


def test_by_scores_every_answer_meets_every_other_of_its_prompt() -> None:
    a = Answers(prompt_index=[0, 0, 1], texts=["a", "aa", "aaa"], scores=[1.0, 3.0, 0.0])
    b = Answers(prompt_index=[0, 1, 1], texts=["bbbb", "b", "bb"], scores=[2.0, 0.0, -1.0])
    found = compare_scores(a, b, 2)
    assert found.prompts.tolist() == [0, 0, 1, 1]
    assert found.shares.tolist() == [0, 1, 0.5, 1]
    assert found.longer.tolist() == [1 - 4, 2 - 4, 3 - 1, 3 - 2]
    assert found.by_prompt(2).tolist() == [0.5, 0.75]


def test_a_slice_is_of_its_own_prompts_and_the_whole_of_all() -> None:
    rng = np.random.default_rng(0)
    number, places = 24, np.repeat(np.arange(24), 2)
    own, other = (
        Answers(
            prompt_index=places.tolist(),
            texts=["w" * n for n in rng.integers(1, 40, size=48)],
            scores=rng.normal(size=48).tolist(),
            measures={"harm_in_answer": rng.integers(0, 2, size=48).astype(float).tolist()},
        )
        for _ in range(2)
    )
    compared = compare_scores(own, other, number)
    clusters = [p % 16 for p in range(number)]
    options = {"answers": own, "num_prompts": number, "clusters": clusters, "against": compared, "baseline": other}
    whole = figures_of(Subject(**options, confidence=0.8, half_width=0.1), {"side": ["left", "right"] * 12})
    expected = length_controlled(
        compared.shares, compared.longer, clusters=[clusters[p] for p in compared.prompts], confidence=0.8
    )
    assert whole.length_controlled is not None
    assert expected is not None
    assert whole.length_controlled.as_dict() == expected.as_dict()
    assert whole.win_rate is not None
    assert whole.prompts_needed == prompts_needed(whole.win_rate, half_width=0.1)
    assert set(whole.slices["side"]) == {"left", "right"}
    for side, name in enumerate(("left", "right")):
        part, inside = whole.slices["side"][name], places % 2 == side
        for estimate, values in (
            (part.gold, np.array(own.scores)[inside]),
            (part.difference, np.array(own.scores)[inside] - np.array(other.scores)[inside]),
            (part.safety["harm_in_answer"], np.array(own.measures["harm_in_answer"])[inside]),
            (part.characters, np.array([len(text) for text in own.texts])[inside]),
            (part.win_rate, compared.by_prompt(number)[side::2]),
        ):
            assert estimate is not None
            assert estimate.value == pytest.approx(values.mean())
            assert (estimate.clusters, estimate.confidence) == (8, 0.8)


def compared_by(shares: list[float], verdicts: Verdicts | None = None) -> Compared:
    return Compared(
        prompts=np.arange(len(shares)), shares=np.array(shares), longer=np.zeros(len(shares)), verdicts=verdicts
    )


def test_ratings_and_wins_are_of_sampled_answers_over_the_clusters() -> None:
    compared = {
        ("sampled", "b", "a"): compared_by([1, 1, 0, 1]),
        ("greedy", "b", "a"): compared_by([0, 0, 1, 0]),
        ("sampled", "c", "a"): compared_by([0, 1, 0, 1]),
        ("sampled", "b", "c"): compared_by([1, 0, 1, 1]),
    }
    ratings = ratings_of(compared, baseline="a", clusters=["p", "p", "q", "r"], confidence=0.8)
    assert ratings["b"] is not None
    assert ratings["b"].value > 0
    assert (ratings["b"].clusters, ratings["b"].confidence) == (3, 0.8)
    wins = wins_of(compared, clusters=["p", "p", "q", "r"], confidence=0.8)
    assert {(name, rival): rate.value for name, of in wins.items() for rival, rate in of.items()} == {
        ("b", "a"): 0.75, ("a", "b"): 0.25, ("c", "a"): 0.5, ("a", "c"): 0.5, ("b", "c"): 0.75, ("c", "b"): 0.25
    }  # fmt: skip
    assert wins["b"]["a"].clusters == 3


def test_a_judges_record_is_over_all_its_comparisons() -> None:
    def verdicts(consistent: list[float], calls: int) -> Verdicts:
        array = np.array(consistent)
        return Verdicts(shares=array, consistent=array, first_wins=array / 2, calls=calls, invalid=1)

    compared = {
        ("sampled", "b", "a"): compared_by([1, 1, 0], verdicts([1.0, np.nan, 0.0], 6)),
        ("greedy", "b", "a"): compared_by([1, 1, 0], verdicts([1.0, 1.0, np.nan], 4)),
    }
    record = judge_record(compared, clusters=["p", "q", "q"], confidence=0.8)
    assert record is not None
    assert (record["calls"], record["invalid"]) == (10, 2)
    assert (record["consistent"]["value"], record["consistent"]["n"], record["consistent"]["clusters"]) == (0.75, 4, 2)
    assert record["first_wins"]["value"] == 0.375


def test_of_a_file_as_many_answers_as_were_asked_for() -> None:
    rows = [PromptGroup(prompt="p", completions=(text,), columns={"tokens": len(text)}) for text in ("a", "bb", "ccc")]
    file = Completions("f", "", {"p": rows})
    found = file.answers([PromptGroup(prompt="p")], at_most=2)
    assert (found.texts, found.tokens, found.prompt_index) == (["a", "bb"], [1, 2], [0, 0])
    assert file.answers([PromptGroup(prompt="p")]).texts == ["a", "bb", "ccc"]


def test_writers_of_few_prompts_are_shown_and_not_ranked() -> None:
    def row(names: list[str]) -> PromptGroup:
        scores = tuple(float(i) for i in range(len(names)))
        return PromptGroup(
            prompt="p", completions=tuple(names), preference=Preference(scores=scores), columns={"by": names}
        )

    groups = [row(["a", "b", "c"])] * 5 + [row(["rare", "a"])] * 4
    scores = [list(group.preference.scores or ()) for group in groups if group.preference is not None]
    found = rank_writers(groups, scores, scores, column="by")
    assert (len(found["writers"]), found["too_few"], found["spearman"]["n"]) == (4, 1, 3)
