"""`data split`: two files without a common conversation, none overwritten, and the same ones for the same seed."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from assent.commands.tools import split_stage
from assent.config.commands import DataSplitConfig
from assent.config.data import read_columns
from assent.data.loading import load_groups
from assent.data.splitting import overlap
from assent.errors import DataError
from tests.support.cli import files_in, said
from tests.support.rows import comparisons, read_rows, write_rows


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty questions, and a second row for each that goes on from it."""
    first = read_rows(comparisons(tmp_path / "pairs.jsonl", 20))
    more = [{"role": "assistant", "content": "why"}, {"role": "user", "content": "because"}]
    return write_rows(tmp_path / "pairs.jsonl", [*first, *({**row, "prompt": row["prompt"] + more} for row in first)])


def test_conversations_stay_together_and_no_row_is_lost(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status, printed, err = said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", out, "--json"], capsys)
    assert status == 0, err
    document = json.loads(printed)
    assert document["rows"] == {"train": 30, "eval": 10}
    train, held_out = (load_groups(document[part]) for part in ("train", "eval"))
    assert train.layout == held_out.layout == "comparisons"
    assert overlap(train, held_out).shared_roots == 0
    lines = [(out / f"pairs.{part}.jsonl").read_text().splitlines() for part in ("train", "eval")]
    rows = [json.dumps(json.loads(line), sort_keys=True) for part in lines for line in part]
    assert sorted(rows) == sorted(json.dumps(json.loads(x), sort_keys=True) for x in pairs.read_text().splitlines())

    before = files_in(out)
    status, _, err = said(["data", "split", pairs, "--output-dir", out], capsys)
    assert status == 2
    assert "pairs.train.jsonl exists already" in err
    assert files_in(out) == before

    same, other = tmp_path / "same", tmp_path / "other"
    assert said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", same], capsys)[0] == 0
    assert said(["data", "split", pairs, "--fraction", 0.25, "--output-dir", other, "--seed", 1], capsys)[0] == 0
    assert files_in(same) == before != files_in(other)


def test_a_gzipped_file_gives_gzipped_ones_beside_it(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = pairs.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(pairs.read_bytes()))
    assert said(["data", "split", packed], capsys)[0] == 0
    found = {path.name for path in pairs.parent.iterdir()}
    assert found == {"pairs.jsonl", "packed.jsonl.gz", "packed.train.jsonl.gz", "packed.eval.jsonl.gz"}


@pytest.mark.parametrize(("rows", "fraction"), [(1, 0.5), (20, 1.5)])
def test_what_cannot_be_split_writes_nothing(
    rows: int, fraction: float, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs.write_text("\n".join(pairs.read_text().splitlines()[:rows]) + "\n")
    assert said(["data", "split", pairs, "--fraction", fraction], capsys)[0] == 2
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.jsonl"]


COLUMNS = "Frage=question,Antwort A=answer_a,Antwort B=answer_b,Urteil=winner"


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A labelling tool's CSV with ten good rows and three bad ones: the lines 4, 8 and 12."""
    rows = [["Frage", "Antwort A", "Antwort B", "Urteil"]]
    rows += [[f"Frage {n}?", f"Ja, {n}.", f"Nein, {n}.", "ab"[n % 2]] for n in range(2, 15)]
    rows[3][2], rows[7][3], rows[11][3] = "", "", "keine"
    path = tmp_path / "survey.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_all_bad_rows_are_left_out_counted_and_named_in_the_file_s_own_words(
    survey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(["data", "split", survey, "--fraction", 0.3, "--columns", COLUMNS], capsys)
    assert status == 0, err
    assert "refused, in neither file: 3 rows" in out
    assert "empty completion, 1 row: survey.csv:4" in out
    assert "no judgement of the two answers, 1 row: survey.csv:8" in out
    assert "bad `Urteil`, 1 row: survey.csv:12" in out
    written = [read_rows(survey.with_name(f"survey.{part}.jsonl")) for part in ("train", "eval")]
    asked = sorted(int(row["prompt"][0]["content"].split()[1][:-1]) for part in written for row in part)
    assert asked == [n for n in range(2, 15) if n not in (4, 8, 12)]
    with pytest.raises(DataError, match=r"survey\.csv:4: `Antwort B` is empty"):
        load_groups(survey, columns=read_columns(COLUMNS))


def test_what_was_noticed_while_reading_is_said_before_a_split_hides_it(
    survey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files that are written have commas and our names, so that no later command could say it."""
    rows = [row for row in csv.reader(survey.read_text(encoding="utf-8").splitlines()) if row[3] != "keine"]
    survey.write_text("".join(";".join(row) + "\n" for row in rows), encoding="utf-8")
    wrong = "Frage=prompt,Antwort A=chosen,Antwort B=rejected"
    status, out, err = said(["data", "split", survey, "--fraction", 0.3, "--columns", wrong], capsys)
    assert status == 0, err
    assert "cells separated by semicolons" in out
    assert "warning: nothing reads `Urteil`" in out


def test_the_stage_of_a_pipeline_leaves_the_same_rows_out_and_says_so(survey: Path, tmp_path: Path) -> None:
    options = {"file": str(survey), "fraction": 0.3, "columns": COLUMNS, "output_dir": str(tmp_path / "split")}
    said_of_it: list[str] = []
    progress = SimpleNamespace(line=said_of_it.append)
    result = split_stage(DataSplitConfig.model_validate(options), progress=progress)  # type: ignore[arg-type]
    assert sum(result["rows"].values()) == 10
    assert {reason: len(rows) for reason, rows in result["refused_rows"].items()} == {
        "empty completion": 1,
        "no judgement of the two answers": 1,
        "bad `Urteil`": 1,
    }
    assert "refused, in neither file: 3 rows" in said_of_it


@pytest.mark.parametrize("command", [["data", "check"], ["doctor"]])
def test_the_advice_to_write_the_other_rows_can_be_followed(
    command: list[str], survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*command, survey, "--columns", COLUMNS]
    status, out, err = said(argv, capsys)
    assert status == 1, err
    assert "leave out 3 rows: --apply writes the others" in out
    clean = tmp_path / "clean.jsonl"
    _, out, err = said([*argv, "--apply", clean], capsys)
    assert "clean.jsonl: 10 of 13 rows of" in " ".join(out.split()), err
    assert len(load_groups(clean)) == 10
    before = files_in(tmp_path)
    status, _, err = said([*argv, "--apply", clean], capsys)
    assert (status, "exists already" in err) == (2, True)
    assert files_in(tmp_path) == before


def test_columns_of_a_log_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(["doctor", tmp_path, "--columns", "a=prompt"], capsys)
    assert (status, "columns has an effect on data only" in err) == (2, True)
