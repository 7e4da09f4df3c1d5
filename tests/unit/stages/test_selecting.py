"""What each stage takes of the groups it is given, what it refuses by name, and what is another command's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.errors import ConfigError, DataError
from assent.models.folders import check_revision
from assent.stages.selecting import demonstrations_of, to_comparisons, to_demonstrations, to_prompts, to_turns
from assent.types import Message, Preference, PromptGroup
from tests.support.rows import group


def pair(**preference: object) -> PromptGroup:
    return group(0, "a", "b", preference=Preference(**preference), logps=(-1.0, -2.0))  # type: ignore[arg-type]


def texts(found: PromptGroup) -> list[str]:
    return [completion[0].content for completion in found.completions]  # type: ignore[union-attr]


@pytest.mark.parametrize("preference", [{"ranking": (2, 1)}, {"scores": (0.5, 3.0)}])
def test_the_better_completion_comes_first_with_all_that_belongs_to_it(preference: dict[str, object]) -> None:
    (found,), refused = to_comparisons([pair(**preference, chosen_probability=0.2, weight=3.0, annotator="ann")])
    assert refused == {}
    assert texts(found) == ["b", "a"]
    assert found.logps == (-2.0, -1.0)
    assert found.preference is not None
    assert found.preference.ranking == (1, 2)
    assert found.preference.chosen_probability == 0.8  # that the first, now `b`, wins
    assert (found.preference.weight, found.preference.annotator) == (3.0, "ann")
    assert found.preference.scores == ((3.0, 0.5) if "scores" in preference else None)


def test_a_comparison_in_order_stays_as_it_is() -> None:
    given = pair(ranking=(1, 2), margin=0.7, chosen_probability=0.9)
    assert to_comparisons([given]) == ([given], {})


@pytest.mark.parametrize("preference", [{"ranking": (1, 1)}, {"scores": (2.0, 2.0)}])
def test_ties_are_refused_and_named(preference: dict[str, object]) -> None:
    kept, refused = to_comparisons([pair(ranking=(1, 2)), pair(**preference)])
    assert len(kept) == 1
    assert refused == {"a tie: neither completion is better": ["rows.jsonl:1"]}


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (group(0, "a"), "1 completion"),
        (group(0, "a", "b"), "no preference"),
        (group(0, "a", "b", "c", preference=Preference(ranking=(1, 2, 3))), "3 completion"),
        (group(0, "a", "b", preference=Preference(thumbs=(True, False))), "thumbs"),
    ],
)
def test_what_is_no_comparison_is_another_commands_file(given: PromptGroup, got: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is not a comparison") as caught:
        to_comparisons([given])
    assert got in str(caught.value)
    assert "prompt, chosen, rejected" in str(caught.value)


def test_demonstrations_are_taken_and_of_comparisons_the_chosen_one() -> None:
    kept, refused = to_demonstrations([group(0, "a"), pair(ranking=(2, 1), weight=3.0), pair(scores=(3.0, 1.0))])
    assert [texts(found) for found in kept] == [["a"], ["b"], ["a"]]
    assert [found.preference for found in kept] == [None, Preference(weight=3.0), None]
    assert [found.logps for found in kept] == [None, None, None]
    assert refused == {}


def test_a_thumb_up_is_a_demonstration_and_a_thumb_down_is_not() -> None:
    up, down = (group(i, "a", preference=Preference(thumbs=(value,))) for i, value in enumerate((True, False)))
    assert to_demonstrations([up, down]) == ([up], {"a thumb down: nothing to imitate": ["rows.jsonl:2"]})


def test_each_assistant_turn_is_a_row_that_ends_with_it() -> None:
    said = [("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f")]
    chat = tuple(Message(role, text) for role, text in [*said, ("user", "g")])
    weight = Preference(weight=2.0)
    given = PromptGroup(prompt=chat[:1], completions=(chat[1:],), preference=weight, source="rows.jsonl:3")
    found, refused = to_turns([given, pair(ranking=(2, 1))])
    assert refused == {}
    assert [one.completions for one in found[:3]] == [((chat[1],),), ((chat[3],),), ((chat[5],),)]
    assert [one.prompt for one in found[:3]] == [chat[:1], chat[:3], chat[:5]]
    assert [one.source for one in found[:3]] == [f"rows.jsonl:3, turn {n}" for n in (2, 4, 6)]
    assert all(one.preference == weight for one in found[:3])
    assert texts(found[3]) == ["b"]  # of a comparison the better one, which is a single turn
    raw = PromptGroup(prompt="a", completions=("b",))
    assert to_turns([raw]) == ([raw], {})
    assert demonstrations_of("all") is demonstrations_of("last") is to_demonstrations


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (pair(ranking=(1, 1)), "ranking"),
        (group(0, "a", preference=Preference(scores=(0.1,))), "scores"),
        (group(0, "a", preference=Preference(step_labels=((1.0, 0.0),))), "step_labels"),
        (group(0), "0 completion"),
    ],
)
def test_what_is_no_demonstration_is_refused(given: PromptGroup, got: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is not a demonstration") as caught:
        to_demonstrations([given])
    assert got in str(caught.value)


def test_of_any_group_the_prompt_can_be_used() -> None:
    given = pair(ranking=(1, 2))
    (found,), refused = to_prompts([given])
    assert (found.prompt, found.source) == (given.prompt, given.source)
    assert (found.completions, found.preference, found.logps, refused) == ((), None, None, {})


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="no effect on a local folder"):
        check_revision("main", str(tmp_path / "model"))
    check_revision(None, str(tmp_path / "model"))
    check_revision("main", "owner/name", str(tmp_path / "model"))  # it has one on the first


def test_prompts_whose_columns_nothing_read_name_them() -> None:
    row = PromptGroup(prompt="Hi", completions=(), columns={"left": "Yes", "right": "No", "best": "left"})
    with pytest.raises(DataError, match=r"not read: left, right, best(?s:.*)--columns THEIRS=OURS"):
        to_comparisons([row])
