"""Logs of other trainers: each format is read under our names, and what cannot be read is counted, never raised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from assent.diagnosis.opening import case_of_log
from assent.errors import DataError
from assent.metrics import FOREIGN, lookup
from assent.runs.foreign_names import ForeignLog, read_foreign


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder: Path, name: str, text: str, **known: Any) -> ForeignLog:
    (folder / name).write_text(text)
    return read_foreign(folder / name, **known)


def test_every_name_means_a_declared_one() -> None:
    for names in FOREIGN.values():
        for ours in names.values():
            lookup(ours.removeprefix("1 - "))


STATE = {
    "max_steps": 30,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "log_history": [
        {"epoch": 0.1, "loss": 0.6931, "learning_rate": 5e-7, "rewards/margins": 0.0, "step": 10},
        {"epoch": 0.2, "loss": 0.65, "learning_rate": 4e-7, "rewards/margins": 0.1, "step": 20},
        {"epoch": 0.2, "eval_loss": 0.66, "eval_rewards/accuracies": 0.6, "eval_runtime": 3.0, "step": 20},
        {"epoch": 0.3, "loss": 0.6, "learning_rate": 3e-7, "rewards/margins": 0.2, "new/figure": 1.0, "step": 30},
        {"epoch": 0.3, "train_loss": 0.65, "train_runtime": 9.0, "total_flos": 0.0, "step": 30},
    ],
}


def test_a_trainer_state_also_in_the_newest_checkpoint(tmp_path: Path) -> None:
    for number in (9, 10):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({**STATE, "max_steps": number}))
    log = read_foreign(tmp_path)
    assert (log.source, log.planned_steps) == ("trl", 10)
    assert log.columns["loss"] == ([10, 20, 30], [0.6931, 0.65, 0.6])
    assert log.columns["eval_rewards/accuracies"] == ([20], [0.6])
    assert not {"train_loss", "train_runtime", "eval_runtime"} & set(log.columns)
    assert log.settings == {"num_train_epochs": 1, "logging_steps": 10}
    assert log.notes == ("not read, as their meaning is not known: new/figure",)
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    assert read_foreign(tmp_path).planned_steps == 30


def test_grpo_of_trl(tmp_path: Path) -> None:
    row = {"step": 10, "reward": 0.4, "reward_std": 0.3, "kl": 0.002, "entropy": 1.2, "completions/clipped_ratio": 0.9,
           "completions/mean_length": 250.0, "rewards/format/mean": 0.9, "clip_ratio/region_mean": 0.01}  # fmt: skip
    columns = read(tmp_path, "l.jsonl", lines([row])).columns
    found = {name: values[0] for name, (_, values) in columns.items()}
    assert found == {
        "objective/scores": 0.4,
        "objective/scores_std": 0.3,
        "objective/kl_per_token": 0.002,
        "policy/entropy_avg": 1.2,
        "rollout/eos_rate": pytest.approx(0.1),
        "rollout/completion_length": 250.0,
        "rewards/format/mean": 0.9,
        "policy/clipfrac_avg": 0.01,
    }


def test_printed_dictionaries_with_and_without_a_progress_bar(tmp_path: Path) -> None:
    text = (
        " 10%|█ | 10/100 [00:01<00:09]{'loss': 0.69, 'grad_norm': 1.5, 'rewards/margins': nan, 'epoch': 0.1}\n"
        "a warning: {'not': 'a figure'}\n"
        " 20%|██  | 20/100 [00:02<00:08]\r{'loss': '0.65', 'grad_norm': '1e-2', 'epoch': '0.2'}\n"
        "{'eval_loss': 0.6, 'epoch': 0.2}\n{'loss': 0.6, 'epo\n"
    )
    log = read(tmp_path, "train.log", text)
    assert log.planned_steps == 100
    assert log.columns["loss"][0][:2] == [10, 20]
    assert log.columns["loss"][1][:2] == [0.69, 0.65]
    assert log.columns["grad_norm"] == ([10, 20], [1.5, 0.01])
    assert log.columns["eval_loss"] == ([20], [0.6])
    assert log.columns["loss"][0] == [10, 20]  # the last line is cut, and 0.6 may have been 0.693
    assert log.notes == ("1 lines or rows of train.log cannot be read and are left out",)
    counted = read(tmp_path, "b.txt", "{'loss': 0.69, 'epoch': 0.1}\n{'loss': 0.65, 'epoch': 0.2}\n")
    assert counted.columns["loss"] == ([1, 2], [0.69, 0.65])
    assert "they are counted" in counted.notes[0]


def test_llama_factory(tmp_path: Path) -> None:
    rows = [{"current_steps": i, "total_steps": 9, "loss": 0.6, "accuracy": 0.75, "lr": 1e-6, "epoch": 0.1,
             "percentage": 1.0, "elapsed_time": "0:01:03"} for i in (1, 2)]  # fmt: skip
    log = read(tmp_path, "trainer_log.jsonl", lines(rows))
    assert (log.source, log.planned_steps, log.notes) == ("llama-factory", 9, ())
    assert log.columns["rewards/accuracies"] == ([1, 2], [0.75, 0.75])
    assert log.columns["learning_rate"][1] == [1e-6, 1e-6]
    assert "accuracy" in read(tmp_path, "trainer_log.jsonl", lines(rows), stage="reward").columns


CARD = """---
license: mit
---
- learning_rate: 5e-07
- num_epochs: 3
### Training results
| Training Loss | Epoch | Step | Validation Loss | Rewards/chosen | Logps/chosen |
|:---|:---:|---|---|---|---|
| 0.62 | 0.05 | 100 | 0.60 | 0.04 | -253.8 |
| No log | 0.1 | 200 | 0.54 | -0.02 | -254.5 |

| other | table |
|---|---|
| 1 | 2 |
"""


def test_a_model_card(tmp_path: Path) -> None:
    log = read(tmp_path, "README.md", CARD)
    assert log.columns["loss"] == ([100], [0.62])
    assert log.columns["eval_loss"] == ([100, 200], [0.60, 0.54])
    assert log.columns["eval_rewards/chosen"][1] == [0.04, -0.02]
    assert log.settings == {"learning_rate": 5e-7, "num_train_epochs": 3.0}


def test_verl(tmp_path: Path) -> None:
    row = {"actor/pg_loss": 0.1, "actor/entropy": 0.9, "actor/kl_loss": 0.01, "critic/score/mean": 0.5,
           "response_length/mean": 300.0, "response_length/clip_ratio": 0.25, "critic/vf_explained_var": 0.4,
           "timing_s/gen": 9.0}  # fmt: skip
    ours = {"loss/policy_avg": 0.1, "policy/entropy_avg": 0.9, "objective/kl_per_token": 0.01, "objective/scores": 0.5,
            "rollout/completion_length": 300.0, "rollout/eos_rate": 0.75, "val/explained_variance": 0.4}  # fmt: skip
    printed = "(main_task pid=1) step:3 - " + " - ".join(f"{name}:{value}" for name, value in row.items()) + "\n"
    for name, text in (("v.jsonl", lines([{"step": 3, "data": row}])), ("v.log", printed)):
        log = read(tmp_path, name, text)
        assert log.source == "verl"
        assert {name: values[0] for name, (_, values) in log.columns.items()} == ours
        assert log.columns["objective/scores"][0] == [3]
        assert "timing_s/gen" in log.notes[-1]


def test_openrlhf_pairs_and_reward_models_by_where_they_start(tmp_path: Path) -> None:
    def rows(first: float) -> list[dict[str, float]]:
        return [{"_step": 7 * i, "train/global_step": i, "train/loss": 0.69, "train/acc": 0.5, "train/acc_mean": 0.5,
                 "train/chosen_reward": first + 0.1 * i, "train/reject_reward": first, "train/lr": 1e-6}
                for i in range(3)]  # fmt: skip

    log = read(tmp_path, "dpo.jsonl", lines(rows(0.0)))
    assert log.source == "openrlhf"
    assert log.columns["rewards/margins"] == ([0, 1, 2], pytest.approx([0.0, 0.1, 0.2]))
    scores = read(tmp_path, "rm.jsonl", lines(rows(1.5))).columns
    assert scores["margin"] == ([0, 1, 2], pytest.approx([0.0, 0.1, 0.2]))
    assert not any(name.startswith("rewards/") for name in scores)
    assert "rewards/margins" in read(tmp_path, "rm.jsonl", lines(rows(1.5)), stage="dpo").columns


def test_nemo_rl(tmp_path: Path) -> None:
    row = {"step": 1, "train/reward": 0.3, "train/probs_ratio": 1.0, "train/kl_penalty": 0.001, "train/lr": 1e-6,
           "train/mean_gen_tokens_per_sample": 80.0, "validation/accuracy": 0.4}  # fmt: skip
    log = read(tmp_path, "n.jsonl", lines([row]))
    assert log.source == "nemo-rl"
    assert log.columns["val/ratio"] == ([1], [1.0])
    assert log.columns["rollout/completion_length"] == ([1], [80.0])


def test_exports_as_csv(tmp_path: Path) -> None:
    wandb = 'Step,"run - train/loss","run - train/loss__MIN"\n10,0.69,0.69\n20,,\n30,0.5,0.5\n'
    assert read(tmp_path, "w.csv", wandb).columns["loss"] == ([10, 30], [0.69, 0.5])
    board = "Wall time,Step,Value\n1.0,10,0.69\n2.0,20,NaN\n"
    assert list(read(tmp_path, "run-tag-rewards_margins.csv", board).columns) == ["rewards/margins"]
    assert read(tmp_path, "run-tag-train_loss.csv", board).columns["loss"][0] == [10, 20]
    long = "step,tag,value\n1,train/loss,0.69\n2,train/loss,0.68\n"
    assert read(tmp_path, "long.csv", long).columns["loss"] == ([1, 2], [0.69, 0.68])


def test_exports_of_one_run_in_a_folder(tmp_path: Path) -> None:
    """TensorBoard gives a file for each metric, as CSV or JSON, with _ where the metric has /."""

    def exported(tag: str, *values: float) -> None:
        lines = [f"{10.0 * i},{i},{value}" for i, value in enumerate(values, start=1)]
        (tmp_path / f"run-tag-{tag}.csv").write_text("\n".join(["Wall time,Step,Value", *lines]) + "\n")

    exported("train_policy_loss", 0.1, 0.2)
    exported("train_reward", 0.5, 0.6)
    exported("train_response_length", 90.0, 95.0)
    (tmp_path / "run-tag-train_truncated.json").write_text("[[1.7e9, 1, 0.25], [1.7e9, 2, 0.5]]")
    log = read_foreign(tmp_path)
    assert log.source == "openrlhf"
    assert log.columns == {
        "loss/policy_avg": ([1, 2], [0.1, 0.2]),
        "objective/scores": ([1, 2], [0.5, 0.6]),
        "rollout/completion_length": ([1, 2], [90.0, 95.0]),
        "rollout/eos_rate": ([1, 2], [0.75, 0.5]),
    }
    (tmp_path / "other-tag-train_reward.csv").write_text("Wall time,Step,Value\n1.0,1,0.1\n")
    with pytest.raises(DataError, match=r"exports of two runs: train/reward stands in other-tag-train_reward\.csv"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    ("tag", "ours"),
    [("actor_pg_loss", "loss/policy_avg"), ("actor_entropy", "policy/entropy_avg"),
     ("critic_score_mean", "objective/scores"), ("response_length_clip_ratio", "rollout/eos_rate"),
     ("validation_accuracy", "eval_rewards/accuracies"), ("train_rewards_chosen_mean", "rewards/chosen"),
     ("eval_rewards_margins", "eval_rewards/margins"), ("train_rewards_margins", "rewards/margins")],
)  # fmt: skip
def test_a_tag_of_tensorboard(tag: str, ours: str, tmp_path: Path) -> None:
    """verl's, NeMo-RL's and transformers'. What nothing tells of its trainer is read as TRL's."""
    (tmp_path / f"run-tag-{tag}.csv").write_text("Wall time,Step,Value\n1.0,10,0.5\n")
    if tag.startswith("validation"):
        (tmp_path / "run-tag-train_probs_ratio.csv").write_text("Wall time,Step,Value\n1.0,10,1.0\n")
    assert read_foreign(tmp_path).columns[ours] == ([10], [0.5])


def test_rows_that_were_cut_are_left_out(tmp_path: Path) -> None:
    """A cut number is another number, and a row with a cell too many has its values in the wrong columns."""
    log = read(tmp_path, "w.csv", "Step,loss,kl\n1,0.69,0.1\n2,0.68,1,0.2\n3,0.6")
    assert log.columns["loss"] == ([1], [0.69])
    assert log.notes[0] == "2 lines or rows of w.csv cannot be read and are left out"
    row = "step:{} - actor/entropy:0.9 - critic/score/mean:0.5"
    cut = read(tmp_path, "v.log", "\n".join(row.format(i) for i in (1, 2)))  # no line break at the end
    assert cut.columns["policy/entropy_avg"] == ([1, 2], [0.9, 0.9])
    assert cut.columns["objective/scores"] == ([1], [0.5])


def test_two_runs_in_one_export_are_refused(tmp_path: Path) -> None:
    text = 'Step,"a - train/loss","b - train/loss"\n10,0.69,\n10,,0.7\n'
    with pytest.raises(DataError, match="holds several runs") as refused:
        read(tmp_path, "w.csv", text)
    assert "a, b" in str(refused.value)


def test_rounds_of_openrlhf_and_pairs_of_nemo_rl(tmp_path: Path) -> None:
    ppo = {"train/global_step": 4, "train/policy_loss": 0.1, "train/actor_lr": 1e-6, "train/critic_loss": 0.3,
           "train/reward": 0.4, "train/kl": 0.01, "train/response_length": 80.0, "train/ppo_clip_ratio": 0.05,
           "train/entropy_loss": 1.1, "train/ppo_kl": 0.002}  # fmt: skip
    log = read(tmp_path, "o.jsonl", lines([ppo]))
    assert (log.source, log.notes) == ("openrlhf", ())
    assert {name: values[0] for name, (_, values) in log.columns.items()} == {
        "loss/policy_avg": 0.1, "learning_rate": 1e-6, "loss/value_avg": 0.3, "objective/scores": 0.4,
        "objective/kl_per_token": 0.01, "rollout/completion_length": 80.0, "policy/clipfrac_avg": 0.05,
        "policy/entropy_avg": 1.1, "policy/approxkl_k1": 0.002,
    }  # fmt: skip
    dpo = {"step": 4, "train/loss": 0.6, "train/preference_loss": 0.6, "train/accuracy": 0.7, "train/lr": 1e-6,
           "train/rewards_chosen_mean": 0.2, "train/rewards_rejected_mean": -0.1}  # fmt: skip
    columns = read(tmp_path, "n.jsonl", lines([dpo])).columns
    assert columns["rewards/margins"] == ([4], pytest.approx([0.3]))
    assert columns["rewards/accuracies"] == ([4], [0.7])


def test_thumbs_of_one_kind_a_batch_have_no_margin(tmp_path: Path) -> None:
    """TRL's KTO logs the rewards of the kind that a batch held."""
    rows = [{"step": i, "loss": 0.5, "kl": 0.1, "rewards/chosen" if i % 2 else "rewards/rejected": 0.1 * i}
            for i in range(1, 9)]  # fmt: skip
    log = read(tmp_path, "kto.jsonl", lines(rows))
    assert "rewards/margins" not in log.columns
    case = case_of_log(tmp_path / "kto.jsonl")
    assert (case.stage, case.steps) == ("kto", 8)


def test_beta_of_grpo_is_the_weight_of_the_kl(tmp_path: Path) -> None:
    rows = [{"step": i, "reward": 0.4, "frac_reward_zero_std": 0.1} for i in range(1, 4)]
    (tmp_path / "g.jsonl").write_text(lines(rows))
    (tmp_path / "s.json").write_text(json.dumps({"beta": 0.04}))
    config = case_of_log(tmp_path / "g.jsonl", settings=tmp_path / "s.json").config
    assert (config.get("kl_coef"), config.get("beta")) == (0.04, None)
    config = case_of_log(tmp_path / "g.jsonl", stage="dpo", settings=tmp_path / "s.json").config
    assert (config.get("kl_coef"), config.get("beta")) == (None, 0.04)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("trainer_state.json", '{"log_history": [{"loss": 0.69, "step": 1}, {"lo', "is not whole JSON"),
        ("trainer_state.json", '{"log_history": []}', "no row with a step"),
        ("trainer_state.json", '"text"', "no row with a step"),
        ("trainer_state.json", "[" * 100_000, "is not whole JSON"),
        ("l.jsonl", "", "nothing to read"),
        ("l.jsonl", '{"loss": 0.5}\nnot json\n[1]\n', "3 rows or lines that cannot be read"),
        ("l.csv", "a,b\n1,2\n", "no row with a step"),
        ("l.csv", 'Step,loss\n1,"' + "x" * 200_000, "is not CSV|no row with a step"),
        ("l.log", "\x00\xff nothing", "no row with a step"),
        ("README.md", "# a card without a table\n", "no row with a step"),
    ],
)
def test_a_file_of_which_nothing_can_be_read(name: str, text: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=part):
        read(tmp_path, name, text)


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no log"):
        read_foreign(tmp_path)
    with pytest.raises(DataError, match="there is no"):
        read_foreign(tmp_path / "absent")


def test_odd_steps_and_values_are_left_out(tmp_path: Path) -> None:
    text = (
        '{"step": 1, "loss": 0.7, "text": "hello", "list": [1], "flag": true, "none": null}\n'
        '{"step": -1, "loss": 0.7}\n{"step": 1.5, "loss": 0.7}\n{"step": "two", "loss": 0.7}\n'
        '{"step": true, "loss": 1}\n'
        '{"step": 1e400, "loss": 0.7}\n{"step": 2, "loss": NaN, "grad_norm": Infinity}\n'
        '{"step": 3, "loss": ' + "9" * 400 + "}\n"
    )
    log = read(tmp_path, "l.jsonl", text)
    assert log.columns["loss"][0] == [1, 2, 3]
    assert log.notes == ("5 lines or rows of l.jsonl cannot be read and are left out",)
