"""`assent label` from the command line: filled, labelled, exported, and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from assent.cli import main
from assent.commands.label_order import informativeness
from assent.feedback.store.database import open_database
from assent.feedback.store.people import ensure_annotator
from assent.feedback.store.reading import read_items
from assent.feedback.store.schema import completions, queue
from tests.support.cli import said
from tests.support.feedback import fill, label_all
from tests.support.models import tiny_model
from tests.support.rows import comparisons, prompts, read_rows, write_rows


def answers(folder: Path, count: int = 4) -> Path:
    rows = [
        {"prompt": [{"role": "user", "content": f"what is {n} plus {n}?"}],
         "completion": [{"role": "assistant", "content": f"it is {2 * n + k}."}]}
        for n in range(count) for k in range(2)
    ]  # fmt: skip
    return write_rows(folder / "answers.jsonl", rows)


def label_store(store: Path, *, names: tuple[str, ...] = ("mia",)) -> None:
    with open_database(str(store)) as database:
        for name in names:
            label_all(database, ensure_annotator(database, name).id)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_from_sampled_answers_to_a_reward_model_and_dpo(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts(tmp_path / "prompts.jsonl", 4)
    fill_it = ["label", "--prompts", "prompts.jsonl", "--model", model, "--max-new-tokens", "6", "--no-serve", "--json"]
    status, out, err = said(fill_it, capsys)
    assert status == 0, err
    assert json.loads(out)["reviews"] == 4, "the tiny model's context of 128 needs no option"
    with open_database("labels.db") as database, database.reading() as connection:
        rows = connection.execute(sa.select(completions)).all()
    assert len(rows) == 8
    for row in rows:
        assert (row.model, len(row.fingerprint), row.sampling["max_new_tokens"]) == (model, 64, 6)
        assert row.logprob < 0
    assert "0 items new" in said(fill_it[:-1], capsys)[1], "the same command adds nothing"
    label_store(tmp_path / "labels.db")
    assert said(["label", "--export", "labels.jsonl"], capsys)[0] == 0
    assert set(read_rows("labels.jsonl")[0]) == {"prompt", "chosen", "rejected", "annotator", "model"}
    small = ["--model", model, "--data", "labels.jsonl", "--max-steps", "1", "--max-length", "64"]
    for command in ("reward", "dpo"):
        status, _, err = said([command, *small, "--output-dir", command], capsys)
        assert status == 0, err


def test_several_models_are_told_apart(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tiny_model(tmp_path / "other", seed=1)
    prompts(tmp_path / "prompts.jsonl", 2)
    argv = ["label", "--prompts", "prompts.jsonl", "--num-completions", "1", "--max-new-tokens", "6", "--no-serve"]
    status, _, err = said([*argv, "--model", model, "--model", other], capsys)
    assert status == 0, err
    with open_database("labels.db") as database, database.reading() as connection:
        assert sorted(connection.scalars(sa.select(completions.c.model))) == sorted([model, other] * 2)
        wrote = {row.content[0]["content"]: row.model for row in connection.execute(sa.select(completions))}
    label_store(tmp_path / "labels.db")
    assert said(["label", "--export", "labels.jsonl"], capsys)[0] == 0
    for row in read_rows("labels.jsonl"):
        assert row["model"] == [wrote[row[name][0]["content"]] for name in ("chosen", "rejected")]
    status, _, err = said([*argv, "--model", model, "--model", model], capsys)
    assert (status, "named twice" in err) == (2, True)


def test_gold_guidelines_reviews_backup_restore_and_erasure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers(tmp_path)
    comparisons(tmp_path / "gold.jsonl", 2, first=50)
    Path("guidelines.md").write_text("Be kind.")
    argv = ["label", "--completions", "answers.jsonl", "--gold", "gold.jsonl", "--guidelines", "guidelines.md"]
    status, out, err = said([*argv, "--reviews", "2", "--no-serve"], capsys)
    assert status == 0, err
    assert "4 items new" in out
    assert "2 gold questions new" in out
    assert "0 of 8 reviews done" in out
    label_store(tmp_path / "labels.db", names=("mia", "ben"))
    status, out, _ = said(["label", "--export", "out.jsonl", "--json"], capsys)
    assert (status, json.loads(out)["rows"]) == (0, 8)
    assert said(["label", "--backup", "b.jsonl.gz"], capsys)[0] == 0
    assert said(["label", "--restore", "b.jsonl.gz", "--store", "copy.db"], capsys)[0] == 0
    assert said(["label", "--erase", "mia", "--store", "copy.db"], capsys)[0] == 0
    assert said(["label", "--export", "copy.jsonl", "--store", "copy.db"], capsys)[0] == 0
    assert {row["annotator"] for row in read_rows("copy.jsonl")} == {"ben", "annotator 1"}
    status, out, _ = said(["label", "--invite", "kim", "--public-url", "https://label.example.org"], capsys)
    assert (status, out.startswith("https://label.example.org/invitation/")) == (0, True)
    assert said(["label", "--export", "t.json", "--format", "argilla"], capsys)[0] == 0
    assert said(["label", "--import-labels", "t.json", "--format", "argilla", "--store", "n.db"], capsys)[0] == 0


def test_the_store_is_ordered_by_what_a_reward_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_scores.py").write_text(
        "def score(prompts, completions, **_):\n    return [float(len(text)) ** 2 for text in completions]\n"
    )
    rows = [
        {"prompt": f"{n}", "completion": "x" * length}
        for n, pair in enumerate([(1, 9), (1, 2), (1, 4)])
        for length in pair
    ]
    write_rows(tmp_path / "answers.jsonl", rows)
    argv = ["label", "--completions", "answers.jsonl", "--order", "margin", "--reward", "my_scores:score", "--no-serve"]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    with open_database("labels.db") as database, database.reading() as connection:
        order = connection.scalars(sa.select(queue.c.item_id).order_by(queue.c.position)).all()
        found = read_items(connection, list(order))
    assert [found[number].prompt for number in order] == ["1", "2", "0"]


def test_disagreement_of_an_ensemble_comes_first(tmp_path: Path) -> None:
    import numpy as np

    with open_database(str(tmp_path / "labels.db")) as database:
        fill(database, 2)
        with database.reading() as connection:
            items = list(read_items(connection, [1, 2]).values())
    scores = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # heads agree on the first, not on the second
    assert informativeness(items, scores).tolist() == [0.0, 1.0]
    assert informativeness(items, scores[:, :1]).tolist() == [-1.0, -1.0]


def test_an_ensemble_is_needed_for_disagreement(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers(tmp_path)
    comparisons(tmp_path / "pairs.jsonl")
    train = ["reward", "--model", model, "--data", "pairs.jsonl", "--max-steps", "1", "--max-length", "64"]
    assert main([*train, "--output-dir", "one"]) == 0
    assert main([*train, "--output-dir", "three", "--num-heads", "3"]) == 0
    argv = ["label", "--completions", "answers.jsonl", "--no-serve", "--order", "disagreement", "--reward"]
    status, _, err = said([*argv, "one/model"], capsys)
    assert (status, "needs an ensemble" in err) == (2, True)
    status, out, err = said([*argv, "three/model"], capsys)
    assert status == 0, err
    assert "4 items in the order of disagreement" in out


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--export", "a.jsonl", "--backup", "b"], ["one thing at a time"]),
        (["--export", "a.jsonl", "--port", "1"], ["port has no effect with export"]),
        (["--layout", "comparisons"], ["layout has no effect while labels are collected"]),
        (["--format", "argilla", "--export", "a", "--layout", "thumbs"], ["layout has no effect with format argilla"]),
        (["--prompts", "p.jsonl"], ["prompts and model need each other"]),
        (["--completions", "a", "--prompts", "p", "--model", "m"], ["given or sampled"]),
        (["--completions", "a", "--temperature", "2"], ["temperature has no effect"]),
        (["--task", "rank"], ["task has no effect"]),
        (["--seed", "1"], ["seed has no effect on what is in the store already"]),
        (["--gold", "gold.jsonl", "--seed", "1"], ["seed has no effect"]),
        (
            ["--completions", "a", "--order", "margin", "--reward", "r", "--seed", "1"],
            ["seed has no effect with order margin", "pairs_per_prompt"],
        ),
        (["--completions", "a", "--task", "rank", "--pairs-per-prompt", "2"], ["pairs_per_prompt has no effect"]),
        (["--host", "0.0.0.0"], ["needs its public address"]),
        (["--trusted-proxy", "127.0.0.1"], ["no effect without public_url"]),
        (["--public-url", "https://a.org", "--annotator", "me"], ["annotator has no effect"]),
        (["--no-serve", "--port", "1"], ["port has no effect with no-serve"]),
        (["--order", "margin"], ["order and reward need each other"]),
        (["--store", "none.db"], ["no store none.db"]),
        (["--export", "a.jsonl", "--store", "none.db"], ["no store none.db"]),
        (["--completions", "none.jsonl"], ["none.jsonl"]),
        (["--restore", "none.gz"], ["no backup none.gz"]),
        (["--invite", "<x>"], ["annotator's name"]),
        (["--completions", "answers.jsonl", "--guidelines", "none.md"], ["no guidelines none.md"]),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    argv: list[str],
    parts: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    answers(tmp_path)
    status, out, err = said(["label", *argv], capsys)
    assert (status, out) == (2, ""), err
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"], "nothing is written"


def test_rows_refused_at_loading_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    write_rows(tmp_path / "pairs.jsonl", [row, {**row, "rejected": "a"}])
    for options in (["--import-labels", "pairs.jsonl"], ["--completions", "pairs.jsonl", "--no-serve"]):
        status, out, err = said(["label", *options], capsys)
        assert status == 0, err
        assert "refused at loading, 1: " in out
        assert "(pairs.jsonl:2)" in out


def test_a_row_may_hold_several_completions_that_nobody_has_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "many.jsonl", [{"prompt": f"{n}?", "completions": ["a", "b", "c"]} for n in range(2)])
    argv = ["label", "--completions", "many.jsonl", "--no-serve", "--task"]
    assert "6 completions of 2 prompts: 6 items" in said([*argv, "compare"], capsys)[1]
    assert "2 items new in the store" in said([*argv, "rank"], capsys)[1]


def test_an_empty_store_has_nothing_to_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers(tmp_path)
    assert said(["label", "--completions", "answers.jsonl", "--no-serve"], capsys)[0] == 0
    status, _, err = said(["label", "--export", "out.jsonl"], capsys)
    assert (status, "no label to export" in err) == (2, True)
    assert not Path("out.jsonl").exists()
    assert Path("labels.db").exists(), "what was there before stays"
    for file in ("none/out.jsonl", "none/out.csv"):
        status, _, err = said(["label", "--export", file], capsys)
        assert (status, "there is no folder none for the export" in err) == (2, True)
