"""Details of RLHF between sampling and training, and of its updates (table of all: test_rlhf_details.py)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.online import A2cConfig, GrpoConfig, OnlineOptions, PpoConfig, RlooConfig
from assent.engine.learner import Learner
from assent.errors import ConfigError, NonFiniteError, RunError
from assent.models.batch import Outputs, TokenGroup
from assent.models.packing import pack
from assent.rollouts.sampler import SamplingParams
from assent.stages import online
from assent.stages.gate import sampler_mismatch
from assent.stages.online import _train_round
from assent.stages.online_objectives import PolicyObjective
from assent.stages.rollout_step import Round, build_round
from assent.stages.sampling import to_groups
from assent.types import PromptGroup
from tests.support.cli import said
from tests.support.engine import torch_threads
from tests.support.models import tiny_model
from tests.support.rounds import GIVEN, REFERENCE, ROLLOUTS, SINGLE, Fixed, field, rollout, the_round
from tests.support.stages import arguments, told, write_inputs


def test_the_kl_is_taken_off_each_token_and_the_score_given_at_the_last() -> None:
    """k1 0.5 and -1, coefficient 0.1: returns -0.05 + 0.1 + 2 and 0.1 + 2; the cut one ends: 1 - 0.4."""
    config = PpoConfig(**SINGLE, kl_coef=0.1, lam=1.0, whiten_advantages=False, missing_eos_penalty=0.4)
    batch = the_round(config)
    assert field(batch, "returns") == pytest.approx([2.05, 2.1, 0.6])
    assert field(batch, "advantages") == pytest.approx([1.95, 1.9, 0.3])
    assert batch.metrics["objective/scores"] == 1.5  # as the reward gave it
    assert batch.metrics["objective/rlhf_reward"] == pytest.approx((2.0 + 0.6) / 2 - 0.1 * -0.25)
    assert "reference_logprobs" not in batch.groups[0].token


def test_a_cut_completion_goes_on_in_the_critics_estimate() -> None:
    """The cut one: KL 0, then V = 0.6 of its last state instead of a score of 1; the ended one has no V behind it."""
    config = A2cConfig(**GIVEN, kl_coef=0.1, bootstrap_truncated=True, gamma=0.5)
    batch = the_round(config)
    assert field(batch, "returns") == pytest.approx([-0.05 + 0.5 * 0.2, 0.1 + 2.0, 0.5 * 0.6])
    ended = the_round(A2cConfig(**GIVEN, kl_coef=0.1, gamma=0.5))
    assert field(ended, "returns")[2] == pytest.approx(1.0)


def test_a_potentials_rise_is_added_to_each_tokens_reward() -> None:
    """No KL: 1 - 0.5, 2 - 1; the cut one's token: 1 - 0.25, or 0.75 - 0.25 where it goes on, with V = 0.6 behind it."""
    potential: Any = Fixed(values=[0.5, 1.0, 0.25], last_values=[9.0, 0.75])
    options: dict[str, Any] = {"kl_coef": 0.0, "potential": "p"}
    ended = the_round(A2cConfig(**GIVEN, **options), potential=potential)
    assert field(ended, "returns") == pytest.approx([0.5 + 0.2, 1.0, 0.75])
    goes_on = the_round(A2cConfig(**GIVEN, **options, bootstrap_truncated=True), potential=potential)
    assert field(goes_on, "returns")[2] == pytest.approx(0.75 - 0.25 + 0.6)


def test_scores_are_scaled_by_their_running_deviation_and_not_shifted() -> None:
    """Scores 2 and 1, then 3 and 6. First deviation 0.5; all four: mean 3, variance (1 + 4 + 0 + 9) / 4."""
    config = PpoConfig(**SINGLE, kl_coef=0.0, lam=1.0, whiten_advantages=False, scale_scores=True)
    first = the_round(config)
    assert field(first, "returns") == pytest.approx([4.0, 4.0, 2.0], rel=1e-6)
    assert first.score_moments == [2.0, 3.0, 5.0]
    second = the_round(config, scores=(3.0, 6.0), score_moments=first.score_moments)
    assert field(second, "returns") == pytest.approx([x / math.sqrt(3.5) for x in (3.0, 3.0, 6.0)], rel=1e-6)
    assert second.metrics["objective/scores"] == 4.5
    assert second.metrics["objective/rlhf_reward"] == pytest.approx(4.5 / math.sqrt(3.5), rel=1e-6)


def test_a_reward_whose_square_is_beyond_float32_is_named() -> None:
    assert (
        the_round(GrpoConfig(**{**SINGLE, "num_completions": 2}), scores=[1e15, -1e15]).metrics["objective/scores_std"]
        > 0
    )
    for command in (PpoConfig, A2cConfig):
        the_round(command(**SINGLE), scores=[1e15, -1e15])
        with pytest.raises(NonFiniteError, match=r"a reward is too large(.|\n)*-1.01e\+15 for ''"):
            the_round(command(**SINGLE), scores=[1.0, -1.01e15])


def test_advantages_are_whitened_over_the_tokens_of_the_round() -> None:
    found = field(the_round(PpoConfig(**SINGLE)), "advantages")
    assert np.mean(found) == pytest.approx(0.0, abs=1e-6)
    assert np.std(found) == pytest.approx(1.0, abs=1e-5)


def test_the_kls_estimators_have_standard_errors_over_prompts() -> None:
    """Two prompts of two completions: k1 sums -0.5, 0 and 1, 2; the prompts' means -0.25 and 1.5, error 1.75 / 2."""
    rollouts = [*ROLLOUTS, rollout(2, [-1.0]), rollout(3, [-1.0])]
    reference: Any = Fixed(logprobs=[*REFERENCE, -2.0, -3.0])
    config = RlooConfig(**GIVEN, num_completions=2)
    found = build_round(config, rollouts, [1.0, 1.0, 2.0, 3.0], reference=reference, critic=None, kl_coef=0.1).metrics
    assert found["objective/kl"] == pytest.approx(0.625)
    assert found["objective/kl_se"] == pytest.approx(0.875)
    k2 = ((0.125 + 0.5 + 0.0) / 2, (0.5 + 2.0) / 2)
    assert found["objective/kl_k2"] == pytest.approx(sum(k2) / 2)
    assert found["objective/kl_k2_se"] == pytest.approx((k2[1] - k2[0]) / 2)
    k3 = [math.exp(-x) - 1 + x for x in (0.5, -1.0, 0.0, 1.0, 2.0)]
    assert found["objective/kl_k3"] == pytest.approx(sum(k3) / 4)
    assert found["frac_reward_zero_std"] == 0.5
    assert "val/explained_variance" not in found
    few: Any = Fixed(logprobs=REFERENCE)
    alone = build_round(config, rollouts[:2], [1.0, 1.0], reference=few, critic=None, kl_coef=0.1)
    assert "objective/kl_se" not in alone.metrics  # one prompt has no spread


def test_a_kl_in_the_loss_is_not_in_the_reward_too() -> None:
    config = GrpoConfig(**GIVEN, num_completions=2, scale_rewards="none")
    batch = the_round(config)
    assert field(batch, "advantages") == pytest.approx([0.5, 0.5, -0.5])
    assert field(batch, "reference_logprobs") == pytest.approx(REFERENCE)
    in_reward = the_round(
        GrpoConfig(**GIVEN, num_completions=2, scale_rewards="none", kl_penalty="reward", kl_coef=1.0)
    )
    assert field(in_reward, "advantages") == pytest.approx([0.75, 0.75, -0.75])  # sums 2 + 0.5 and 1


def updates_of(config: OnlineOptions, policy: Fixed, critic: Fixed | None = None, *, step: int = 0) -> dict[str, float]:
    groups = [TokenGroup((3,), (), source=str(i)) for i in range(6)]
    objective = PolicyObjective.of(config, kl_coef=config.kl_coef)
    given: Any = {"learner": policy, "critic": critic}
    return _train_round(config, step, Round(groups, {}, 0.0, []), objective, **given)


def test_mini_batches_are_shuffled_in_each_pass_and_hold_every_prompt_once() -> None:
    policy, critic = Fixed(), Fixed()
    metrics = updates_of(PpoConfig(**SINGLE, num_ppo_epochs=3, num_mini_batches=2), policy, critic)
    assert policy.updates == critic.updates
    passes = [policy.updates[i] + policy.updates[i + 1] for i in (0, 2, 4)]
    assert all(sorted(order) == list("012345") for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    assert [len(update) for update in policy.updates] == [3] * 6
    assert metrics["policy/updates"] == 6.0
    assert metrics["num_tokens"] == 6.0  # a state: the last; a loss would be the mean


@pytest.mark.parametrize(
    ("batch_size", "total_steps", "said"),
    [
        (4, 3, "batch_size does not divide 10 prompts: the last round of each pass has only 2"),
        (4, 2, ""),
        (5, 3, ""),
        (16, 1, "batch_size is 16, but the data has 10 prompts: each round has all of them"),
    ],
)
def test_rounds_with_fewer_prompts_than_asked_for_are_told(
    batch_size: int, total_steps: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_inputs(tmp_path)
    given: dict[str, Any] = {"model": inputs["model"], "data": inputs["prompts"], "output_dir": str(tmp_path / "run")}
    given |= {"reward": "tests.support.stages:brevity", "max_length": 96, "max_new_tokens": 2, "num_completions": 2}
    online.train(RlooConfig(**given, batch_size=batch_size, total_steps=total_steps))
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert [note for note in notes if "batch_size" in note] == [said] * bool(said)
    assert said in capsys.readouterr().err


def test_target_kl_ends_the_policys_updates_and_not_the_critics() -> None:
    policy, critic = Fixed(approxkl=[0.0, 0.01, 0.03, 0.0]), Fixed()
    metrics = updates_of(PpoConfig(**SINGLE, target_kl=0.02, num_ppo_epochs=6), policy, critic)
    assert (len(policy.updates), len(critic.updates)) == (3, 6)
    assert metrics["policy/updates"] == 3.0


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def test_in_the_warm_up_only_the_critic_learns(two_threads: None) -> None:
    policy, critic = Fixed(), Fixed()
    config = PpoConfig(**SINGLE, critic_warmup_steps=1)
    assert updates_of(config, policy, critic, step=0)["policy/updates"] == 0.0
    assert (len(policy.updates), len(critic.updates)) == (0, 4)
    assert critic.threads == 2  # a policy that stands still needs none
    updates_of(config, policy, critic, step=1)
    assert len(policy.updates) == 4
    assert critic.threads == 1


def test_defaults_are_the_ones_that_work() -> None:
    ppo = PpoConfig(**GIVEN)
    assert (ppo.batch_size, ppo.num_completions) == (32, 4)
    assert (ppo.gamma, ppo.lam, ppo.cliprange, ppo.cliprange_value) == (1.0, 0.95, 0.2, 0.2)
    assert (ppo.num_ppo_epochs, ppo.max_grad_norm, ppo.temperature) == (4, 1.0, 1.0)
    assert A2cConfig(**GIVEN).passes == GrpoConfig(**GIVEN).passes == RlooConfig(**GIVEN).passes == (1, 1)
    params = SamplingParams(max_new_tokens=1)
    assert (params.temperature, params.top_k, params.top_p) == (1.0, 0, 1.0)
    assert not {"top_k", "top_p", "min_length"} & set(PpoConfig.model_fields)  # a truncated sampler is another policy


def test_generated_ids_are_trained_on_as_they_were_sampled() -> None:
    batch = the_round(RlooConfig(**GIVEN, num_completions=2))
    assert [completion.ids for completion in batch.groups[0].completions] == [r.ids for r in ROLLOUTS]
    assert field(batch, "old_logprobs") == pytest.approx([-1.0, -2.0, -0.5])


@pytest.mark.parametrize("option", ["reference", "critic"])
def test_models_of_other_tokens_are_refused_before_anything_is_loaded(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("policy", "tell me of the sea"), ("alien", "wholly other words")):
        tiny_model(tmp_path / name, texts=[text] * 9)
    monkeypatch.setattr(online, "open_session", lambda *_, **__: pytest.fail("too late"))
    given = {"model": str(tmp_path / "policy"), "data": "d", "reward": "builtins:len", "output_dir": "o"}
    config = PpoConfig(**given, max_length=64, max_new_tokens=8, batch_size=1, **{option: str(tmp_path / "alien")})
    with pytest.raises(ConfigError, match=f"the {option} has another tokenizer"):
        online.train(config, data=[PromptGroup(prompt="tell me")])


def test_the_kls_coefficient_waits_until_the_policy_learns(tmp_path: Path) -> None:
    """While it stands still its KL is 0, which says nothing of the coefficient."""
    inputs = write_inputs(tmp_path)
    given = {"model": inputs["model"], "data": inputs["prompts"], "reward": "tests.support.stages:brevity"}
    given |= {"output_dir": str(tmp_path / "run")}
    sizes: dict[str, Any] = {"max_length": 64, "max_new_tokens": 6, "batch_size": 4, "total_steps": 4}
    online.train(PpoConfig(**given, **sizes, kl_coef=0.5, kl_target=5.0, critic_warmup_steps=2))
    found = [row["objective/kl_coef"] for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/kl_coef" in row]
    assert found[:3] == [0.5, 0.5, 0.5]
    assert found[3] < 0.5


def test_the_samplers_log_probabilities_are_held_to_the_trainers() -> None:
    """By hand: -1.5 against -1, -1 against -2, -0.5 against -0.5."""
    learner: Any = Fixed(logprobs=REFERENCE)
    config = PpoConfig(**SINGLE, mixed_precision="bf16")
    assert sampler_mismatch(learner, to_groups(ROLLOUTS, 1), config=config, step=0) == 1.0


def test_truncated_importance_weights_by_hand() -> None:
    """The trainer gives -0.5, -2, -1.5 where the sampler gave -1, -2, -0.5: weights e^0.5 cut at 1.5, 1, e^-1."""
    config = PpoConfig(**SINGLE, importance_sampling_cap=1.5, mixed_precision="bf16")
    batch = the_round(config, trainer=Fixed(logprobs=[-0.5, -2.0, -1.5]))
    weights = [1.5, 1.0, math.exp(-1)]
    assert field(batch, "importance") == pytest.approx(weights)
    assert batch.metrics["rollout/importance_mean"] == pytest.approx(sum(weights) / 3)
    assert field(batch, "old_logprobs") == [-0.5, -2.0, -1.5]
    # k1 of the trainer's log-probabilities: (-0.5 + 1.5) + (-2 + 1) and -1.5 + 0.5
    assert batch.metrics["objective/kl"] == pytest.approx(-0.5)
    objective = PolicyObjective.of(config, kl_coef=0.0)
    packed = pack(batch.groups, device="cpu")
    terms, _ = objective(Outputs(logprobs=packed.token["old_logprobs"]), packed)  # ratio 1: minus the advantages
    expected = -sum(w * a for w, a in zip(weights, field(batch, "advantages"), strict=True))
    assert float(terms["policy_avg"]) == pytest.approx(expected, abs=1e-6)
    in_loss = config.model_copy(update={"kl_penalty": "k2"})  # the penalty bears no weights: half of 1 + 1 + 1
    packed = pack(the_round(in_loss, trainer=Fixed(logprobs=[-0.5, -2.0, -1.5])).groups, device="cpu")
    terms, _ = PolicyObjective.of(in_loss, kl_coef=0.2)(Outputs(logprobs=packed.token["old_logprobs"]), packed)
    assert float(terms["kl_avg"]) == pytest.approx(0.2 * 1.5, abs=1e-6)


def test_the_cap_reaches_the_rounds_of_a_run(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    given = {"model": inputs["model"], "data": inputs["prompts"], "reward": "tests.support.stages:brevity"}
    given |= {"output_dir": str(tmp_path / "run"), "mixed_precision": "bf16", "importance_sampling_cap": 2.0}
    online.train(PpoConfig(**given, max_length=64, max_new_tokens=6, batch_size=4, total_steps=1))
    (row,) = (row for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/kl" in row)
    assert row["rollout/importance_mean"] == pytest.approx(1, abs=0.1)


def test_updates_know_the_rows_of_the_data_that_they_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named where a loss is not finite; a number within the round would say nothing."""
    inputs, seen = write_inputs(tmp_path), []
    update = Learner.update

    def watched(self: Learner, groups: Sequence[TokenGroup], objective: Any) -> dict[str, float]:
        seen.extend(group.source for group in groups)
        return update(self, groups, objective)

    monkeypatch.setattr(Learner, "update", watched)
    given = {"model": inputs["model"], "data": inputs["prompts"], "reward": "tests.support.stages:brevity"}
    sizes: dict[str, Any] = {"max_length": 64, "max_new_tokens": 6, "batch_size": 5, "total_steps": 2}
    online.train(RlooConfig(**given, **sizes, output_dir=str(tmp_path / "run")))
    assert sorted(seen) == sorted(f"{inputs['prompts']}:{i + 1}" for i in range(10))


def test_importance_weights_are_refused_where_they_are_one() -> None:
    with pytest.raises(ValueError, match="importance_sampling_cap has no effect"):
        PpoConfig(**SINGLE, importance_sampling_cap=2.0)


def test_each_round_tells_the_mismatch_and_where_its_time_went(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    given = {"model": inputs["model"], "data": inputs["prompts"], "reward": "tests.support.stages:brevity"}
    given |= {"output_dir": str(tmp_path / "run"), "learning_rate": 0.05}
    online.train(PpoConfig(**given, max_length=64, max_new_tokens=6, batch_size=4, total_steps=3))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rounds = [row for row in map(json.loads, lines) if "objective/kl" in row]
    assert len(rounds) == 3
    for row in rounds:
        assert 0 < row["rollout/logprob_mismatch"] <= 1e-4, "against the weights that sampled, not the updated ones"
        shares = [row[f"time/{phase}"] for phase in ("generate", "score", "check", "train")]
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1)
        assert row["rollout/tokens_per_second"] > 0


class Stale:
    """Reads other log-probabilities than were sampled."""

    def __init__(self, distance: float) -> None:
        self.distance = distance

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        sampled = [array for group in groups for array in group.token["old_logprobs"]]
        return Outputs(logprobs=torch.from_numpy(np.concatenate(sampled)) - self.distance)


@pytest.mark.parametrize("distance", [2e-4, math.nan])
def test_a_sampler_with_other_weights_ends_the_run_in_float32_alone(distance: float) -> None:
    groups = the_round(PpoConfig(**SINGLE)).groups
    stale: Any = Stale(distance)
    with pytest.raises(RunError, match="round 7: sampler and trainer disagree"):
        sampler_mismatch(stale, groups, config=PpoConfig(**SINGLE), step=6)
    told = sampler_mismatch(stale, groups, config=PpoConfig(**SINGLE, mixed_precision="bf16"), step=6)
    assert told == pytest.approx(distance, nan_ok=True, rel=1e-3)
    weighted = PpoConfig(**SINGLE, sampler="vllm", importance_sampling_cap=2.0)  # a float32 run with another engine
    assert sampler_mismatch(stale, groups, config=weighted, step=6) == pytest.approx(distance, nan_ok=True, rel=1e-2)
    rounding: Any = Stale(5e-5)
    assert sampler_mismatch(rounding, groups, config=PpoConfig(**SINGLE), step=6) == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize("trunk", [[], ["--trunk", "one", "--lora-r", "2"]], ids=["separate", "one"])
def test_a_critics_fresh_head_begins_at_zero(
    trunk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whitened, the values of a random head would be the first round's advantages."""
    inputs = write_inputs(tmp_path)
    argv = [*arguments("ppo", inputs, tmp_path / "run"), *trunk, "--critic", inputs["model"]]
    status, _, err = said(argv, capsys)
    assert status == 0, err
    rows = [row for row in told(tmp_path / "run" / "metrics.jsonl") if "objective/kl" in row]
    assert rows[0]["val/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["val/explained_variance"] != pytest.approx(0, abs=1e-6)
