"""Data in memory is read as a file with the same rows would be, and known by its content."""

from __future__ import annotations

import datasets
import pandas
import pytest

from assent.data.given import find, holding
from assent.data.loading import load_groups
from assent.errors import DataError, DataFileNotFoundError, UsageError
from assent.types import Preference, PromptGroup

ROWS = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no", "weight": 1.0 + n} for n in range(3)]
FORMS = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "table": datasets.Dataset.from_list(ROWS),
    "frame": pandas.DataFrame(ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_groups_and_the_same_hash(form, tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    saved = load_groups(tmp_path / "saved")
    with holding() as hold:
        name = hold(FORMS[form])
        read = load_groups(name)
        assert [(g.prompt, g.completions, g.preference) for g in read] == [
            (g.prompt, g.completions, g.preference) for g in saved
        ]
    assert (read.layout, read.sha256) == ("comparisons", saved.sha256)
    assert name == f"3 rows in memory, SHA-256 {saved.sha256[:12]}" == read.path


def test_the_name_holds_only_while_the_call_runs():
    with holding() as hold:
        name = hold(ROWS)
        with holding() as again:
            assert again(list(ROWS)) == name
        assert find(name) is not None, "the outer call still uses it"
    assert find(name) is None
    with pytest.raises(DataFileNotFoundError):
        load_groups(name)


def test_other_content_has_another_name():
    with holding() as hold:
        names = [hold(rows) for rows in (ROWS, [*ROWS[:2], ROWS[2] | {"chosen": "yes!"}], ROWS[:2])]
    assert len(set(names)) == 3


def test_splits_and_columns_are_those_of_files():
    tables = datasets.DatasetDict(
        a=datasets.Dataset.from_list([{"q": "hi", "completion": "a"}]),
        b=datasets.Dataset.from_list([{"q": "hi", "completion": "b"}] * 2),
    )
    with holding() as hold:
        name = hold(tables)
        assert len(load_groups(name, split="b", columns={"q": "prompt"})) == 2
        with pytest.raises(DataError, match=r"several splits(.|\n)*a, b"):
            load_groups(name)
        with pytest.raises(UsageError, match="no splits"):
            load_groups(hold(ROWS), split="train")
        (group,) = load_groups(hold([{"q": "hi", "completion": "a"}]), columns={"q": "prompt"})
        assert group.prompt == "hi"


def test_a_missing_value_of_pandas_is_no_value():
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2.0}]
    rows += [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    with holding() as hold:
        groups = list(load_groups(hold(pandas.DataFrame(rows))))
    assert [group.preference.margin for group in groups] == [2.0, Preference().margin]


def test_groups_are_taken_as_they_are():
    groups = [PromptGroup(prompt="p", completions=("c",))]
    with holding() as hold:
        name = hold(groups)
        assert list(load_groups(name)) == groups
        with pytest.raises(UsageError, match="no effect on PromptGroups"):
            load_groups(name, columns={"q": "prompt"})
        with pytest.raises(DataError, match="`images`"):
            hold([PromptGroup(prompt="p", completions=("c",), columns={"images": ["cat.png"]})])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([ROWS[0], "text"], "something that is no row"),
        ([ROWS[0], PromptGroup(prompt="p")], "something that is no row"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "streamed"),
        (pandas.DataFrame({"prompt": ["a", 1]}), "DataFrame cannot be read"),
    ],
)
def test_what_cannot_be_held_is_refused(value, message):
    with holding() as hold, pytest.raises(DataError, match=message):
        hold(value)


def test_no_rows_are_an_error():
    with holding() as hold, pytest.raises(DataError, match="has no rows"):
        load_groups(hold([]))
