"""Several runs on one page: what is claimed, what differs, which curves stand together."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from assent.errors import RunFolderError, UsageError
from assent.reporting.comparison import render_comparison, write_comparison
from assent.reporting.sources import read_source
from tests.support.cli import said
from tests.support.reporting import HOSTILE, PROMPTS, Page, write_pipeline, write_run


def _scored(folder: Path, scores: list[float]) -> None:
    """Each policy's score for each of six prompts; the evaluation says that there were so many."""
    path = folder / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    record["num_prompts"] = len(scores)
    for policy in record["policies"]:
        policy["sampled"]["scores"] = [[score] for score in scores]
    path.write_text(json.dumps(record))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    first = write_pipeline(tmp_path / "first", steps=3, trained=("sft", "ppo"))
    second = tmp_path / "second"
    shutil.copytree(first, second)
    _scored(first, [0.6, 0.7, 0.8, 0.9, 0.5, 0.7])
    _scored(second, [0.5, 0.5, 0.7, 0.7, 0.4, 0.5])
    return first, second


def _page(*folders: Path) -> str:
    return render_comparison([read_source(folder) for folder in folders])


def _heading(page: str) -> str:
    return re.search(r"<h1>(.*?)</h1>", page, flags=re.DOTALL)[1]


def test_the_difference_is_paired_by_prompt(pair) -> None:
    """Differences 0.1 0.2 0.1 0.2 0.1 0.2: mean 0.15, s = 0.0548, t(5; 0.975) = 2.5706, so 0.15 ± 0.0575."""
    heading = _heading(_page(*pair))
    assert heading == (
        "PPO of first scores 0.15 more than PPO of second (95% interval 0.09 to 0.21), at a KL of 4.6 and 4.6 nats."
    )
    assert _heading(_page(*reversed(pair))) == heading


def test_no_more_is_claimed_than_the_interval_shows(pair) -> None:
    _scored(pair[1], [0.9, 0.3, 0.9, 0.5, 0.9, 0.3])
    assert _heading(_page(*pair)).startswith(
        "There is no clear difference between PPO of first and PPO of second: 0.07"
    )


@pytest.mark.parametrize("change", ["scorer", "prompts", "decoding"])
def test_other_measurements_are_not_held_against_each_other(pair, change: str) -> None:
    path = pair[1] / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    if change == "scorer":
        record["scorer"] = "another:judge"
    elif change == "prompts":
        record["samples"][0]["prompt"] = "something else"
    else:
        record["decoding"]["max_new_tokens"] = 32
    path.write_text(json.dumps(record))
    page = _page(*pair)
    assert _heading(page) == "These 2 runs have no common measurement that says which is better."
    assert 'id="samples"' not in page


def test_another_seed_of_sampling_is_the_same_measurement(pair) -> None:
    path = pair[1] / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    record["decoding"]["seed"] = 7
    path.write_text(json.dumps(record))
    assert "scores 0.15 more" in _heading(_page(*pair))


def test_samples_of_the_two_stand_side_by_side(pair) -> None:
    path = pair[1] / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    record["samples"][2]["completions"]["ppo"] |= {"text": "the other one says so", "score": -3.0}
    path.write_text(json.dumps(record))
    text = Page(_page(*pair)).text
    gains = text.split("Largest gains")[1]
    assert PROMPTS[2] in gains
    assert "the other one says so" in gains


def test_options_that_differ_are_shown_and_the_same_are_counted(tmp_path: Path) -> None:
    for name, beta in (("a", 0.1), ("b", 0.3)):
        write_run(tmp_path / name, command="dpo", config={"model": "m", "beta": beta, "seed": 0}, steps=5, seed=0)
    page = _page(tmp_path / "a", tmp_path / "b")
    rows = re.search(r'id="differences".*?</section>', page, flags=re.DOTALL)[0]
    cells = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in re.findall(r"<tr.*?</tr>", rows, re.DOTALL)]
    assert cells[1:] == ["beta 0.1 0.3"]
    assert re.search(r"that differ; \d+ others are equal", rows)


def test_a_held_out_figure_is_that_of_the_model_that_the_run_kept(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, command="dpo", config={"model": "m"}, steps=5, seed=0, held_out=True)
    path = tmp_path / "a" / "run.json"
    record = json.loads(path.read_text())
    kept = {"": 0.5, "_low": 0.4, "_high": 0.6}  # of the start, which no later step was better than
    record["result"]["metrics"] |= {f"eval_rewards/accuracies{end}": value for end, value in kept.items()}
    path.write_text(json.dumps(record))
    row = re.search(r"<tr><td>Accuracy \(held out\)</td>(.*?)</tr>", _page(tmp_path / "a", tmp_path / "b"))[1]
    assert " ".join(re.sub(r"<[^>]+>", " ", row).split()) == "0.500 0.400 to 0.600 0.660 0.600 to 0.720"


def test_curves_of_both_share_a_picture(tmp_path: Path) -> None:
    for name, command in (("a", "dpo"), ("b", "dpo"), ("c", "ppo")):
        write_run(tmp_path / name, command=command, config={"model": "m"}, steps=50, seed=ord(name))
    page = Page(_page(*(tmp_path / name for name in "abc")))
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg"]
    assert any(re.match(r"training: Margin, training. a from .*; b from", label) for label in labels)
    assert not any("Length" in label for label in labels)  # one of them alone has logged it
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/dpo", "y/dpo"):
        (tmp_path / name).parent.mkdir()
        write_run(tmp_path / name, command="dpo", config={"model": "m"}, steps=3, seed=0)
    assert "x/dpo" in Page(_page(tmp_path / "x/dpo", tmp_path / "y/dpo")).text


def test_hostile_text_is_text(tmp_path: Path) -> None:
    first = write_pipeline(tmp_path / "<b>first", steps=2, hostile=True, trained=("sft",))
    second = tmp_path / "second"
    shutil.copytree(first, second)
    path = second / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    for policy in record["policies"]:
        policy["sampled"]["scores"] = [[-1.0]]
    for sample in record["samples"]:
        sample["completions"]["ppo"]["score"] -= 1
    path.write_text(json.dumps(record))
    page = _page(first, second)
    assert HOSTILE in Page(page).text
    assert "<script" not in page
    assert "<b>first" not in page


def test_what_cannot_be_compared_is_refused(pair, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        write_comparison([pair[0], pair[0] / "." / "ppo" / ".."], tmp_path / "page.html")
    with pytest.raises(UsageError, match="too many"):
        write_comparison([tmp_path / str(n) for n in range(7)], tmp_path / "page.html")
    with pytest.raises(RunFolderError, match="not the folder of a run"):
        write_comparison([pair[0], tmp_path], tmp_path / "page.html")
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(UsageError, match="is not a report"):
        write_comparison(pair, tmp_path / "notes.html")
    assert (tmp_path / "notes.html").read_text() == "mine"


def test_the_command_compares_what_it_is_given(pair, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(["report", *pair], capsys)
    assert (status, out.strip().splitlines()[-1]) == (0, "report: comparison.html"), err
    assert "PPO of first" in Path("comparison.html").read_text()
    status, out, err = said(["report", *pair, "--output", "both.html", "--json"], capsys)
    assert (status, json.loads(out)["report"]) == (0, "both.html"), err
    for given, message in (
        ([*pair, "--live"], "live follows one run"),
        ([pair[0], "--refresh-seconds", "3"], "refresh_seconds has no effect without live"),
        ([], "RUNS"),
    ):
        status, _, err = said(["report", *given], capsys)
        assert (status, message in err) == (2, True), err
