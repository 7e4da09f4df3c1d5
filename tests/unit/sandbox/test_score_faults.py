"""Reward models to probe: the tasks are what they say, and each fault changes rows or folder as it says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from assent.diagnosis.model_rules import model_rules
from assent.models.loading import load_scorer, load_tokenizer
from assent.models.saving import save_model
from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.reward_model import RewardModel
from assent.sandbox.faults import patches
from assent.sandbox.faults.confusion import Seen, confusion, table
from assent.sandbox.faults.patches import OPEN
from assent.sandbox.faults.records import Purpose
from assent.sandbox.faults.score_faults import SCORE_FAULTS, healthy_scores, plan_scores
from assent.sandbox.faults.score_tasks import HELD_OUT, TASKS, TWIN, comparisons, exchanged, gold, raw_model
from assent.sandbox.faults.settings import Setting
from assent.statistics.small import correlation
from assent.types import PromptGroup


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _setting(models: Path, name: str = "", seed: int = 3) -> Setting:
    setting = healthy_scores("kinds", seed, models=models)
    if name:
        SCORE_FAULTS[name].inject(setting, 1.0)
    return setting


def _plain(setting: Setting) -> list[PromptGroup]:
    return [row for row in setting.rows if TWIN not in row.columns]


def _longer(rows: list[PromptGroup]) -> float:
    """Share of rows whose chosen answer is the longer one, of those whose answers differ in length."""
    pairs = [[len(str(text)) for text in row.completions] for row in rows]
    return sum(a > b for a, b in pairs) / sum(a != b for a, b in pairs)


def test_gold_by_hand() -> None:
    assert gold("kinds", "pets sun sea box :", " cat dog sun so.") == pytest.approx((0.9 * (2 - 1) - 0.6) / 4)
    assert gold("kinds", "goods sun sea box :", " cat dog sun so") == pytest.approx((0.9 * (1 - 2) - 0.6) / 4)
    assert gold("kinds", "pets sun sea box :", "") == 0


@pytest.mark.parametrize("task", TASKS)
def test_labels_follow_gold_and_neither_length_nor_marks(task: str) -> None:
    rows = comparisons(task, 1500, seed=0)
    gaps = [
        gold(task, str(row.prompt), a) - gold(task, str(row.prompt), b) for row in rows for a, b in [row.completions]
    ]  # type: ignore[arg-type]
    right = sum(gap > 0 for gap in gaps) / len(gaps)
    assert 0.8 < right < 0.97
    assert abs(_longer(rows) - 0.5) < 0.05
    marks = Counter(str(text).endswith(".") for row in rows for text in row.completions[:1])
    assert abs(marks[True] / 1500 - 0.5) < 0.05
    words = [[len(str(text).split()) for text in row.completions] for row in rows]
    assert abs(correlation([float(a - b) for a, b in words], gaps)) < 0.1


@pytest.mark.parametrize("task", TASKS)
def test_a_good_answer_is_another_one_after_the_other_verb(task: str) -> None:
    first, second = TASKS[task].verbs
    margins = []
    for row in comparisons(task, 400, seed=1):
        a, b = map(str, row.completions)
        margins.append([gold(task, verb, a) - gold(task, verb, b) for verb in (first, second)])
    assert correlation([one for one, _ in margins], [other for _, other in margins]) < 0.2


def test_no_held_out_prompt_is_trained_on() -> None:
    trained = {row.prompt for seed in range(3) for row in comparisons("kinds", 600, seed=seed)}
    assert not trained & {row.prompt for row in comparisons("kinds", 300, seed=9, held_out=True)}


def test_seeds_and_tasks_of_calibration_and_report_are_apart() -> None:
    purposes: tuple[Purpose, Purpose] = ("calibration", "report")
    plans = {
        purpose: [one for name in ("", *SCORE_FAULTS) for one in plan_scores(name, purpose, range(8))]
        for purpose in purposes
    }
    assert not {one.seed for one in plans["calibration"]} & {one.seed for one in plans["report"]}
    assert HELD_OUT not in {one.family for one in plans["calibration"]}
    assert HELD_OUT in {one.family for one in plans["report"]}


def test_faults_name_rules_that_there_are_and_each_rule_has_a_fault() -> None:
    known = {rule.name for rule in model_rules() if rule.name.startswith("score_")}
    assert {rule for fault in SCORE_FAULTS.values() for rule in fault.rules} == known
    assert {rule for fault in SCORE_FAULTS.values() for rule in fault.also} <= known


ROWS: dict[str, Callable[[Setting, Setting], bool]] = {
    "scores-like-long": lambda s, healthy: _longer(_plain(s)) > 0.85,
    "scores-like-short": lambda s, healthy: _longer(_plain(s)) < 0.15,
    "scores-prompts-shuffled": lambda s, healthy: (
        sorted(str(row.prompt) for row in s.rows) == sorted(str(row.prompt) for row in healthy.rows)
        and sum(a.prompt == b.prompt for a, b in zip(s.rows, healthy.rows, strict=True)) < 10
    ),
    "scores-open-best": lambda s, healthy: all(row.columns[OPEN] == [0] for row in _twins(s, "open")),
    "scores-ends-stripped": lambda s, healthy: all(row.columns.get(OPEN) == [0, 1] for row in s.rows),
    "scores-empty-best": lambda s, healthy: all(row.completions[0] == "" for row in _twins(s, "empty")),
    "scores-repetition-best": lambda s, healthy: all(
        row.completions[0] == f"{row.completions[1]} {row.completions[1]}" for row in _twins(s, "doubled")
    ),
    "scores-marked": lambda s, healthy: all(
        str(row.completions[0]).endswith(".") and not str(row.completions[1]).endswith(".") for row in _plain(s)
    ),
    "scores-labels-random": lambda s, healthy: 0.4 < _kept(s, healthy) < 0.6,
    "scores-labels-exchanged": lambda s, healthy: _kept(s, healthy) < 0.01,
    "scores-memorised": lambda s, healthy: len(s.rows) == 48,
    "scores-positions": lambda s, healthy: s.options["model"].endswith("gpt2"),
}  # fmt: skip


def _twins(setting: Setting, kind: str) -> list[PromptGroup]:
    return [row for row in setting.rows if row.columns.get(TWIN) == kind]


def _kept(setting: Setting, healthy: Setting) -> float:
    """Share of training rows whose chosen answer is the healthy one, of those whose texts differ."""
    pairs = [(a, b) for a, b in zip(setting.rows, healthy.rows, strict=True) if len(set(b.completions)) == 2]
    return sum(a.completions == b.completions for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("name", ROWS)
def test_the_fault_is_in_the_rows_and_not_in_healthy_ones(models: Path, name: str) -> None:
    healthy = _setting(models)
    assert ROWS[name](_setting(models, name), healthy)
    assert not ROWS[name](_setting(models), healthy)


def test_an_exchanged_row_keeps_the_answer_that_has_no_end() -> None:
    row = PromptGroup(prompt="p", completions=("a", "b"), columns={OPEN: [1]})
    assert exchanged(row).completions == ("b", "a")
    assert exchanged(row).columns[OPEN] == [0]


def test_answers_that_are_named_lose_their_end_token(models: Path) -> None:
    tokenizer = load_tokenizer(raw_model(models))
    row = PromptGroup(prompt="pets sun :", completions=(" cat dog", " cat fox"), columns={OPEN: [1]})

    def last() -> list[bool]:
        read = tokenize_groups([row], tokenizer=tokenizer, template=resolve_template(tokenizer), max_length=64)
        return [completion.ids[-1] == tokenizer.eos_token_id for completion in read.groups[0].completions]

    with patches.open_ends():
        assert last() == [True, False]
    assert last() == [True, True]


@pytest.fixture(scope="module")
def scorer(models: Path) -> Path:
    start = raw_model(models)
    save_model(models / "rm", load_scorer(start, seed=3), load_tokenizer(start))
    return models / "rm"


def _saved(scorer: Path, folder: Path, models: Path, name: str) -> Path:
    folder.mkdir()
    for file in scorer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for change in _setting(models, name).saved:
        change(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "factor", "shift"),
    [("scores-times-20", 20.0, 0.0), ("scores-times-0.02", 0.02, 0.0), ("scores-shifted", 1.0, 50.0)],
)
def test_scores_of_the_changed_folder(
    scorer: Path, models: Path, tmp_path: Path, name: str, factor: float, shift: float
) -> None:
    asked = ["pets sun sea box :"] * 2, [" cat dog", " sun so"]
    before = RewardModel(str(scorer)).score_members(*asked)
    after = RewardModel(str(_saved(scorer, tmp_path / "rm", models, name))).score_members(*asked)
    assert torch.allclose(after, factor * before + shift, atol=1e-5)


def test_pad_ids_of_the_changed_folder(scorer: Path, models: Path, tmp_path: Path) -> None:
    eos = load_tokenizer(scorer).eos_token_id
    for name, expected in (("scores-pad-is-end", eos), ("scores-no-pad", None)):
        folder = _saved(scorer, tmp_path / name, models, name)
        assert json.loads((folder / "config.json").read_text())["pad_token_id"] == expected


def test_what_is_found_is_counted_by_these_faults() -> None:
    counted = confusion(
        [
            Seen(("scores-shifted",), "reward", ("score_off_level", "score_at_chance"), "score_at_chance"),
            Seen(("scores-shifted",), "reward", ()),
            Seen((), "reward", ("score_off_level",)),
        ],
        SCORE_FAULTS,
    )
    assert counted.detected == {"scores-shifted": (1, 2)}
    assert counted.named == {"score_off_level": (1, 2), "score_at_chance": (0, 1)}
    assert counted.alarms == {"reward": (1, 1)}
    lines = table(counted.as_dict(), known=SCORE_FAULTS)
    assert lines[0] == "| fault | rules | found | 95% |"
    assert lines[2].startswith("| scores-shifted | score_off_level | 1 of 2 |")
