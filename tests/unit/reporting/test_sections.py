"""Sections that a page has only where a file has them: frontier, findings, what stands apart from quality."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from assent.errors import RunFolderError
from assent.reporting import write_report
from assent.reporting.formatting import number, sentence
from assent.runs.reading import read_run
from tests.support.reporting import HOSTILE, Page, estimate, evaluation, findings, frontier, write_pipeline, write_run


def _with(folder: Path, name: str, record: dict[str, Any]) -> str:
    (folder / name).write_text(json.dumps(record))
    return write_report(folder).read_text(encoding="utf-8")


def _rows(markup: str) -> list[str]:
    found = re.findall(r"<tr.*?</tr>", markup, flags=re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


def test_a_frontier_is_drawn_and_its_peak_told(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "demo", steps=2, trained=())
    markup = _with(folder, "frontier.json", frontier())
    page = Page(markup)
    assert "ppo <b>few</b> is over-optimised beyond a KL of 9.0 nats" in page.text
    assert "gold falls by 0.08 (interval 0.06 to 0.10). Gold falls on 1 of 2 curves." in page.text
    assert "<b>few" not in markup
    rows = _rows(markup.split('id="frontier"')[1].split("</section>")[0])
    assert rows[1] == "best-of-n rm 2,000 2.00 2.00 1.60 to 2.60 0.29 none 0.97 best-of-N 3.30 –"
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg"]
    assert any(label.startswith("Gold and proxy against √KL") for label in labels)


def test_a_frontier_alone_has_its_verdict(tmp_path: Path) -> None:
    write_run(tmp_path / "run", command="frontier", config={"output_dir": "x"}, steps=0, seed=0)
    markup = _with(tmp_path / "run", "frontier.json", frontier(peak=False))
    assert re.search(r"<h1>(.*?)</h1>", markup)[1].startswith("No curve is over-optimised in the measured range")
    assert "Over-optimisation</div>" in markup


def test_findings_are_shown_and_their_absence_is_not_news(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, command="ppo", config={"model": "m"}, steps=3, seed=0)
    assert 'id="findings"' not in write_report(run).read_text(encoding="utf-8")
    markup = _with(run, "findings.json", findings(hostile=True))
    text = Page(markup).text
    assert HOSTILE in text
    assert "<script" not in markup
    assert "Likely cause: a proxy gap" in text
    assert "objective/kl 9.500, expected at most 5, steps 12 to 22" in text
    assert "objective/scores 1.200" in text
    assert "What to do: Raise --kl-coef." in text
    assert "no judge was used" in text
    charts = [attributes.get("aria-label") or "" for tag, attributes in Page(markup).tags if tag == "svg"]
    logged = read_run(run).metrics["objective/kl"]
    assert f"run: objective/kl, from {number(logged.values[0])} to {number(logged.last)}" in charts
    section = markup.split('id="findings"')[1].split("</section>")[0]
    assert section.count("<svg") == 1  # of the first metric in evidence
    other = findings()
    other["findings"][0]["evidence"][0]["metric"] = "never/logged"
    del other["findings"][0]["evidence"][1]
    assert "<svg" not in _with(run, "findings.json", other).split('id="findings"')[1].split("</section>")[0]
    healthy = _with(run, "findings.json", {"schema": 1, "findings": []})
    assert "No findings: all rules that could be checked passed." in healthy
    with pytest.raises(RunFolderError, match="schema 2"):
        _with(run, "findings.json", {"schema": 2, "findings": []})


def test_a_pipeline_has_one_section_of_findings_and_one_line_for_the_stages_without(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "demo", steps=3)
    found = findings()
    found["findings"][0] |= {"verdict": "the KL left its bounds", "cause": "a proxy gap"}
    found["findings"][0]["evidence"] = [{"metric": "objective/kl", "value": 9.5, "steps": [3, 3]}]
    for stage, content in (
        ("ppo", found),
        ("sft", {"schema": 1, "findings": []}),
        ("dpo", {"schema": 1, "findings": []}),
    ):
        (folder / stage / "findings.json").write_text(json.dumps({"not_checked": []} | content), encoding="utf-8")
    markup = write_report(folder).read_text(encoding="utf-8")
    assert markup.count("Findings of the doctor") == 1
    text = Page(markup).text
    assert "No findings in sft, dpo: all rules that could be checked passed." in text
    assert "The KL left its bounds" in text
    assert "objective/kl 9.500, step 3" in text
    assert f"Not checked: {len(found['not_checked'])}" in text
    assert all(f"{rule['rule']} ppo: {rule['reason']}" in text for rule in found["not_checked"])


def test_a_sentence_has_a_capital_unless_it_begins_with_a_name() -> None:
    assert [sentence(text) for text in ("log-odds", "kl_coef 2 is", "loss/policy is", "")] == [
        "Log-odds", "kl_coef 2 is", "loss/policy is", ""]  # fmt: skip


def test_a_judge_without_scores_and_files_without_kl_are_shown(tmp_path: Path) -> None:
    """A judge compares and scores nothing; completions from a file have no KL, no tokens, no EOS."""
    record = evaluation() | {"reference": None}
    for policy in record["policies"]:
        policy |= {"kl": None, "greedy": None}
        policy["sampled"] |= {"gold": None, "length": None, "eos_rate": None, "scores": []}
        for sample in record["samples"]:
            sample["completions"][policy["name"]]["score"] = None
    markup = _with(write_pipeline(tmp_path / "demo", steps=2, trained=()), "evaluation/evaluation.json", record)
    assert re.search(r"<h1>(.*?)</h1>", markup)[1] == "PPO beats SFT 79% of the time (95% interval 74% to 84%)."
    assert "Score against distance" not in markup
    assert "None" not in Page(markup).text


def test_differences_ratings_form_and_the_judge_are_shown(tmp_path: Path) -> None:
    record = evaluation() | {
        "precision": 0.03,
        "judge": {"calls": 4000, "invalid": 7, "consistent": estimate(0.81, 0.02), "first_wins": estimate(0.55, 0.01)},
        "wins": {"sft": {"<b>rival": estimate(0.4, 0.1)}, "<b>rival": {"sft": estimate(0.6, 0.1)}},
    }
    record["policies"] = record["policies"][1:3]
    for n, policy in enumerate(record["policies"]):
        policy["rating"] = estimate(70.0 * n, 12.0)
        policy["sampled"] |= {
            "difference": estimate(0.18, 0.02) if n else None,
            "prompts_needed": 1234 if n else None,
            "entropy": estimate(20.5 + n, 0.25),
            "distinct_1": estimate(0.91, 0.01),
            "distinct_2": {**estimate(0.97, 0.01), "low": None, "high": None},
            "k3": estimate(3.9 * n, 0.1),
            "characters": estimate(101.0, 3.0),
            "refusal_rate": None,
            "eos_rate": estimate(0.98, 0.01),
        }
    record["policies"][1]["name"] = "<b>rival"
    markup = _with(write_pipeline(tmp_path / "demo", steps=2, trained=()), "evaluation/evaluation.json", record)
    assert "<b>rival" not in markup
    rows = _rows(markup)
    for shown in (
        "Difference in score, paired by prompt – 0.18 0.16 to 0.20",
        "Bradley–Terry rating, Elo points – 70 58 to 82",
        "Prompts needed for a win rate ±0.03 – 1,234",
        "Ended with EOS 98.0% 97 to 99% 98.0% 97 to 99%",
        "Entropy, nats 20.50 20.25 to 20.75 21.50 21.25 to 21.75",
        "KL by k3, nats 0 −0.1 to 0.1 3.90 3.8 to 4.0",
        "Distinct words (distinct-1) 0.91 0.90 to 0.92 0.91 0.90 to 0.92",
        "Distinct word pairs (distinct-2) 0.97 too few 0.97 too few",
        "Characters 101 98 to 104 101 98 to 104",
        "SFT – 40.0% 30 to 50%",
        "&lt;b&gt;rival 60.0% 50 to 70% –",
    ):
        assert shown in rows
    text = Page(markup).text
    assert "which agree 81% of the time (79 to 83%)" in text
    assert (
        "The answer shown first wins 55% (54 to 56%; 50% without bias). 7 of 4,000 replies were not a verdict" in text
    )
    assert text.count("Refusals") == 0  # unknown of all: no row


def test_safety_and_slices_stand_apart_from_quality(tmp_path: Path) -> None:
    record = evaluation()
    for n, policy in enumerate(record["policies"]):
        policy["sampled"] |= {
            "refusal_rate": estimate(0.1 + n / 100, 0.02),
            "length_controlled": {"win_rate": estimate(0.6, 0.05), "effect": estimate(1.0, 0.1)},
            "safety": {"under_refusal": estimate(0.031, 0.01), "attribute/warmth": estimate(2.5, 0.1)},
            "slices": {"topic": {"<i>tents": {"win_rate": estimate(0.62, 0.1, n=31)}}},
        }
    markup = _with(write_pipeline(tmp_path / "demo", steps=2, trained=()), "evaluation/evaluation.json", record)
    names = ("Under", "Warmth", "Win rate at", "Refusals", "topic")
    shown = {name: next(row for row in _rows(markup) if row.startswith(name)) for name in names}
    assert shown["Under"].startswith("Under refusal 3.1% 2 to 4% 3.1%")
    assert shown["Warmth"].startswith("Warmth 2.50 2.40 to 2.60")
    assert shown["Win rate at"].count("60.0%") == 5
    assert shown["Refusals"].startswith("Refusals 10.0%")
    assert shown["topic"] == "topic: &lt;i&gt;tents 31 prompts" + 4 * " 62% 52 to 72%"
