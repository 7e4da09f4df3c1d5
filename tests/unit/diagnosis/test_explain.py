"""`explain` with numbers: the formulas, by hand and at the ends of the floats; files whole or refused; no torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.diagnosis.explain import log_sigmoid, sigmoid
from assent.errors import ConfigError, DataError
from tests.support.cli import said
from tests.support.rows import write_rows

COLUMNS = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


def logged(*rows: tuple[float, float, float, float]) -> list[dict[str, float]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def test_four_sums_by_hand() -> None:
    found = assent.explain(logps=[-42, -37.5, -44, -36], beta=0.1)
    assert found["log_ratio_chosen"] == 2.0
    assert found["log_ratio_rejected"] == -1.5
    assert found["reward_chosen"] == pytest.approx(0.2, abs=1e-15)
    assert found["reward_rejected"] == pytest.approx(-0.15, abs=1e-15)
    assert found["margin"] == pytest.approx(0.35, abs=1e-15)
    p = 1 / (1 + math.exp(-0.35))
    assert found["preference_probability"] == pytest.approx(p, abs=1e-15)
    assert found["loss"] == pytest.approx(-math.log(p), abs=1e-15)
    assert found["gradient_weight"] == pytest.approx(0.1 * (1 - p), abs=1e-15)
    assert found["prefers"] == "chosen"


@pytest.mark.parametrize(("unit", "probability"), [("log_ratio", 1 / (1 + math.exp(1.2))), ("ratio", 1 / 17)])
def test_the_unit_of_ratios(unit: str, probability: float) -> None:
    found = assent.explain(ratios=[0.2, 0.8], unit=unit, beta=2)
    assert found["preference_probability"] == pytest.approx(probability, abs=1e-15)
    assert round(probability, 4) == {"log_ratio": 0.2315, "ratio": 0.0588}[unit]
    assert found["prefers"] == "rejected"


@pytest.mark.parametrize(("scores", "loss"), [((3.2, 1.5), 0.16779), ((-0.5, -2.0), 0.20141)])
def test_scores_give_the_loss_and_the_weight_of_its_gradient(scores: tuple[float, float], loss: float) -> None:
    found = assent.explain(scores=list(scores))
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert found["gradient_weight"] == pytest.approx(1 - math.exp(-loss), abs=1e-5)
    assert "beta" not in found
    assert "betas" not in found


def test_the_gradient_weight_is_the_slope_of_the_loss() -> None:
    """Central differences of the loss in the chosen's log-probability."""
    for beta in (0.05, 0.7):
        sides = [assent.explain(logps=[-20 + h, -18, -21, -18.5], beta=beta)["loss"] for h in (-1e-5, 1e-5)]
        weight = assent.explain(logps=[-20, -18, -21, -18.5], beta=beta)["gradient_weight"]
        assert (sides[1] - sides[0]) / 2e-5 == pytest.approx(-weight, rel=1e-8)


def test_a_range_of_betas_with_the_one_asked_for() -> None:
    found = assent.explain(ratios=[1.0, -1.0], unit="log_ratio", beta=0.7)
    assert [row["beta"] for row in found["betas"]] == [0.01, 0.03, 0.1, 0.3, 0.7, 1.0, 3.0]
    for row in found["betas"]:
        assert row["margin"] == pytest.approx(2 * row["beta"], abs=1e-15)
        assert row["loss"] == pytest.approx(math.log1p(math.exp(-2 * row["beta"])), abs=1e-14)
    own = next(row for row in found["betas"] if row["beta"] == 0.7)
    assert own == {name: found[name] for name in own}


@pytest.mark.parametrize("x", [0.0, 1e-300, -1e-9, 0.7, -3.0, 30.0, -30.0, 700.0, -700.0, 745.0, -1e5])
def test_sigmoid_and_its_logarithm_are_exact(x: float) -> None:
    getcontext().prec = 400
    exact = 1 / (1 + (-Decimal(x)).exp())
    assert log_sigmoid(x) == pytest.approx(float(exact.ln()), rel=1e-15, abs=5e-324)
    assert sigmoid(x) == pytest.approx(float(exact), rel=1e-15, abs=5e-324)


@pytest.mark.parametrize("size", [1e3, 1e8, 1e300])
def test_huge_margins_stay_finite(size: float) -> None:
    right = assent.explain(ratios=[size, -size], unit="log_ratio", beta=0.1)
    wrong = assent.explain(ratios=[-size, size], unit="log_ratio", beta=0.1)
    assert (right["loss"], right["gradient_weight"]) == pytest.approx((0, 0), abs=1e-80)
    assert wrong["loss"] == pytest.approx(0.2 * size, rel=1e-15)
    assert wrong["gradient_weight"] == 0.1
    assert wrong["preference_probability"] == pytest.approx(0, abs=1e-80)


def test_rewards_beyond_the_floats_are_refused() -> None:
    with pytest.raises(DataError, match="exceed the range of numbers"):
        assent.explain(ratios=[1.7e308, -1.7e308], unit="log_ratio", beta=0.1)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "explain takes one input"),
        ({"logps": [-1, -2, -1, -2], "scores": [1, 2]}, "logps and scores"),
        ({"ratios": [0.2, 0.8]}, "ratios need their unit"),
        ({"ratios": [-0.2, 0.8], "unit": "ratio"}, "above 0"),
        ({"ratios": [0.2], "unit": "ratio"}, "two finite numbers"),
        ({"ratios": [0.2, 0.8], "unit": "nats"}, "log_ratio"),
        ({"scores": [0.2, math.inf]}, "two finite numbers"),
        ({"scores": [0.2, 0.8], "beta": 0.1}, "beta has no effect with scores"),
        ({"scores": [0.2, 0.8], "unit": "ratio"}, "unit has no effect with scores"),
        ({"logps": [-1, -2, -1, -2], "max_length": 3}, "max_length has no effect with logps"),
        ({"logps": [-1, -2, -1, -2], "data": "x"}, "data has no effect with logps"),
        ({"logps": [-1, -2, -1, -2], "beta": 0}, "beta is not right"),
        ({"logps": [-1, -2, -1]}, "four numbers"),
        ({"logps": [-1, -2, math.nan, -1]}, "four numbers"),
        ({"model": "m"}, "model needs a reference"),
        ({"model": "m", "reference": "r"}, "one comparison"),
        ({"model": "m", "reference": "r", "data": "d"}, "one comparison"),
        ({"model": "m", "reference": "r", "prompt": "p", "chosen": "c"}, "one comparison"),
        ({"model": "m", "reference": "r", "prompt": "p", "chosen": "c", "rejected": "d", "row": 1}, "one comparison"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_do_not_fit(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        assent.explain(**options)


def test_a_positive_log_probability_is_refused_and_scores_named() -> None:
    with pytest.raises(DataError, match="ref_chosen_logps is not a log-probability") as caught:
        assent.explain(logps=[-1, -2, 3, -4])
    assert "--scores" in str(caught.value)
    assert assent.explain(logps=[-1, -2, 1e-6, -4])["log_ratio_chosen"] == -1 - 1e-6  # rounding of a sum


def test_a_file_gives_its_rows_and_a_summary(tmp_path: Path) -> None:
    rows = logged((-10, -12, -11, -12), (-10, -12, -10, -12), (-10, -12, -8, -12), (-10, -20, -12, -18))
    found = assent.explain(logps=write_rows(tmp_path / "l.jsonl", ({**row, "id": 7} for row in rows)), beta=0.5)
    margins = [
        0.5 * (r["chosen_logps"] - r["ref_chosen_logps"] - r["rejected_logps"] + r["ref_rejected_logps"]) for r in rows
    ]
    assert [row["margin"] for row in found["rows"]] == pytest.approx(margins) == [0.5, 0, -1, 2]
    assert [row["prefers"] for row in found["rows"]] == ["chosen", "neither", "rejected", "chosen"]
    assert (found["num_rows"], found["preferred"], found["ties"], found["share_preferred"]) == (4, 2, 1, 0.625)
    assert found["summary"]["margin"]["mean"] == pytest.approx(0.375)
    assert found["summary"]["margin"]["median"] == pytest.approx(0.25)
    assert (found["summary"]["margin"]["min"], found["summary"]["margin"]["max"]) == (-1, 2)
    assert found["columns_not_used"] == ["id"]
    assert [row["source"].rsplit(":")[-1] for row in found["lowest_margins"]] == ["3", "2", "1", "4"]
    asked = next(row for row in found["betas"] if row["beta"] == 0.5)
    assert asked["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 4)
    assert asked["loss"] == found["summary"]["loss"]["mean"]


def test_csv_and_json_give_the_same(tmp_path: Path) -> None:
    rows = logged((-10, -12, -11, -12), (-3.5, -12, -8, -12.25))
    jsonl = write_rows(tmp_path / "l.jsonl", rows)
    (tmp_path / "l.json").write_text(json.dumps(rows))
    lines = [",".join(COLUMNS), *(",".join(map(repr, row.values())) for row in rows)]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    first, *others = (
        assent.explain(logps=file)["summary"] for file in (jsonl, tmp_path / "l.json", tmp_path / "l.csv")
    )
    assert first == others[0] == others[1]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda row: row | {"chosen_logps": 2.5}, ["l.jsonl:2", "chosen_logps is not a log-probability", "2.5"]),
        (lambda row: row | {"chosen_logps": None}, ["l.jsonl:2", "missing chosen_logps"]),
        (lambda row: row | {"chosen_logps": "x"}, ["l.jsonl:2", "not a log-probability", "'x'"]),
        (lambda row: row | {"chosen_logps": True}, ["l.jsonl:2", "not a log-probability"]),
        (lambda row: row | {"chosen_logps": -(10**400)}, ["l.jsonl:2", "not a log-probability"]),
        (lambda row: [row], ["l.jsonl:2", "not a JSON object"]),
        (lambda row: {"ref": 1}, ["l.jsonl:2", "missing", "columns ref", "ref_chosen_logps"]),
    ],
)
def test_a_bad_row_is_named_and_none_is_dropped(
    spoil: Any, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = logged((-1, -2, -3, -4), (-1, -2, -3, -4))
    file = write_rows(tmp_path / "l.jsonl", [good, spoil(bad), good])
    status, out, err = said(["explain", "--logps", file], capsys)
    assert (status, out) == (2, "")
    for part in parts:
        assert part in err
    file = write_rows(tmp_path / "l.jsonl", [good, spoil(bad), spoil(bad)])
    assert "2 of 3 rows cannot be used; the first: " in said(["explain", "--logps", file], capsys)[2]


@pytest.mark.parametrize(
    ("name", "part"), [("l.parquet", "unknown file type"), ("l.txt", "unknown file type"), ("absent.jsonl", "no file")]
)
def test_a_file_that_cannot_be_read(name: str, part: str, tmp_path: Path) -> None:
    if name != "absent.jsonl":
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=part):
        assent.explain(logps=tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="it has no rows"):
        assent.explain(logps=tmp_path / "empty.jsonl")


@pytest.mark.parametrize(("chosen", "said_so"), [(-0.25, True), (0.25, False)])
def test_a_chosen_completion_that_became_less_likely_is_told(
    chosen: float, said_so: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = said(["explain", "--ratios", chosen, -3, "--unit", "log_ratio"], capsys)
    assert "The chosen is preferred" in out
    assert ("less likely than under the reference, by 0.2500 nats" in " ".join(out.split())) == said_so


INPUTS = {
    "logps": ["--logps", "-42.5", "-37.5", "-4e1", "-36", "--beta", "2.5"],
    "huge": ["--logps", "-1e300", "-1", "-1", "-1e300", "--beta", "1e-3"],
    "ratios": ["--ratios", "-0.2", "0.8", "--unit", "log_ratio"],
    "scores": ["--scores", "-3.2", "1.5"],
}


@pytest.mark.parametrize("argv", INPUTS.values(), ids=INPUTS)
def test_the_text_fits_80_columns_and_says_what_the_document_says(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said(["explain", *argv], capsys)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    status, document, _ = said(["explain", *argv, "--json"], capsys)
    found = json.loads(document)
    assert (status, found["command"]) == (0, "explain")
    for name in ("preference_probability", "gradient_weight"):
        label = name.replace("_", " ")
        line = next(line for line in out.splitlines() if line.startswith(label))
        assert float(line.removeprefix(label).split()[0]) == pytest.approx(found[name], rel=5e-3, abs=5e-5)


@pytest.mark.parametrize("count", [3, 40])
def test_the_text_of_a_file_fits_80_columns(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = logged(*((-1e4 - i, -2e5, -3.25e3, -4.0) for i in range(count)))
    file = write_rows(tmp_path / f"{'long' * 20}.jsonl", ({**row, "a long name of a column": 1} for row in rows))
    status, out, _ = said(["explain", "--logps", file], capsys)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"{count} rows, none left out" in out
    assert ("lowest margins" in out) == (count == 40)
    assert "…" in out  # the long path, cut at its start


def test_numbers_need_no_torch(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "l.jsonl", logged((-1, -2, -3, -4)))
    code = f"""
import sys, assent
from assent.cli import main
for argv in {[*INPUTS.values(), ["--logps", str(file)]]!r}:
    assert main(["explain", *argv]) == 0
assent.explain(scores=[1, 2])
assert main(["explain", "--ratios", "1", "2"]) == 2
sys.exit(3 if {{"torch", "transformers", "datasets", "peft"}} & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
