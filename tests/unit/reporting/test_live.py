"""A live view: the page is written again while the run goes on, and the last one stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assent.reporting.live import follow
from assent.runs.files import append_line
from tests.support.reporting import write_pipeline, write_run

REFRESH = '<meta http-equiv="refresh" content="3">'


def _finish(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    result = {"output_dir": str(run), "model_path": str(run / "model"), "steps": 9, "metrics": {}}
    (run / "run.json").write_text(json.dumps(record | {"status": "finished", "result": result}))


def test_the_page_follows_the_run_to_its_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, command="dpo", config={"model": "m"}, steps=7, seed=0, finish=False)
    pages = []

    def training_goes_on(seconds: float) -> None:
        assert seconds == 3
        pages.append((run / "report.html").read_text())
        if len(pages) == 1:
            append_line(run / "metrics.jsonl", {"step": 8, "loss": 0.5})
        else:
            _finish(run)

    path = follow(run, seconds=3, wait=training_goes_on)
    assert [REFRESH in page for page in pages] == [True, True]
    assert ["is at step 7" in pages[0], "is at step 8" in pages[1]] == [True, True]
    last = path.read_text()
    assert 'http-equiv="refresh"' not in last
    assert "is at step" not in last


def test_a_run_that_a_finding_stopped_is_followed_no_longer_and_its_page_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, command="dpo", config={"model": "m"}, steps=7, seed=0, finish=False)
    record = json.loads((run / "run.json").read_text())
    stopped = {"step": 7, "at": "2026-11-29T12:00:00+00:00", "finding": {"rule": "empty_answers"}}
    (run / "run.json").write_text(json.dumps(record | {"status": "stopped", "stopped": stopped}))
    page = follow(run, wait=lambda _: pytest.fail("nothing more will be written")).read_text()
    assert "a finding stopped run after step 7" in page


def test_ctrl_c_leaves_a_page_that_does_not_reload(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, command="dpo", config={"model": "m"}, steps=7, seed=0, finish=False)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    path = follow(run, tmp_path / "elsewhere.html", wait=interrupt)
    assert path == tmp_path / "elsewhere.html"
    assert 'http-equiv="refresh"' not in path.read_text()
    assert "is at step 7" in path.read_text()


@pytest.mark.parametrize("finished", [True, False])
def test_a_pipeline_between_two_stages_is_not_over(tmp_path: Path, finished: bool) -> None:
    folder = write_pipeline(tmp_path / "demo", steps=2, trained=("sft",))
    record = json.loads((folder / "pipeline.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps(record | {"finished": finished}))
    waits = []

    def wait(_: float) -> None:
        waits.append(1)
        raise KeyboardInterrupt

    follow(folder, wait=wait)
    assert waits == ([] if finished else [1])


def test_progress_is_drawn_where_the_run_says_how_far_it_goes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, command="dpo", config={"model": "m"}, steps=7, seed=0, finish=False)
    record = json.loads((run / "run.json").read_text())
    record["facts"]["planned_steps"] = 28
    (run / "run.json").write_text(json.dumps(record))
    page = follow(run, wait=lambda _: (_ for _ in ()).throw(KeyboardInterrupt)).read_text()
    assert "run: step 7 of 28, last written" in page
    assert "width:25.0%" in page
