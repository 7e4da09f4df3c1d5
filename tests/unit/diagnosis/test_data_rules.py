"""Rules of data: each fires on its own rows and stays quiet on healthy ones; what they estimate is right."""

from __future__ import annotations

import importlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from assent.data.loading import load_groups
from assent.diagnosis.case import Case
from assent.diagnosis.data_rules import data_rules, length_tells
from assent.diagnosis.data_rules.duplicate_rows import near_duplicates
from assent.diagnosis.data_rules.html_entities import has_entity
from assent.diagnosis.data_rules.label_noise import flip_rate
from assent.diagnosis.data_rules.length_bias import effect
from assent.diagnosis.data_rules.length_tells import length_baseline
from assent.diagnosis.data_rules.near_twins import is_twin
from assent.diagnosis.data_rules.refusing_answers import is_refusal
from assent.diagnosis.data_rules.truncated_answers import is_cut
from assent.diagnosis.examine import examine
from assent.diagnosis.rows import Rows, data_of, rows_example, sample_pair, sample_pairs
from assent.diagnosis.rule import EVERY, Rule
from tests.support.cli import said
from tests.support.rows import write_rows

RULES = data_rules()
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def module_of(rule: Rule) -> ModuleType:
    return importlib.import_module(f"assent.diagnosis.data_rules.{rule.name}")


def found_in(case: Case) -> list[str]:
    return [finding.rule for finding in examine(case, RULES).findings]


@every_rule
def test_it_fires_and_stays_quiet(rule: Rule) -> None:
    module = module_of(rule)
    found = rule.ask(module.FIRES)
    assert found is not None
    assert found.rule == rule.name
    assert rule.ask(module.QUIET) is None
    for text in (found.verdict, found.cause, found.next_action):
        assert text
        assert not text.endswith(".")


@every_rule
def test_it_is_declared_in_full(rule: Rule) -> None:
    assert rule.looks_at == "data"
    assert rule.stages == EVERY
    assert rule.title
    assert rule.causes
    assert rule.source
    assert module_of(rule).__doc__


def test_healthy_rows_have_no_finding_and_a_run_is_not_asked_about_data() -> None:
    report = examine(rows_example(sample_pairs(200)), RULES)
    assert (report.findings, report.verdict) == ((), "healthy")
    assert {"label_noise", "prompt_leak", "first_is_best", "truncated_answers"} == {r for r, _ in report.not_checked}
    assert examine(rows_example(sample_pairs(4)), RULES).verdict == "cannot be judged yet"
    log = examine(Case(), RULES)
    assert not log.checked
    assert not log.not_checked


def judged_twice(noise: float, count: int) -> Rows:
    """Every pair labelled by two people, each of whom is wrong with this probability."""
    rng = random.Random(0)
    rows = []
    for row in sample_pairs(count):
        for who in ("ann", "bob"):
            swapped = rng.random() < noise
            rows.append({**row, "annotator": who, "chosen": row["rejected" if swapped else "chosen"],
                         "rejected": row["chosen" if swapped else "rejected"]})  # fmt: skip
    return data_of(rows_example(rows))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_the_share_of_wrong_labels_is_estimated_from_repeats(noise: float) -> None:
    found, repeated = flip_rate(judged_twice(noise, 1500))
    assert repeated == 1500
    assert found.low <= noise <= found.high
    assert found.high - found.low < 0.08


def test_copied_rows_of_one_annotator_are_no_repeats() -> None:
    rows = [{**row, "annotator": "ann"} for row in sample_pairs(40)]
    assert "too few pairs judged more than once" in dict(examine(rows_example(rows + rows), RULES).not_checked)[
        "label_noise"
    ]  # fmt: skip


def test_length_bias_has_an_effect_size_with_an_interval() -> None:
    rng = random.Random(1)
    lengths = [(round(math.exp(rng.gauss(4.4, 0.5))), round(math.exp(rng.gauss(4.0, 0.5)))) for _ in range(400)]
    rows = [sample_pair(n, better="x" * (a + 20), worse="y" * (b + 20)) for n, (a, b) in enumerate(lengths)]
    ratio, size = effect(data_of(rows_example(rows)).pairs)
    logs = [math.log((a + 21) / (b + 21)) for a, b in lengths]
    mean = sum(logs) / 400
    deviation = math.sqrt(sum((value - mean) ** 2 for value in logs) / 399)
    assert size == pytest.approx(mean / deviation)
    assert ratio == pytest.approx(
        [math.exp(mean + z * deviation / 20) for z in (0, -1.965927, 1.965927)]
    )  # t of 399 degrees
    assert {"length_bias", "length_tells"} <= set(found_in(rows_example(rows)))


def test_a_taste_for_a_middle_length_is_found_by_the_baseline_alone() -> None:
    middle = module_of(next(rule for rule in RULES if rule.name == "length_tells")).FIRES
    accuracy, _ = length_baseline(data_of(middle))
    assert accuracy.value == 1.0
    assert "length_bias" not in found_in(middle)
    rng = random.Random(2)
    noise = [sample_pair(n, better="x" * rng.randint(20, 90), worse="y" * rng.randint(20, 90)) for n in range(300)]
    accuracy, prompts = length_baseline(data_of(rows_example(noise)))
    assert prompts == 300
    assert accuracy.low < 0.5 < accuracy.high


def test_near_duplicates_are_found_and_answers_to_the_same_question_are_not() -> None:
    rows = sample_pairs(50)
    near = {**rows[7], "chosen": rows[7]["chosen"].upper()}
    assert near_duplicates(data_of(rows_example([*rows, near]))) == [("row 8", "row 51")]
    assert "duplicate_rows" in found_in(rows_example([*rows, near]))
    other = {**rows[7], "chosen": "I never heard of such a thing in all my days", "rejected": "Nobody knows"}
    swapped = {**rows[7], "chosen": rows[7]["rejected"], "rejected": rows[7]["chosen"]}
    assert near_duplicates(data_of(rows_example([*rows, other, swapped]))) == []


def test_twins_differ_in_few_words() -> None:
    text = "To mend it you clean it first, then you glue it, and at last you leave it to dry for a day"
    assert is_twin(text, text.replace("glue", "nail"))
    assert not is_twin(text, " ".join(reversed(text.split())))
    assert not is_twin("Yes", "No")
    assert not is_twin("It is red today", "It is blue, and big")


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("As an AI language model, I don't have opinions.", True),
        ("I'm sorry to hear that! Have you tried tea?", False),
        ("I can't wait to see it.", False),
        ("Sorry means that one regrets.", False),
    ],
)
def test_refusals_are_told_from_regrets(text: str, refuses: bool) -> None:
    assert is_refusal(text) == refuses


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("We went along the river and looked at every stone that was", True),
        ("We went along the river and looked at every stone, all day,", True),
        ("We went along the river and looked at every stone that was there.", False),
        ("Steps:\n- go\n- look", False),
        ("The end\n\nBest wishes, Ann", False),
    ],
)
def test_an_answer_that_stops_in_mid_sentence(text: str, cut: bool) -> None:
    assert is_cut(text) == cut


def test_the_doctor_and_data_check_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sample_pairs(60)
    swapped = {**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    file = write_rows(tmp_path / "pairs.jsonl", [*rows, swapped])
    held_out = write_rows(tmp_path / "held.jsonl", rows[:2])
    status, out, _ = said(["data", "check", file, "--against", held_out, "--json"], capsys)
    checked = json.loads(out)["findings"]
    assert status == 1
    assert [finding["rule"] for finding in checked] == ["prompt_leak", "contradictory_pairs"]
    status, out, _ = said(["doctor", file, "--against", held_out, "--json"], capsys)
    assert status == 1
    assert json.loads(out)["reports"][0]["findings"] == checked
    status, out, _ = said(["doctor", file], capsys)
    assert status == 0
    assert "comparisons, 61 rows" in out
    assert "WARNING  contradictory_pairs  (certain)" in out
    assert "rules looked at 61 rows" in out


def test_no_torch_is_imported(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", sample_pairs(60))
    code = f"import sys, assent; assent.doctor({str(file)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


REAL: dict[str, set[str]] = {
    "hh-harmless.train.jsonl.gz": set(),
    "hh-harmless.test.jsonl.gz": set(),
    "alpaca-eval.rankings.test.jsonl.gz": {"control_tokens", "identical_answers"},
    "alpaca.demonstrations.jsonl.gz": {"duplicate_rows"},
    "dpo.sharegpt.jsonl.gz": {"duplicate_rows"},
    "kto.thumbs.jsonl.gz": {"control_tokens"},
}
"""What is wrong with real files: one answer ends with `</s>`, one prompt holds `<|user|>`, some rows stand twice."""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    rows: Any = Rows(load_groups(SHARED / name, lenient=True))
    assert set(found_in(Case(data=rows))) == REAL[name]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("lecker &amp; rund", True), ("&lt;b&gt;", True), ("it&#39;s", True), ("&#xe4;", True), ("AT&T; R&D", False),
     ("&ampere;", False), ("```&amp;```", False)],
)  # fmt: skip
def test_html_entities_are_seen_outside_of_code(text: str, escaped: bool) -> None:
    assert has_entity(text) == escaped


def test_data_check_parts_refused_rows_from_rules_that_were_not_checked_and_counts_in_english(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("a-long-name-of-a-folder-" * 3)
    folder.mkdir()
    rows = [*sample_pairs(2), sample_pair(1), *[{**sample_pair(7), "rejected": ""}] * 25]
    status, out, err = said(["data", "check", write_rows(folder / "pairs.jsonl", rows)], capsys)
    assert status == 1, err
    assert "exact duplicates      1 group\n" in out
    rules, refused = out.split("\n\nRefused rows:\n")
    assert "Not checked:" in rules
    assert refused.startswith("  empty completion, 25 rows: ")
    assert refused.rstrip().endswith("pairs.jsonl:23 …")
    assert all(len(line) <= 80 for line in refused.splitlines())


def test_what_lengths_tell_is_of_this_file() -> None:
    assert "cross-validation within this file" in str(length_tells.RULE.ask(length_tells.FIRES))
