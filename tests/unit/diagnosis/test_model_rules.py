"""Rules of models: each fires on its own figures alone; what counts as going on, as stuck, as a taste; three stages."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType

import numpy
import pytest
from scipy import stats

from assent.diagnosis.examine import examine
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.probes import FACTS, MANNERS, QUESTIONS, Answer, goes_on, is_stuck
from assent.diagnosis.rows import sample_pairs
from assent.diagnosis.rule import Rule
from assent.diagnosis.scored import correlation_interval, overconfidence, temperature
from assent.diagnosis.taste import learn_taste
from assent.evaluation.calibration import fit_temperature, length_bias
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import write_rows

RULES = model_rules()
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
FACT = (
    "Facts: order D{n}, item watch, plan basic, owner Glen, city Riga, price 50, delivery 10, refund 30, warranty {n}, "
    "use easy. Glen: Which city is on my order?"
)
BASE = Path(__file__).parents[3] / "src" / "assent" / "sandbox" / "assets" / "base-v1-seed0"


def module_of(rule: Rule) -> ModuleType:
    return importlib.import_module(f"assent.diagnosis.model_rules.{rule.name}")


@every_rule
def test_it_fires_and_stays_quiet(rule: Rule) -> None:
    module = module_of(rule)
    assert [finding.rule for finding in examine(module.FIRES, RULES).findings] == [rule.name]
    assert examine(module.QUIET, RULES).findings == ()
    assert rule.looks_at == "models"
    assert rule.title
    assert rule.causes
    assert rule.source
    found = rule.ask(module.FIRES)
    assert found is not None
    for text in (found.verdict, found.cause, found.next_action):
        assert text
        assert not text.endswith(".")


def test_the_probes_are_questions_with_different_answers() -> None:
    assert all(question and answer for question, answer in QUESTIONS)
    for _, right, wrong in (*FACTS, *MANNERS):
        assert right != wrong


@pytest.mark.parametrize(
    ("text", "goes"),
    [
        ("? And what then?", True),
        ("It is red. Nora: And the other?", True),
        ("Red.\nUser: thanks", True),
        ("It is red.", False),
        ("Note: it is red.", False),
        ("At 10:30 it is open", False),
    ],
)
def test_another_turn_is_told_from_an_answer(text: str, goes: bool) -> None:
    asked = Answer(prompt="Nora: Which one is red?", text=text, ended=True)
    assert goes_on(asked, [asked]) == goes


def test_an_answer_that_is_stuck() -> None:
    assert is_stuck("go and look at it " * 4)
    assert not is_stuck("go and look at it, then come back and tell me what there is")


def test_a_taste_ranks_texts_like_the_pairs() -> None:
    rng = random.Random(0)
    stems = [f"the {thing} is {word}" for thing in ("cup", "hat", "map") for word in ("red", "new", "old", "big")]
    better = [f"{rng.choice(stems)} , happy to help" for _ in range(60)]
    worse = [f"{rng.choice(stems)} , stop asking" for _ in range(60)]
    taste = learn_taste(better, worse)
    kind, neither, rude = taste(["a pen is blue , happy to help", "a pen is blue", "a pen is blue , stop asking"])
    assert kind > neither > rude


def test_a_policy_is_asked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_rows(
        tmp_path / "prompts.jsonl",
        [{"prompt": [{"role": "user", "content": FACT.format(n=n + 20)}]} for n in range(12)],
    )
    given = ["--prompts", prompts, "--max-new-tokens", 24, "--max-length", 160]
    status, out, _ = said(["doctor", BASE, "--probe", *given], capsys)
    assert status == 1
    assert "FAULT  no_instruction_tuning" in out
    assert "train it on demonstrations first (assent sft)" in out
    assert "the built-in questions are English, and the model is not: wrong_facts" in out


def test_data_are_held_against_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "model")
    file = write_rows(tmp_path / "pairs.jsonl", sample_pairs(8))
    given = ["--probe", "--model", model, "--max-new-tokens", 4, "--max-length", 120]
    status, out, err = said(["doctor", file, *given, "--json"], capsys)
    assert status == 0, err
    assert '"drawn"' in out
    assert '"off_policy"' in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL"], "give --probe"),
        (["MODEL", "--prompts", "x.jsonl"], "has no effect without probe"),
        (["MODEL", "--probe", "--model", "other"], "--model has no effect beside a policy"),
        (["FILE", "--probe"], "--probe has nothing to load"),
    ],
)
def test_what_cannot_be_probed_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", sample_pairs(8))
    named = {"MODEL": str(BASE), "FILE": str(file)}
    status, _, err = said(["doctor", *(named.get(option, option) for option in options)], capsys)
    assert status == 2
    assert message in " ".join(err.split())


def test_figures_of_scores_equal_those_of_an_evaluation() -> None:
    rng = numpy.random.default_rng(0)
    margins = rng.normal(0.4, 1.0, size=200)
    lengths = margins + rng.normal(size=200)
    stated, actual = 1 / (1 + numpy.exp(-abs(margins))), (margins > 0).astype(float)
    assert overconfidence(margins.tolist()).value == pytest.approx((stated - actual).mean())
    fitted = fit_temperature(margins)
    assert fitted is not None
    assert temperature(margins.tolist()) == pytest.approx(fitted.value, rel=1e-4)
    assert temperature([1.0, 2.0]) is None
    assert temperature([-1.0, -2.0, 1.0]) is None
    found = correlation_interval(margins.tolist(), lengths.tolist(), confidence=0.95)
    expected = stats.pearsonr(margins, lengths)
    assert found.value == pytest.approx(length_bias(margins, lengths))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
