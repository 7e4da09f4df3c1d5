"""Rubbish in a log: no rule fails, and no finding names what the log does not hold.

Values that no trainer writes, steps out of order, lines cut in half, options of the wrong kind, names nobody knows.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import assent
from assent.diagnosis.case import Case, make_case
from assent.diagnosis.doctor_text import lines_of
from assent.diagnosis.examine import Report, examine
from assent.diagnosis.fix import changes
from assent.diagnosis.rule import Rule
from assent.diagnosis.rules import all_rules
from assent.errors import AssentError
from assent.runs.files import from_json, to_json
from tests.support.diagnosis import dpo_rows, write_run

RULES = all_rules()
NAMES = sorted({name for rule in RULES for name in rule.names})
ODD = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 1e-320, -1e-320, 1e59, -1e59, 1.0, -1.0, 0.5, 1e-9)
OF_THE_FILE = ("unfinished", "two_writers")
"""Rules whose evidence is the log itself: its time, the order of its steps."""
OPTIONS: Mapping[str, Sequence[Any]] = {
    "beta": (0.0, -0.1, 0.1, 1e308, 1e-308, "0.1", None, [0.1], True),
    "loss_type": ("sigmoid", "ipo", "simpo", "hinge", "no such loss", ["sigmoid"], ["sigmoid", "sft"], 3, None),
    "label_smoothing": (0.0, 0.1, 0.5, 1.0, -1.0, "x", None),
    "hyperparameters": ({}, {"label_smoothing": 2.0}, {"tau": "x"}),
    "learning_rate": (0.0, -1.0, 1e-5, 1e308, "1e-5", None),
    "kl_coef": (0.0, -0.1, 0.05, 1e308, "x", None),
    "num_train_epochs": (0.0, 1.0, 1e9, "three", None),
    "warmup_ratio": (0.0, 1.0, 2.0, -1.0, "x", None),
    "warmup_steps": (0, 5, 10**12, "x", None),
    "max_new_tokens": (0, 8, -3, "x", None),
    "target_kl": (0.0, 0.1, -1.0, "x", None),
    "reference": ("none", "m", None, 3),
    "losses": (None, [], [{"name": "sigmoid"}], "x"),
    "lr_scheduler_type": ("linear", "no such schedule", None, 3),
}
"""Options that rules read, as they should be and as they should not."""


def column(rng: random.Random) -> tuple[list[int], list[float]]:
    """Steps and values, of one kind or of several: noise around a curve, constants, odd values, jumps."""
    count = rng.choice((0, 1, 2, 3, 5, 8, 13, 24, 60))
    steps = sorted(rng.sample(range(1, 4 * count + 2), count)) if count else []
    if rng.random() < 0.2:
        rng.shuffle(steps)
    if rng.random() < 0.2:
        steps = [rng.choice(steps) for _ in steps]
    scale = rng.choice((0.0, 1e-12, 1e-3, 1.0, 50.0, 1e20, 1e300))
    level, slope = rng.choice((0.0, 1.0, -1.0, 0.6931, 1e6)), rng.choice((0.0, 0.1, -0.1, 5.0))
    values = [level + slope * i + scale * rng.gauss(0, 1) for i in range(count)]
    odd = rng.choice((0.0, 0.0, 0.1, 0.5, 1.0))
    return steps, [rng.choice(ODD) if rng.random() < odd else value for value in values]


def rubbish(rng: random.Random, names: Iterable[str], stages: Iterable[str]) -> Case:
    logged = {name: column(rng) for name in names if rng.random() < 0.9}
    logged["nobody/knows"] = column(rng)
    if rng.random() < 0.5:  # all at the same steps, as a trainer writes them
        steps, _ = column(rng)
        logged = {name: (steps, (values + [0.25] * len(steps))[: len(steps)]) for name, (_, values) in logged.items()}
    config = {name: rng.choice(values) for name, values in OPTIONS.items() if rng.random() < 0.5}
    return make_case(
        logged,
        config=config,
        stage=rng.choice(sorted(stages)),
        status=rng.choice(("finished", "running", "stopped", None)),
        planned_steps=rng.choice((None, 0, -4, 10, 10**9)),
        silent_seconds=rng.choice((None, 0.0, 1e9)),
        is_alive=rng.choice((None, True, False)),
    )


def check_report(report: Report) -> None:
    """No rule has failed; evidence was logged; document and text can be made."""
    assert [reason for _, reason in report.not_checked if reason.startswith("the rule failed")] == []
    case = report.case
    for finding in report.findings:
        for fact in finding.evidence:
            assert fact.metric in {*case.series, *case.not_finite} or finding.rule in OF_THE_FILE, finding
            logged = [*case.not_finite.get(fact.metric, ())]
            logged += case.series[fact.metric].steps if fact.metric in case.series else ()
            if fact.steps is not None and logged:
                assert min(logged) <= fact.steps[0] <= fact.steps[1] <= max(logged), finding
    assert from_json(to_json(report.as_dict()))["verdict"] == report.verdict
    assert lines_of(report, name="rubbish", accepted={})
    changes(case.config, report.findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_rule_fails_on_what_it_reads(rule: Rule) -> None:
    rng = random.Random(f"rubbish/{rule.name}")
    for _ in range(150):
        names = {*rule.names, "loss", "rewards/margins", *rng.sample(NAMES, 3)}
        check_report(examine(rubbish(rng, sorted(names), rule.stages), [rule]))


def test_no_rule_fails_among_the_others() -> None:
    rng = random.Random("rubbish")
    for _ in range(60):
        check_report(examine(rubbish(rng, NAMES, {stage for rule in RULES for stage in rule.stages})))


def broken(text: str, rng: random.Random) -> bytes:
    """The text with lines cut, exchanged, doubled, mixed, and with bytes changed."""
    lines = text.encode().split(b"\n")
    for _ in range(rng.randint(1, 6)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
            case 1:
                lines[at], lines[other] = lines[other], lines[at]
            case 2:
                lines.insert(at, lines[other])
            case 3:
                lines[at] = lines[at][: len(lines[at]) // 2] + lines[other]
            case 4:
                lines[at] = bytes(rng.randrange(256) for _ in range(20))
            case 5:
                value = rng.choice((b"NaN", b"-Infinity", b"1e999", b'"x"', b"null", b"[1]", b"{}", b"9" * 400))
                lines[at] = lines[at].replace(b"0.", value, 2)
            case _:
                lines = lines[: max(1, at)]
    return b"\n".join(lines)


def test_a_broken_log_of_ours_is_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random("broken")
    run = write_run(tmp_path / "run", dpo_rows([0.02 * i for i in range(40)]), loss_type="sigmoid", beta=0.1)
    whole = (run / "metrics.jsonl").read_text()
    for _ in range(80):
        (run / "metrics.jsonl").write_bytes(broken(whole, rng))
        check_document(run)


FOREIGN = Path(__file__).parents[1] / "support" / "foreign"


def trainer_state() -> str:
    rows = [{"step": i, "loss": 0.69 - 0.01 * i, "rewards/margins": 0.05 * i, "epoch": i / 30} for i in range(1, 31)]
    return json.dumps({"global_step": 30, "max_steps": 30, "log_history": rows}, indent=1)


@pytest.mark.parametrize("name", ["trainer_state.json", "log.jsonl", "train.log", "export.csv", "README.md"])
def test_a_broken_log_of_another_trainer_is_read_or_refused(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    rows = [{"step": i, "loss": 0.69 - 0.01 * i, "rewards/margins": 0.05 * i, "kl": 0.1 * i} for i in range(1, 31)]
    whole = {
        "trainer_state.json": trainer_state(),
        "log.jsonl": "\n".join(map(json.dumps, rows)),
        "train.log": "\n".join(str(row) for row in rows),
        "export.csv": "step,loss,kl\n" + "\n".join(f"{row['step']},{row['loss']},{row['kl']}" for row in rows),
        "README.md": "| Step | Training Loss | Validation Loss |\n|---|---|---|\n"
        + "\n".join(f"| {row['step']} | {row['loss']} | 0.{i} |" for i, row in enumerate(rows)),
    }[name]
    log = tmp_path / name
    for _ in range(40):
        log.write_bytes(broken(whole, rng))
        check_document(log)


def check_document(target: Path) -> None:
    try:
        document = assent.doctor(target)
    except AssentError:  # it says what is wrong with the file; any other error is ours
        return
    (report,) = document["reports"]
    assert [one for one in report["not_checked"] if one["reason"].startswith("the rule failed")] == []
    for finding in report["findings"]:
        for fact in finding["evidence"]:
            assert fact["metric"] in report["metrics"] or finding["rule"] in ("not_finite", *OF_THE_FILE)
