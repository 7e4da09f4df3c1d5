"""assent monitor: what it says, when it exits with 1, what it remembers, and what it never copies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from assent.cli import main
from assent.commands.monitor import _bound, monitor
from assent.config.loading import parse_options
from assent.config.monitor import MonitorConfig
from assent.diagnosis.drift.encoding import DAY_SECONDS
from assent.diagnosis.drift.formats import UNPAIRED
from tests.support.cli import said
from tests.support.docs import ROOT
from tests.support.rows import write_rows
from tests.support.traffic import NEXT_DAY, logged, release


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with the release's logs and an empty folder for later ones."""
    write_rows(tmp_path / "release.jsonl", list(release()))
    (tmp_path / "logs").mkdir()
    return tmp_path


def look(folder: Path, *, day: int, **options: Any) -> tuple[dict[str, Any], str, int]:
    """The document, the text and the exit status on the day after `day`."""
    given = {"baseline": str(folder / "release.jsonl"), "logs": str(folder / "logs"), **options}
    document, lines, status = monitor(parse_options(MonitorConfig, given), now=(day + 1.2) * DAY_SECONDS)
    return json.loads(json.dumps(document)), "\n".join(lines), status


def test_a_finding_an_alert_that_is_not_repeated_and_a_page(logs: Path) -> None:
    state, page, metrics = (str(logs / name) for name in ("state.npz", "page.html", "monitor.prom"))
    options = {"state": state, "output": page, "openmetrics": metrics}
    rows = logged("behaviour", days=5)
    write_rows(logs / "logs" / "app.jsonl", list(rows[:300]))
    first, text, status = look(logs, day=NEXT_DAY + 1, **options)
    assert (status, first["moved"], first["new"]) == (1, True, ["behaviour_moved"])
    assert "new alert: behaviour_moved" in text
    assert max(map(len, text.splitlines())) <= 80
    write_rows(logs / "logs" / "app2.jsonl", list(rows[300:]))
    second, text, status = look(logs, day=NEXT_DAY + 4, **options)
    assert (status, second["new"], [alert["rule"] for alert in second["open"]]) == (0, [], ["behaviour_moved"])
    assert second["rows"]["used"] == 450  # the first file was not read again
    assert "open: behaviour_moved" in text
    third, _, status = look(logs, day=NEXT_DAY + 4, **options, fail_on="open")
    assert (status, third["moved"], third["rows"]["used"]) == (1, None, 0)
    assert 'assent_monitor_alert{rule="behaviour_moved"} 1' in Path(metrics).read_text()
    assert Path(metrics).read_text().endswith("# EOF\n")
    assert "behaviour moved" in Path(page).read_text()


def test_no_word_of_a_log_is_shown_unless_asked_for(logs: Path) -> None:
    """A word that only the users of this log write stands nowhere, and --show-text names it."""
    secret = "zanzibar"
    rows = [{**row, "prompt": f"{secret} {row['prompt']}"} for row in logged(days=2)]
    base = [{**row, "prompt": f"{secret} {row['prompt']}" if i % 3 == 0 else row["prompt"]}
            for i, row in enumerate(release())]  # fmt: skip
    write_rows(logs / "release.jsonl", base)
    write_rows(logs / "logs" / "app.jsonl", rows)
    page, metrics = str(logs / "page.html"), str(logs / "monitor.prom")
    document, text, status = look(logs, day=NEXT_DAY + 1, output=page, openmetrics=metrics)
    assert (status, document["causes"]) == (1, ["prompts_moved"])
    written = "".join([json.dumps(document), text, Path(page).read_text(), Path(metrics).read_text()])
    names = set(re.findall(r"[A-Za-z]{4,}", " ".join(row["prompt"].partition("owner ")[2][:6] for row in rows)))
    assert secret not in written
    assert not any(re.search(rf"\b{name}\b", text) for name in names)
    shown, text, _ = look(logs, day=NEXT_DAY + 1, output=page, show_text=True)
    assert secret in json.dumps(shown)
    assert secret in text
    assert secret in Path(page).read_text()


def test_from_the_command_line(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(logs / "logs" / "app.jsonl", list(logged("serving", days=2)))
    command = ["monitor", "--baseline", logs / "release.jsonl", "--logs", logs / "logs"]
    status, out, _ = said([*command, "--json"], capsys)
    document = json.loads(out)
    assert (status, document["command"], document["causes"]) == (1, "monitor", ["serving_differs"])
    assert {one["name"] for one in document["signals"]} >= {"serving/logprob", "prompt/words", "rating/level"}
    for one in document["signals"]:
        assert one["smallest_difference"] > 0
    status, out, _ = said(command, capsys)
    assert status == 1
    assert "moved: serving_differs" in out
    assert "update" not in out
    _, out, _ = said([*command, "--verbose"], capsys)
    assert "what an update can take from these logs: assent plan --update" in out
    assert "update" not in document


def test_a_state_belongs_to_its_baseline_and_options(logs: Path) -> None:
    write_rows(logs / "logs" / "app.jsonl", list(logged(days=1)))
    state = str(logs / "state.npz")
    assert look(logs, day=NEXT_DAY, state=state)[2] == 0
    with pytest.raises(ValueError, match="another alpha"):
        look(logs, day=NEXT_DAY, state=state, alpha=0.01)
    write_rows(logs / "release.jsonl", list(release())[:-1])
    with pytest.raises(ValueError, match="another baseline"):
        look(logs, day=NEXT_DAY, state=state)


def test_the_page_names_all_that_a_state_is_bound_to() -> None:
    bound = _bound(MonitorConfig(baseline=__file__, logs="b"))
    text = (ROOT / "docs/monitor.md").read_text()
    (said_of,) = re.findall(r"^- `--state` belongs to(.*?)refused", text, re.MULTILINE | re.DOTALL)
    named = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)`", said_of)}
    assert named == bound.keys() - {"baseline"}
    assert "one baseline" in said_of


def test_halves_of_the_baseline_are_counted(logs: Path) -> None:
    halves = [{"custom_id": str(number), "body": {"prompt": "x"}} for number in range(3)]
    write_rows(logs / "release.jsonl", [*release(), *halves])
    write_rows(logs / "logs" / "app.jsonl", list(logged(days=1)))
    document, _, _ = look(logs, day=NEXT_DAY)
    assert f"  of the baseline not used: {UNPAIRED}: 3" in document["notes"]


def test_each_request_that_waits_is_counted(logs: Path) -> None:
    halves = [{"custom_id": "1", "body": {"prompt": str(number)}} for number in range(3)]
    write_rows(logs / "logs" / "app.jsonl", [*logged(days=1), *halves])
    document, text, _ = look(logs, day=NEXT_DAY)
    assert document["rows"]["waiting"] == 3
    assert "  3 requests wait for their answer" in text


def test_batches_of_one_log_are_joined_at_its_end(logs: Path) -> None:
    """The requests of two batches, then their answers, one of which cannot be read."""
    asked = [{"custom_id": "1", "body": {"prompt": str(number)}} for number in range(2)]
    texts = ["y", 5]
    bodies = [{"choices": [{"text": text}], "created": NEXT_DAY * DAY_SECONDS} for text in texts]
    answers = [{"custom_id": "1", "response": {"body": body}} for body in bodies]
    write_rows(logs / "logs" / "app.jsonl", [*logged(days=1), *asked, *answers])
    document, _, _ = look(logs, day=NEXT_DAY)
    assert document["rows"]["used"] == 151
    assert document["rows"]["waiting"] == 0


def test_a_deep_text_inside_a_row_is_counted(logs: Path) -> None:
    deep = {"traceId": "t", "type": "GENERATION", "input": "[" * 100_000, "output": "y", "startTime": "2026-01-01"}
    write_rows(logs / "logs" / "app.jsonl", [*logged(days=1), {**deep, "input": "[" * 900 + "]" * 900}, deep])
    document, _, _ = look(logs, day=NEXT_DAY)
    assert document["rows"]["used"] == 150


def test_rows_that_cannot_be_used_are_counted(logs: Path) -> None:
    rows = [*logged(days=1), {"prompt": "x"}, {"prompt": "x", "completion": "y"}]
    write_rows(logs / "logs" / "app.jsonl", rows)
    (logs / "logs" / "noise.log").write_text("started\n")
    document, text, _ = look(logs, day=NEXT_DAY)
    assert document["rows"]["not_used"] == {
        "no completion": 1, "no time": 1, "a line that is neither JSON nor a request of vLLM's log": 1,
    }  # fmt: skip
    assert "1 not used: no completion" in text


def test_columns_name_the_fields_of_logs_and_baseline(logs: Path) -> None:
    def theirs(row: dict[str, Any]) -> dict[str, Any]:
        return {"q": row["prompt"], "a": {"text": row["completion"]}, "t": row["time"]}

    write_rows(logs / "release.jsonl", [theirs(row) for row in release()])
    write_rows(logs / "logs" / "app.jsonl", [theirs(row) for row in logged("behaviour", days=3)])
    document, _, _ = look(logs, day=NEXT_DAY + 2, columns="q=prompt,a.text=completion,t=time")
    assert document["causes"] == ["behaviour_moved"]
    with pytest.raises(ValueError, match="--columns"):
        look(logs, day=NEXT_DAY + 2)


def test_logs_without_times_are_one_day_a_call(logs: Path) -> None:
    state = str(logs / "state.npz")
    for place, what in enumerate((None, "behaviour")):
        rows = [{name: value for name, value in row.items() if name != "time"} for row in logged(what, days=2)]
        write_rows(logs / "logs" / f"{place}.jsonl", [{**row, "id": f"{place}-{row['id']}"} for row in rows])
        document, _, status = look(logs, day=NEXT_DAY, state=state, season="none")
        assert [day["day"] for day in document["days"]] == [f"call {place + 1}"]
    assert (status, document["causes"]) == (1, ["behaviour_moved"])


def test_a_baseline_may_be_a_runs_samples(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = logs / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    write_rows(logs / "logs" / "app.jsonl", list(logged(days=1)))
    command = ["monitor", "--baseline", run, "--logs", logs / "logs"]
    assert main([str(word) for word in command]) == 2
    assert "a run without samples.jsonl" in capsys.readouterr().err
    write_rows(run / "samples.jsonl", list(release()))
    assert main([str(word) for word in command]) == 0


def test_bad_input_is_said(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(["monitor", "--baseline", logs / "release.jsonl", "--logs", logs / "nowhere"], capsys)
    assert (status, "does not exist" in err) == (2, True)
    (logs / "logs" / "app.jsonl").write_text("{}\n")
    status, _, err = said(["monitor", "--baseline", logs / "release.jsonl", "--logs", logs / "logs"], capsys)
    assert (status, "no prompt: 1" in err) == (2, True)
    with pytest.raises(ValueError, match="give a file for it"):
        MonitorConfig(baseline="a", logs="b", watch=True)
    with pytest.raises(ValueError, match="refresh_seconds has no effect"):
        MonitorConfig(baseline="a", logs="b", refresh_seconds=3)
