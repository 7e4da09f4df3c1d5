"""What spreadsheets write: other separators, other encodings, and judgements in the user's own words."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from assent.config.data import read_columns
from assent.data.loading import load_groups
from assent.errors import DataError, UsageError

COLUMNS = "Frage=question,Antwort A=answer_a,Antwort B=answer_b,Urteil=winner"
ROWS = [["Frage", "Antwort A", "Antwort B", "Urteil"], ["Wann, bitte?", "Um 9, gern.", "Nie; nein.", "a"]]


def lines_of(rows: list[list[str]], separator: str) -> str:
    return "".join(separator.join(f'"{cell}"' if separator in cell else cell for cell in row) + "\r\n" for row in rows)


@pytest.mark.parametrize(("separator", "name"), [(",", None), (";", "semicolons"), ("\t", "tabs")])
def test_the_header_says_what_separates_the_cells(tmp_path: Path, separator: str, name: str | None) -> None:
    path = tmp_path / "survey.csv"
    path.write_text("\ufeff" + lines_of(ROWS, separator), encoding="utf-8")
    dataset = load_groups(path, columns=read_columns(COLUMNS))
    (group,) = dataset
    assert [text[0].content for text in (group.prompt, *group.completions)] == ROWS[1][:3]  # type: ignore[union-attr]
    assert [note for note in dataset.notes if "separated" in note] == (
        [f"cells separated by {name}, as in the header"] if name else []
    )


def test_a_separator_within_a_quoted_name_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('prompt,"a;b;c",completion\nHi,x,Yes\n')
    assert load_groups(path)[0].columns == {"a;b;c": "x"}


def test_a_row_with_too_many_cells_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt;completion\nHi;Yes;No\n")
    with pytest.raises(DataError, match=r":2: 3 cells under 2 columns(?s:.*)quote cells that hold semicolons"):
        load_groups(path)


@pytest.mark.parametrize(("encoding", "theirs"), [("cp1252", "cp1252"), ("utf-16", "utf-16")])
def test_another_encoding_is_an_error_that_says_how_to_convert(tmp_path: Path, encoding: str, theirs: str) -> None:
    path = tmp_path / "meine umfrage.csv"  # the command names it as it was given, and can be copied
    path.write_bytes("prompt,completion\nSchön?,Ja\n".encode(encoding))
    convert = rf"iconv -f {theirs} -t utf-8 {re.escape(shlex.quote(str(path)))} > NEW(?s:.*)CSV UTF-8"
    with pytest.raises(DataError, match=convert):
        load_groups(path)


def survey(folder: Path, judgements: list[str]) -> Path:
    path = folder / "survey.csv"
    rows = [[f"Frage {n}", f"Ja {n}", f"Nein {n}", judgement] for n, judgement in enumerate(judgements)]
    path.write_text(lines_of([ROWS[0], *rows], ";"), encoding="utf-8")
    return path


def test_a_file_without_usable_rows_shows_the_commonest_reason_and_its_values(tmp_path: Path) -> None:
    path = survey(tmp_path, ["links", "links", "rechts", ""])
    with pytest.raises(DataError) as caught:
        load_groups(path, columns=read_columns(COLUMNS), lenient=True)
    said = str(caught.value)
    assert "bad `Urteil` (3), no judgement of the two answers (1). The first: " in said
    assert "survey.csv:2: `Urteil` names neither answer" in said
    assert "got:      'links' (2 rows), 'rechts' (1 row)" in said
    assert "--columns 'Urteil=winner:left=a|right=b|both=tie'" in said


NUMBERED = "Frage=question,Antwort A=answer_1,Antwort B=answer_2,Urteil=winner"


@pytest.mark.parametrize(
    ("columns", "judgements"),
    [
        (COLUMNS, ["Antwort A", "antwort b ", "tie"]),  # the file's own names of the two columns
        (NUMBERED, ["Antwort A", "Antwort B", "tie"]),
        (f"{NUMBERED}:gleich gut=tie", ["Antwort A", "Antwort B", "gleich gut"]),
        (NUMBERED, ["a", "B", "tie"]),  # the first and the second, whatever they end in
        (f"{NUMBERED}:Antwort A=a|Antwort B=b|gleich gut=tie", ["Antwort A", "Antwort B", "gleich gut"]),
        (f"{NUMBERED}:Antwort A=b|Antwort B=a", ["Antwort B", "Antwort A", "tie"]),  # what is said comes first
    ],
)
def test_a_judgement_may_name_the_column_of_the_better_answer(
    tmp_path: Path, columns: str, judgements: list[str]
) -> None:
    dataset = load_groups(survey(tmp_path, judgements), columns=read_columns(columns))
    assert [group.preference.ranking for group in dataset if group.preference] == [(1, 2), (2, 1), (1, 1)]


@pytest.mark.parametrize(
    "columns",
    [
        read_columns(f"{COLUMNS}:links=a|rechts=b|beide gut=tie"),
        {**read_columns(COLUMNS), "Urteil": "winner:links=a|rechts=b|beide gut=tie"},
    ],
)
def test_a_judgement_s_own_values_are_read_as_what_they_are_said_to_mean(
    tmp_path: Path, columns: dict[str, str]
) -> None:
    dataset = load_groups(survey(tmp_path, ["links", "rechts", "beide gut", "b"]), columns=columns)
    assert [group.preference.ranking for group in dataset if group.preference] == [(1, 2), (2, 1), (1, 1), (2, 1)]
    assert all("Urteil" not in group.columns for group in dataset)
    assert dataset.renaming.used == columns  # as a plan writes them into its stages
    assert "Urteil as winner" in dataset.notes[1]


def test_a_meaning_is_known_however_its_value_is_stored(tmp_path: Path) -> None:
    """pandas makes floats of whole numbers in a column with missing values; JSON has its own true and false."""
    rows = [{"q": f"Hi {n}", "x": "Yes", "y": "No", "vote": vote} for n, vote in enumerate([0.0, 1.0, None, 2.0])]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"q": "question", "x": "answer_1", "y": "answer_2", "vote": "winner:0=1|1=2"}
    dataset = load_groups(path, columns=columns, lenient=True)
    assert [group.preference.ranking for group in dataset if group.preference] == [(1, 2), (2, 1)]  # 1.0 is answer_2
    found = dataset.refused_by_reason()
    assert {reason: len(sources) for reason, sources in found.items()} == {
        "no judgement of the two answers": 1,
        "bad `vote`": 1,  # 2 has no meaning, and is not read as answer_2
    }
    path.write_text("".join(json.dumps({**row, "vote": n % 2 == 0}) + "\n" for n, row in enumerate(rows)))
    dataset = load_groups(path, columns={**columns, "vote": "winner:true=2|FALSE=1"})
    assert [group.preference.ranking for group in dataset if group.preference] == [(2, 1), (1, 2)] * 2


@pytest.mark.parametrize("meant", ["question:links=a", "winner:links", "winner:links=a|links=b", "winner:=a"])
def test_values_that_say_nothing_are_refused(tmp_path: Path, meant: str) -> None:
    columns = {**read_columns(COLUMNS), "Urteil": meant}
    columns = columns if meant.startswith("winner") else {"Urteil": meant}
    with pytest.raises(UsageError, match="does not say what a judgement's values mean"):
        load_groups(survey(tmp_path, ["a"]), columns=columns)


def test_a_file_that_is_in_our_layout_already_needs_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "Hi", "completions": ["Yes", "No"], "ranking": [1, 2], "Thema": "x"}\n')
    with pytest.raises(DataError, match="the file is already in layout rankings: leave --columns out"):
        load_groups(path, columns=read_columns(COLUMNS))
