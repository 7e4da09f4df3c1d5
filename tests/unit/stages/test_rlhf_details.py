"""The details of RLHF that decide whether it works (Huang et al., arXiv:2403.17031, and others), and what went wrong in
TRL's history: each has a test. This table is held against the files; what had none elsewhere stands below.

Details
 1 reward model and critic read prompt and completion | test_ids_are_scored_as_they_are
 2 pad and EOS differ | test_pad_that_ends_texts_is_replaced_by_an_unused_token
 3 positions follow the tokens | test_positions_that_are_shifted_fire, test_each_counted_token_is_read_one_position_before_it
 4 logits over the sampling temperature | test_recorded_logprobs_are_those_of_a_full_read, test_temperature_and_entropy_are_those_of_plain_logits
 5 no dropout | test_dropout_is_off_in_training_and_the_configuration_is_left_alone
 6 rollouts from the policy as it is | test_defaults_are_the_ones_that_work, test_a_generation_config_does_not_steer_the_rollouts
 7 the reward head's start | test_head_deviation_is_one_over_the_root_of_width_plus_one
 8 the critic's start | test_the_critic_starts_from_the_reward_model_where_it_can
 9 rewards of mean 0 and deviation 1 | test_rewards_can_be_normalised_on_other_completions
10 the score at the last real token | test_the_score_is_read_at_the_last_real_token_where_pad_was_eos
11 cut before scoring, penalty for a missing EOS | test_ids_and_text_agree, test_the_kl_is_taken_off_each_token_and_the_score_given_at_the_last
12 gamma 1, lambda 0.95 | test_defaults_are_the_ones_that_work
13 advantages whitened, rewards not shifted, variance over n | test_whiten_by_hand, test_scores_are_scaled_by_their_running_deviation_and_not_shifted
14 mask before a mean | test_masked_tokens_do_nothing_even_where_they_overflow, test_masked_mean_divides_by_the_count_given
15 KL of each token in the reward, the score at the end | test_five_token_episode_rewards
16 three policies, three fingerprints | test_a_reference_that_shares_the_policys_weights_fires_at_the_end
17 the minimum, clipped ratio and value | test_ppo_loss_by_hand, test_value_loss_by_hand
18 adaptive KL, its error clipped | test_adaptive_controller_by_hand
19 Adam's epsilon and warm-up | test_adam_and_the_clip_of_the_gradient_by_hand, test_schedules_are_those_of_transformers
20 gradient clipped to 1 | test_adam_and_the_clip_of_the_gradient_by_hand
21 mini-batches shuffled in each epoch | test_mini_batches_are_shuffled_in_each_pass_and_hold_every_prompt_once
22 accumulation by tokens | test_update_does_not_depend_on_the_budget, test_micro_batches_change_speed_and_memory_only
23 a prompt's completions in one batch, one epoch | test_rankings_of_unequal_size_weigh_as_one_times_their_weight, test_defaults_of_preferences_are_the_ones_that_work
24 logsigmoid and log-softmax in float32 | test_far_out_the_loss_and_its_gradient_are_finite, test_autocast_multiplies_in_bfloat16_and_normalises_in_float32
25 DPO sums; beta 0.1; reference read once | test_dpo_is_the_mean_softplus_of_the_margins, test_defaults_of_preferences_are_the_ones_that_work, test_second_time_is_from_disk_and_identical
26 samples are kept | test_no_key_reaches_a_message_or_the_run_folder
27 generated ids are not tokenized again | test_generated_ids_are_trained_on_as_they_were_sampled

Bugs
loss times accumulation steps | test_update_is_the_textbook_step, test_update_does_not_depend_on_the_budget
stored reference log-probabilities unused or wrong | test_sums_are_those_of_the_forward_pass, test_a_reference_cache_of_another_policy_fires
padding side, off by one | test_each_counted_token_is_read_one_position_before_it, test_micro_batches_and_their_order_change_nothing
truncation's index, empty completions | test_then_completions_are_cut_at_their_end_lose_eos_and_are_marked, test_nothing_is_longer_than_max_length
a second EOS, no BOS | test_raw_completion_that_spells_its_eos_keeps_one, test_empty_raw_prompt_begins_with_bos
metrics overwritten or wrong | test_dpo_is_the_mean_softplus_of_the_margins, test_metrics_are_the_whole_steps
IPO summed | test_every_loss_has_its_value_by_hand
a second copy of the loss drifts | test_values_and_gradients_equal_the_direct_computation
an unseeded head; pad scores the wrong token | test_scorer_from_a_causal_folder_gets_a_seeded_head, test_a_completion_that_ends_with_the_pad_id_is_scored_at_its_end
caches by a random name | test_another_key_row_mask_or_order_is_another_entry
reported KL is not the trained one; negative entropy | test_the_kl_that_is_reported_is_the_one_that_is_taken_off
score on the first pad; penalty ignores other stops | test_a_completion_ends_with_the_first_eos_or_at_the_limit, test_the_kl_is_taken_off_each_token_and_the_score_given_at_the_last
a cut taken for an end | test_a_cut_completion_goes_on_in_the_critics_estimate
generation_config overrides sampling | test_a_generation_config_does_not_steer_the_rollouts
the wrong model saved | test_policy_round_trip_opens_with_transformers, test_weights_have_the_type_asked_for
mini-batches that are no updates | test_mini_batches_are_shuffled_in_each_pass_and_hold_every_prompt_once
statistics over padding | test_masked_tokens_do_nothing_even_where_they_overflow
a reference reloaded by name | test_a_reference_of_other_weights_fires_in_ppo
stored in another precision than trained | test_the_reference_cache_knows_the_models_configuration
bfloat16 log-softmax | test_autocast_multiplies_in_bfloat16_and_normalises_in_float32
the sign of the KL penalty | test_the_kl_that_is_reported_is_the_one_that_is_taken_off
a boundary that only warns | test_prompt_that_is_no_prefix_is_an_error_with_both_texts_and_remedies
"""  # noqa: E501

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.config.online import PpoConfig
from assent.config.stages import PreferenceConfig, RewardConfig
from assent.models.loading import load_scorer, load_tokenizer, save_model
from assent.models.packing import pack
from assent.rollouts.sampler import SamplingParams
from assent.stages.online import _critic_start
from assent.stages.stage_data import Part, StageData
from tests.support.engine import Nll, TinyPolicy, make_groups, make_learner
from tests.support.models import tiny_model
from tests.support.rollouts import KEY, PROMPTS, same, sampler, sharp_llama
from tests.support.rounds import GIVEN, SINGLE, field, the_round

TESTS = Path(__file__).parents[2]


def test_every_detail_and_every_bug_has_a_test_that_exists() -> None:
    defined = {
        name for file in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    rows = [row for row in (__doc__ or "").splitlines() if " | " in row]
    assert [int(row.split()[0]) for row in rows[:27]] == list(range(1, 28))
    assert len(rows) == 27 + 15 + 7
    for row in rows:
        named = re.findall(r"test_\w+", row.split(" | ")[1])
        assert named, row
        assert set(named) <= defined, (row, set(named) - defined)


def test_adam_and_the_clip_of_the_gradient_by_hand() -> None:
    """First step of PyTorch's form: theta - lr g / (|g| + eps), outside the root, g scaled to the norm 0.01."""
    groups, module = make_groups(3), TinyPolicy()
    loss = -module(pack(groups, device="cpu"), frozenset({"logprobs"})).logprobs.mean()
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.02
    learner = make_learner(max_grad_norm=0.01, adam_epsilon=0.1, weight_decay=0.0)
    learner.update(groups, Nll())
    for ours, before, gradient in zip(learner.module.parameters(), module.parameters(), gradients, strict=True):
        clipped = gradient * 0.01 / (norm + 1e-6)
        torch.testing.assert_close(ours, before - 1e-2 * clipped / (clipped.abs() + 0.1), rtol=0, atol=1e-7)


def test_a_generation_config_does_not_steer_the_rollouts() -> None:
    params = SamplingParams(max_new_tokens=12)
    plain = sampler().sample(PROMPTS, num_completions=2, params=params, seed=KEY)
    model = sharp_llama()
    for name, value in {"temperature": 0.1, "top_k": 1, "top_p": 0.1, "min_length": 12, "do_sample": False}.items():
        setattr(model.generation_config, name, value)
    same(sampler(model).sample(PROMPTS, num_completions=2, params=params, seed=KEY), plain)


def test_the_critic_starts_from_the_reward_model_where_it_can(tmp_path: Path) -> None:
    policy, other = tiny_model(tmp_path / "policy"), tiny_model(tmp_path / "other", seed=1)
    tokenizer = load_tokenizer(policy)
    for name, labels in {"rm": 1, "several": 2}.items():
        save_model(tmp_path / name, load_scorer(other, num_labels=labels, seed=3), load_tokenizer(other))
    alien = load_tokenizer(other)
    alien.chat_template = "another"
    save_model(tmp_path / "alien", load_scorer(other, seed=3), alien)
    text = StageData(tokenizer, None, {"train": Part("train", [], [], "", False)})  # type: ignore[arg-type]

    def start(reward: Any) -> str:
        config = PpoConfig(**{**GIVEN, "model": policy, "reward": reward})
        return _critic_start(config, text)

    rm = str(tmp_path / "rm")
    assert start(rm) == start({"reward": rm, "weight": 2}) == rm
    for reward in (
        "m:f",
        [rm, "m:f"],
        str(tmp_path / "several"),
        str(tmp_path / "alien"),
        "{reward: length, minimum: 1}",
    ):
        assert start(reward) == policy


def test_the_kl_that_is_reported_is_the_one_that_is_taken_off() -> None:
    """k1 sums -0.5 and 0: mean -0.25; at 0.1 each, +0.025 of reward. Entropy: the mean of 3 and 0.5."""
    config = PpoConfig(**SINGLE, kl_coef=0.1, lam=1.0, whiten_advantages=False)
    batch = the_round(config)
    assert batch.metrics["objective/kl"] == pytest.approx(-0.25)
    assert batch.metrics["objective/non_score_reward"] == pytest.approx(0.025)
    assert batch.metrics["objective/entropy"] == pytest.approx(1.75)
    first, last, cut = field(batch, "returns")
    taken = ((first - 2.0) + (cut - 1.0)) / 2  # what the episodes' returns hold beside their scores
    assert taken == pytest.approx(batch.metrics["objective/non_score_reward"], abs=1e-6)
    assert batch.metrics["objective/rlhf_reward"] == pytest.approx(1.5 + 0.025)
    in_loss = the_round(config.model_copy(update={"kl_penalty": "k2"})).metrics  # there it is no reward
    assert in_loss["objective/kl"] == pytest.approx(-0.25)
    assert (in_loss["objective/non_score_reward"], in_loss["objective/rlhf_reward"]) == (0.0, 1.5)
    assert last == pytest.approx(2.1)


def test_defaults_of_preferences_are_the_ones_that_work() -> None:
    dpo = PreferenceConfig(model="m", data="d", output_dir="o")
    assert (dpo.loss_type, dpo.beta, dpo.num_train_epochs, dpo.reference) == ("sigmoid", 0.1, 1.0, None)
    reward = RewardConfig(model="m", data="d", output_dir="o")
    assert (reward.num_train_epochs, reward.max_grad_norm) == (1.0, 1.0)
