"""`--columns THEIRS=OURS`: a file's columns under our names, checked against the file."""

from __future__ import annotations

import json

import datasets
import pytest

from assent.config.data import DataOptions
from assent.config.loading import parse_options
from assent.data.loading import load_groups
from assent.errors import ConfigError, DataError, UsageError

ROW = {"question": "Hi", "response_j": "Yes", "response_k": "No", "id": 7}
COLUMNS = {"question": "prompt", "response_j": "chosen", "response_k": "rejected"}


def written(folder, *rows, name="x.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved"])
def test_columns_are_read_under_our_names(tmp_path, kind):
    table = datasets.Dataset.from_list([ROW, ROW | {"id": 8}])
    path = tmp_path / f"x.{kind}"
    write = {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet, "saved": table.save_to_disk}
    write[kind](path)
    dataset = load_groups(path, columns=COLUMNS)
    assert dataset.layout == "comparisons"
    assert [(group.prompt, group.completions) for group in dataset] == [("Hi", ("Yes", "No"))] * 2
    assert list(dataset[0].columns) == ["id"]
    assert dataset.notes == ["columns: question as prompt, response_j as chosen, response_k as rejected"]


def test_a_column_may_be_named_as_another_trainer_names_it(tmp_path):
    path = written(tmp_path, {"q": "Hi", "context": "there", "a": "Yes"})
    (group,) = load_groups(path, columns={"q": "instruction", "context": "input", "a": "output"})
    assert [turn.content for turn in (*group.prompt, *group.completions[0])] == ["Hi\nthere", "Yes"]


@pytest.mark.parametrize("lenient", [False, True])
def test_a_column_that_the_file_lacks_is_named_with_the_nearest(tmp_path, lenient):
    path = written(tmp_path, ROW)
    with pytest.raises(DataError, match=r"no column qestion(.|\n)*did you mean question=prompt") as raised:
        load_groups(
            path, columns={"qestion": "prompt", "response_j": "chosen", "response_k": "rejected"}, lenient=lenient
        )
    assert "response_j" in str(raised.value)
    with pytest.raises(DataError, match="no column weigt"):  # the layout is whole without it
        load_groups(path, columns=COLUMNS | {"weigt": "weight"}, lenient=lenient)


def test_a_column_that_later_rows_have_is_there(tmp_path):
    path = written(tmp_path, ROW, ROW | {"importance": 2.0})
    assert load_groups(path, columns=COLUMNS | {"importance": "weight"})[1].preference.weight == 2.0


def test_a_name_that_nothing_reads_is_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean response_k=rejected"):
        load_groups(written(tmp_path, ROW), columns=COLUMNS | {"response_k": "rejeted"})
    with pytest.raises(UsageError, match="two columns are to be read as prompt"):
        load_groups(written(tmp_path, ROW), columns={"question": "prompt", "response_j": "prompt"})


def test_a_column_does_not_take_the_place_of_another(tmp_path):
    path = written(tmp_path, ROW | {"prompt": "mine"})
    with pytest.raises(DataError, match="row has a column `prompt` too"):
        load_groups(path, columns=COLUMNS)
    path = written(tmp_path, {"chosen": "No", "rejected": "Yes", "prompt": "Hi"})
    (group,) = load_groups(path, columns={"chosen": "rejected", "rejected": "chosen"})
    assert group.completions == ("Yes", "No")


def test_another_file_of_the_command_may_have_our_names(tmp_path):
    path = written(tmp_path, {"prompt": "Hi", "chosen": "Yes", "rejected": "No"})
    assert load_groups(path, columns=COLUMNS, own_columns=False).notes == []
    with pytest.raises(DataError, match="no column question"):
        load_groups(path, columns=COLUMNS)


def test_another_file_of_the_command_is_read_with_the_columns_that_it_has(tmp_path):
    half = load_groups(
        written(tmp_path, {"question": "Hi", "chosen": "Yes", "rejected": "No"}), columns=COLUMNS, own_columns=False
    )
    assert [(group.prompt, group.completions) for group in half] == [("Hi", ("Yes", "No"))]
    assert half.notes == ["columns: question as prompt; not in this file: response_j, response_k"]
    assert half.renaming.used == {"question": "prompt"}


def test_the_columns_of_a_file_keep_what_a_judgements_values_mean(tmp_path):
    columns = {"q": "question", "a": "answer_a", "b": "answer_b", "vote": "winner:left=a|right=b"}
    path = written(tmp_path, {"q": "Hi", "a": "Yes", "b": "No", "vote": "right"})
    assert load_groups(path, columns=columns).renaming.used == columns


THUMB = {"q": "prompt", "a": "completion", "rating": "label"}


def test_a_thumb_in_the_files_own_words_is_read_as_what_it_is_said_to_mean(tmp_path):
    path = tmp_path / "chats.jsonl"
    said = ["thumbs_up", "Thumbs_Down", True, 0, None, "so so"]  # a number might mean something else
    path.write_text("".join(json.dumps({"q": f"Hi {n}", "a": "Yes", "rating": r}) + "\n" for n, r in enumerate(said)))
    columns = {**THUMB, "rating": "label:thumbs_up=true|thumbs_down=false"}
    dataset = load_groups(path, columns=columns, lenient=True)
    assert [group.preference.thumbs for group in dataset if group.preference] == [(True,), (False,), (True,)]
    assert set(dataset.refused_by_reason()) == {"bad `rating`"}
    with pytest.raises(DataError, match=r"--columns 'rating=label:up=true\|down=false'"):
        load_groups(path, columns=THUMB)
    with pytest.raises(UsageError, match=r"rating=label:up=true\|down=false"):
        load_groups(path, columns={**columns, "rating": "label:thumbs_up=good|thumbs_down=false"})


def test_a_misspelt_column_of_another_file_is_an_error(tmp_path):
    path = written(tmp_path, {"question": "Hi", "respons_j": "Yes", "response_k": "No"})
    with pytest.raises(DataError, match=r"no column response_j(.|\n)*did you mean respons_j=chosen") as raised:
        load_groups(path, columns=COLUMNS, own_columns=False)
    assert "question" not in str(raised.value)


def test_what_is_left_of_a_nested_column_replaces_no_other(tmp_path):
    path = written(tmp_path, {"q": "Hi", "out": [{"text": "Yes", "model": "m1"}], "out.0.model": "m2"})
    with pytest.raises(DataError, match=r"`out\.0\.text` leaves a column `out\.0\.model`, but the row has one too"):
        load_groups(path, columns={"q": "prompt", "out.0.text": "completion"})


def test_another_file_in_our_names_is_not_taken_for_a_misspelt_one(tmp_path):
    path = written(tmp_path, {"prompt": "Hi", "completion": "Yes"})
    dataset = load_groups(path, columns={"prompts": "prompt", "completions": "completion"}, own_columns=False)
    assert [group.completions for group in dataset] == [("Yes",)]


@pytest.mark.parametrize(
    "given",
    ["question=prompt, response_j=chosen,response_k=rejected", [f"{a}={b}" for a, b in COLUMNS.items()], COLUMNS],
)
def test_pairs_and_mappings_are_the_same_option(given):
    assert parse_options(DataOptions, {"columns": given}).columns == COLUMNS


@pytest.mark.parametrize("given", ["question", "question=", "=prompt", "a=prompt,a=chosen", 3])
def test_broken_pairs_are_an_error(given):
    with pytest.raises(ConfigError, match="columns"):
        parse_options(DataOptions, {"columns": given})


TWO = {"Frage": "Hi", "Antwort A": "Yes", "Antwort B": "No"}
GERMAN = {"Frage": "prompt", "Antwort A": "chosen", "Antwort B": "rejected"}


def warned(dataset):
    return [note for note in dataset.notes if note.startswith("warning")]


@pytest.mark.parametrize(
    "values", [["a", "b", "tie"], ["b"], ["Antwort B", "Antwort A"], ["model_a", "model_b"]], ids=" ".join
)
def test_a_verdict_that_nothing_reads_is_warned_of(tmp_path, values):
    rows = [TWO | {"Urteil": value, "Bearbeiter": "mk", "Nr": n} for n, value in enumerate(values)]
    (note,) = warned(load_groups(written(tmp_path, *rows), columns=GERMAN))
    assert "nothing reads `Urteil`" in note
    spelt_out = "Antwort B" in values
    assert ("Antwort A=answer_a,Antwort B=answer_b,Urteil=winner" in note) != spelt_out
    alone = {"Frage": "prompt", "Antwort A": "completion"}
    assert len(warned(load_groups(written(tmp_path, *rows), columns=alone))) == 1
    read = {"Frage": "question", "Antwort A": "answer_a", "Antwort B": "answer_b", "Urteil": "winner"}
    read["Urteil"] += ":Antwort A=a|Antwort B=b" if spelt_out else ""
    assert not warned(load_groups(written(tmp_path, *rows), columns=read))


@pytest.mark.parametrize(
    "values", [["a", "a"], ["mk", "b"], ["tie", "tie"], ["", ""], [True, False], list("abcdef")], ids=str
)
def test_other_columns_that_nothing_reads_are_no_verdict(tmp_path, values):
    rows = [TWO | {"Urteil": value} for value in values]
    assert not warned(load_groups(written(tmp_path, *rows), columns=GERMAN))
