"""What a reward abstains on, and what was cut, leave the statistics or the loss: by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.cli import main
from assent.config.online import GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.errors import RunError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.rewards.base import Scores
from assent.stages.online_objectives import PolicyObjective
from assent.stages.online_preference import ranking_of
from assent.stages.rollout_step import Round, build_round
from tests.support.rounds import GIVEN, Fixed, field, rollout
from tests.support.rows import read_rows
from tests.support.stages import write_inputs

HERE = "tests.unit.stages.test_scored"


def on_even(prompts: Sequence[Any], completions: Sequence[str]) -> list[float | None]:
    """Scores every other completion of the call."""
    return [None if i % 2 else float(len(text)) for i, text in enumerate(completions)]


def never(prompts: Sequence[Any], completions: Sequence[str]) -> list[None]:
    return [None for _ in completions]


def a_round(config: OnlineOptions, scores: Sequence[float | None], *, cut: Sequence[int] = ()) -> Round:
    """Completions of one token each, with log-probability -1; the reference's is -1 too, so no KL."""
    rollouts = [rollout(i // config.num_completions, [-1.0], cut=i in cut) for i in range(len(scores))]
    k, least = config.num_completions, 2 if config.triple.needs_mates else 1
    known = [sum(score is not None for score in scores[i : i + k]) for i in range(0, len(scores), k)]
    left = sum(count for count in known if count >= least)
    reference: Any = Fixed(logprobs=[-1.0] * left)
    critic: Any = Fixed(values=[0.5] * left, last_values=[0.0] * left) if config.triple.value else None
    return build_round(config, rollouts, Scores(scores), reference=reference, critic=critic, kl_coef=0.0)


def test_grpos_mean_and_deviation_are_over_the_scored_mates() -> None:
    """1 and 3 of three: mean 2, deviation sqrt(2). The second prompt has a single one left, the third none."""
    batch = a_round(
        GrpoConfig(**GIVEN, num_completions=3), [1.0, None, 3.0, None, 5.0, None, None, None, None, 2, 2, 2]
    )
    assert [len(group.completions) for group in batch.groups] == [2, 3]
    one = 1 / (2**0.5 + 1e-4)
    assert field(batch, "advantages") == pytest.approx([-one, one, 0.0, 0.0, 0.0])
    assert batch.metrics["rollout/left_out"] == 7
    assert batch.metrics["objective/scores"] == pytest.approx((1 + 3 + 2 + 2 + 2) / 5)
    assert batch.metrics["frac_reward_zero_std"] == 0.5
    assert batch.metrics["rollout/eos_rate"] == 1.0


def test_rloo_compares_with_the_scored_mates() -> None:
    batch = a_round(RlooConfig(**GIVEN, num_completions=3, kl_coef=0.0), [1.0, None, 4.0])
    assert field(batch, "advantages") == pytest.approx([-3.0, 3.0])


def test_ppo_whitens_over_the_scored_ones() -> None:
    """Scores 1 and 4 less values of 0.5: advantages 0.5 and 3.5, mean 2, deviation 1.5. A single one left is kept."""
    batch = a_round(PpoConfig(**GIVEN, num_completions=2, kl_coef=0.0), [1.0, None, 4.0, None])
    assert field(batch, "advantages") == pytest.approx([-1.0, 1.0], abs=1e-6)
    assert field(batch, "returns") == pytest.approx([1.0, 4.0])
    assert [group.source for group in batch.groups] == ["prompt 0", "prompt 1"]


def test_a_round_without_a_score_is_an_error() -> None:
    with pytest.raises(RunError, match=r"no completion of this round can be learned from(?s:.)*2 of 2 completions"):
        a_round(PpoConfig(**GIVEN, num_completions=2), [None, None])
    with pytest.raises(RunError, match="a prompt with 2 or more scored completions"):
        a_round(GrpoConfig(**GIVEN, num_completions=2), [1.0, None])


def test_cut_completions_leave_the_loss_and_its_counts_but_not_their_groups_mean() -> None:
    """Scores 1, 2, 6 with the last one cut: mean 3 with it; 1 and 2 are trained, at -2 and -1."""
    config = GrpoConfig(**GIVEN, num_completions=3, scale_rewards="none", mask_truncated_completions=True)
    batch = a_round(config, [1.0, 2.0, 6.0, 1.0, 1.0, 1.0], cut=[2, 3, 4, 5])
    assert field(batch, "advantages") == pytest.approx([-2.0, -1.0])
    assert len(batch.groups) == 1  # every completion of the other prompt was cut
    assert batch.metrics["rollout/left_out"] == 4
    assert batch.metrics["rollout/eos_rate"] == pytest.approx(2 / 6)
    for loss_type, count in {"grpo": 2, "dapo": 2, "dr_grpo": 2 * 64}.items():
        objective = PolicyObjective.of(config.model_copy(update={"loss_type": loss_type}), kl_coef=0.04)
        packed = pack(batch.groups, device="cpu")
        assert objective.counts(packed) == {"policy_avg": count, "kl_avg": count}
        terms, _ = objective(Outputs(logprobs=torch.tensor([-1.0, -1.0])), packed)
        assert float(terms["policy_avg"]) == pytest.approx(3.0)  # ratio 1: minus the advantages
    kept = a_round(config.model_copy(update={"mask_truncated_completions": False}), [1.0, 2.0, 6.0], cut=[2])
    assert field(kept, "advantages") == pytest.approx([-2.0, -1.0, 3.0])
    with pytest.raises(RunError, match="every completion of this round was cut"):
        a_round(config, [1.0, 2.0, 3.0], cut=[0, 1, 2])


def test_only_grpo_has_the_option_of_leaving_out_what_was_cut() -> None:
    with pytest.raises(ValueError, match="mask_truncated_completions"):
        PpoConfig(**GIVEN, mask_truncated_completions=True)  # type: ignore[call-arg]


def test_online_dpo_compares_only_what_has_a_score() -> None:
    group = TokenGroup((3,), tuple(TokenCompletion((i,)) for i in (4, 5, 6)))
    config = OnlineDpoConfig(**{**GIVEN, "num_completions": 3})
    ranked = ranking_of(config, group, [2.0, None, 5.0])
    assert ranked is not None
    assert [completion.ids for completion in ranked.completions] == [(6,), (4,)]
    assert ranking_of(config, group, [None, None, 5.0]) is None


@pytest.mark.parametrize("command", ["ppo", "grpo", "online-dpo"])
def test_a_reward_that_abstains_trains_on_the_rest_and_is_counted(command: str, tmp_path: Path) -> None:
    paths = write_inputs(tmp_path)
    argv = [command, "--model", paths["model"], "--data", paths["prompts"]]
    argv += ["--max-length", "64", "--max-new-tokens", "6", "--total-steps", "1", "--batch-size", "2"]
    argv += ["--num-completions", "4"]
    assert main([*argv, "--output-dir", str(tmp_path / "run"), "--reward", f"{HERE}:on_even"]) == 0
    row = next(row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "objective/scores" in row)
    assert row["objective/abstained"] == 4
    if command != "online-dpo":
        assert row["rollout/left_out"] == 4
    assert main([*argv, "--output-dir", str(tmp_path / "none"), "--reward", f"{HERE}:never"]) == 3


def test_best_of_n_and_eval_refuse_what_no_source_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source that scores the rest makes it possible: then the abstentions are counted."""
    paths = write_inputs(tmp_path)
    argv = ["best-of-n", "--model", paths["model"], "--data", paths["prompts"], "--n", "2", "--num-prompts", "2"]
    argv += ["--max-length", "64", "--max-new-tokens", "6"]
    assert main([*argv, "--output-dir", str(tmp_path / "one"), "--reward", f"{HERE}:on_even"]) == 3
    assert f"reward {HERE}:on_even abstained for completion" in capsys.readouterr().err
    both = [f"{HERE}:on_even", "{reward: length, maximum: 4, unit: characters}"]
    assert main([*argv, "--output-dir", str(tmp_path / "two"), "--reward", *both]) == 0
    metrics = read_rows(tmp_path / "two" / "metrics.jsonl")[0]
    assert metrics["rewards/on_even/abstained"] == 2
    candidates = read_rows(tmp_path / "two" / "candidates.jsonl")[0]
    assert candidates["rewards"]["on_even"][1] is None
    argv = [
        "eval",
        "--policies.one",
        paths["model"],
        "--policies.two",
        paths["model"],
        "--baseline",
        "one",
        "--data",
        paths["prompts"],
    ]
    assert main([*argv, "--num-prompts", "2", "--judge", f"{HERE}:never", "--max-new-tokens", "6"]) == 3
    assert "abstained for completion" in capsys.readouterr().err
