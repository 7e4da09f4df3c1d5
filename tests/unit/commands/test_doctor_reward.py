"""assent doctor REWARD_MODEL --probe: what is measured is what the reward model says, and planted faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assent.commands.doctor_reward import retouched, scores_of
from assent.config.doctor import DoctorConfig
from assent.diagnosis.case import Case
from assent.diagnosis.model_rules import score_moves_with_padding
from assent.diagnosis.opening import kind_of_model
from assent.diagnosis.rule import NotChecked
from assent.models.loading import load_scorer, load_tokenizer
from assent.models.saving import save_model
from assent.rewards.reward_model import RewardModel
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import write_rows

PAIRS = [
    {"prompt": f"what is {i} plus {i}?", "chosen": f"it is {2 * i}.", "rejected": f"no, I will not say {i}."}
    for i in range(60)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reward")
    start = tiny_model(root / "policy")
    save_model(root / "rm", load_scorer(start, seed=3), load_tokenizer(start))
    return root / "rm"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", PAIRS)


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of the folder with other entries of config.json."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    written = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**written, **config}))
    return target


def probe(folder: Path, data: Path | None = None) -> DoctorConfig:
    more = {} if data is None else {"data": str(data)}
    return DoctorConfig(targets=(str(folder),), probe=True, max_length=120, device="cpu", **more)


def findings(folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, set[str]]:
    argv = ["doctor", folder, "--probe", "--data", pairs, "--max-length", 120, "--json"]
    status, out, err = said(argv, capsys)
    assert out, err
    (report,) = json.loads(out)["reports"]
    return status, {finding["rule"] for finding in report["findings"]}


def test_what_is_measured_is_what_the_reward_model_says(folder: Path, pairs: Path) -> None:
    found = scores_of(str(folder), probe(folder, pairs))
    reward = RewardModel(str(folder), max_length=120)
    prompts = [row["prompt"] for row in PAIRS]
    better, worse = [row["chosen"] for row in PAIRS], [row["rejected"] for row in PAIRS]
    for values, asked, answers in (
        (found.better, prompts, better),
        (found.worse, prompts, worse),
        (found.empty, prompts, [""] * 60),
        (found.doubled, prompts, [f"{text} {text}" for text in better]),
        (found.retouched, prompts, [retouched(text) for text in better]),
        (found.other_worse, prompts[1:] + prompts[:1], worse),
    ):
        assert values == pytest.approx([*reward.score(asked, answers)], abs=1e-6)
    assert found.better_characters == [len(text) for text in better]
    assert max(abs(a - b) for a, b in zip(found.open_ended, found.better, strict=True)) > 1e-4
    assert max(*found.right_padded, *found.left_padded) < 1e-5
    assert found.given


def test_what_lengths_alone_decide_stands_beside_the_accuracy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [{"prompt": f"ask {i}", "chosen": f"{i} so it is, and {'so ' * (i % 5)}on", "rejected": f"{i}"}
              for i in range(60)]  # fmt: skip
    found = scores_of(str(folder), probe(folder, write_rows(tmp_path / "longer.jsonl", longer)))
    assert found.lengths_alone is not None
    assert found.lengths_alone.value == 1.0
    assert found.as_dict()["lengths_alone"]["value"] == 1.0
    accuracy = sum(a > b for a, b in zip(found.better, found.worse, strict=True)) / 60
    assert found.looked_at() == f"the scores of 60 pairs, {accuracy:.0%} of them ranked right (lengths alone: 100%)"
    few = scores_of(str(folder), probe(folder, write_rows(tmp_path / "few.jsonl", longer[:20])))
    assert few.lengths_alone is None
    assert "lengths alone" not in few.looked_at()


def test_a_twin_differs_in_blanks_and_its_last_mark() -> None:
    assert retouched("It is red, I think.") == "It  is  red,  I  think"
    assert retouched("It is red") == "It  is  red."


def test_untrained_scores_rank_at_chance(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if i % 2 else row for i, row in enumerate(PAIRS)
    ]
    status, rules = findings(folder, write_rows(tmp_path / "half.jsonl", half), capsys)
    assert status == 1
    assert "score_at_chance" in rules
    assert "score_moves_with_padding" not in rules


def test_exchanged_columns_are_named_as_such(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = RewardModel(str(folder), max_length=120)
    rows = []
    for row in PAIRS:  # the answer that this model scores lower is called the better one
        scores = reward.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        low, high = ("chosen", "rejected") if scores[0] < scores[1] else ("rejected", "chosen")
        rows.append({"prompt": row["prompt"], "chosen": row[low], "rejected": row[high]})
    file = write_rows(tmp_path / "exchanged.jsonl", rows)
    status, out, _ = said(["doctor", folder, "--probe", "--data", file, "--max-length", 120], capsys)
    assert status == 1
    assert "it ranks held-out pairs the wrong way round: 0% [0%, 6%] of 60 are right" in out


def test_the_end_token_as_pad_is_found(folder: Path, pairs: Path, tmp_path: Path, capsys: Any) -> None:
    eos = load_tokenizer(folder).eos_token_id
    _, rules = findings(changed(folder, tmp_path / "rm", pad_token_id=eos), pairs, capsys)
    assert "score_moves_with_padding" in rules


def test_why_no_padded_batch_was_read_is_said(folder: Path, tmp_path: Path) -> None:
    """A folder that transformers can read is not called one that it cannot."""
    few = write_rows(tmp_path / "few.jsonl", PAIRS[:5])
    found = scores_of(str(folder), probe(folder, few))
    assert (found.right_padded, found.unpadded) == ((), "too few prompts: 5 of 8")
    with pytest.raises(NotChecked, match="too few prompts: 5 of 8"):
        score_moves_with_padding.check(Case(models=found, source="model"))


def test_scores_of_another_level_are_found(folder: Path, pairs: Path, tmp_path: Path, capsys: Any) -> None:
    _, rules = findings(folder, pairs, capsys)
    _, shifted = findings(changed(folder, tmp_path / "rm", assent_score_bias=50.0), pairs, capsys)
    assert "score_off_level" in shifted - rules


def test_built_in_pairs_say_nothing_of_the_ranking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(["doctor", folder, "--probe", "--max-length", 120], capsys)
    assert "a reward model, asked without a log" in " ".join(out.split())
    assert "needs held-out comparisons: --data FILE: score_at_chance, score_ignores_prompt" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["RM"], "give --probe"),
        (["RM", "--probe", "--prompts", "DATA"], "--prompts has no effect beside a reward model"),
        (["POLICY", "--probe", "--data", "DATA"], "--data has no effect beside a policy"),
        (["DATA", "--probe", "--data", "DATA"], "--data is for a reward model"),
        (["RM", "--data", "DATA"], "data has no effect without probe"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(
    options: list[str], message: str, folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"RM": str(folder), "POLICY": str(folder.parent / "policy"), "DATA": str(pairs)}
    status, _, err = said(["doctor", *(named.get(option, option) for option in options)], capsys)
    assert status == 2
    assert message in " ".join(err.split())


def test_a_folder_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    assert kind_of_model(folder) == "reward model"
    assert kind_of_model(folder.parent / "policy") == "policy"
    assert kind_of_model(tmp_path) is None
    (tmp_path / "adapter_config.json").write_text('{"task_type": "SEQ_CLS"}')
    assert kind_of_model(tmp_path) == "reward model"
    assert kind_of_model(changed(folder.parent / "policy", tmp_path / "own", assent_score_head=True)) == "reward model"
