"""Every fault that a log shows: where it is made, how strongly, and which rules of the doctor should say so.

Of strength 1 it is plain; towards 0 it fades into a healthy run, for those that have `fades`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from assent.sandbox.faults import injections as made
from assent.sandbox.faults.settings import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which a run of a stage goes wrong.

    inject   changes a healthy setting, by a strength in [0, 1]
    rules    findings that name it: one of them is enough
    also     findings that are true of it as well, and do not name it
    fades    whether strengths below 1 mean something
    mended   whether options mend it. Labels, rows, the reward or the code are at fault otherwise, and no change of an
             option gives what a healthy run reaches
    """

    name: str
    stage: str
    inject: Callable[[Setting, float], None]
    rules: tuple[str, ...]
    also: frozenset[str] = field(default_factory=frozenset)
    fades: bool = False
    mended: bool = False


BROKEN_PAIRS = frozenset(
    {"loss_above_start", "held_out_rises", "chosen_falls", "saturated", "too_sure", "margin_falls", "labels_disagree",
     "memorises_epochs", "memorises_rows", "ranks_at_chance", "likelihood_collapses"}
)  # fmt: skip
BROKEN_POLICY = frozenset(
    {"oversize_updates", "kl_explodes", "kl_unbounded", "entropy_collapses", "reward_falls", "cut_completions",
     "empty_answers", "critic_useless", "zero_advantage", "kl_negative", "sampler_differs", "longer_answers",
     "penalty_scale"}
)  # fmt: skip
"""What a policy may suffer from that moves too fast, or to where its reward leads it."""


def _fault(
    name: str, stage: str, inject: Callable[[Setting, float], None], *rules: str, also: frozenset[str] = frozenset(),
    fades: bool = False,
) -> Fault:  # fmt: skip
    return Fault(name=name, stage=stage, inject=inject, rules=rules, also=also - set(rules), fades=fades,
                 mended=name in MENDED)  # fmt: skip


MENDED = frozenset(
    {"sft-rate-high", "reward-rate-high", "dpo-rate-high", "ppo-rate-high", "grpo-rate-high", "dpo-rate-low",
     "reward-rate-low", "grpo-rate-low", "kto-rate-low", "ppo-critic-rate-low", "ppo-entropy-collapse",
     "ppo-updates-many", "dpo-beta-high", "dpo-beta-low", "ppo-kl-strong", "ppo-reward-tiny", "grpo-cut",
     "kto-one-class"}
)  # fmt: skip
"""Faults of options alone: a healthy run is a few options away."""


_ALL = (
    # the learning rate
    _fault("sft-rate-high", "sft", made.rate_times(100), "loss_above_start", "held_out_rises",
           also=BROKEN_PAIRS, fades=True),
    _fault("reward-rate-high", "reward", made.rate_times(100), "loss_above_start", "ranks_at_chance", "too_sure",
           "held_out_rises", also=BROKEN_PAIRS | {"scores_off_centre"}, fades=True),
    _fault("dpo-rate-high", "dpo", made.rate_times(400), "loss_above_start", "held_out_rises", "too_sure",
           "likelihood_collapses", also=BROKEN_PAIRS, fades=True),
    _fault("ppo-rate-high", "ppo", made.rate_times(40), "kl_explodes", "oversize_updates", "entropy_collapses",
           also=BROKEN_POLICY, fades=True),
    _fault("grpo-rate-high", "grpo", made.rate_times(40), "kl_explodes", "entropy_collapses", also=BROKEN_POLICY,
           fades=True),
    _fault("dpo-rate-zero", "dpo", made.rate_zero, "learning_rate_zero", also=frozenset({"nothing_learned"})),
    _fault("sft-rate-zero", "sft", made.rate_zero, "learning_rate_zero"),
    _fault("ppo-rate-zero", "ppo", made.rate_zero, "learning_rate_zero",
           also=frozenset({"policy_stays", "critic_useless"})),
    _fault("dpo-rate-low", "dpo", made.rate_times(1e-5), "nothing_learned"),
    _fault("reward-rate-low", "reward", made.rate_times(1e-5), "ranks_at_chance"),
    _fault("grpo-rate-low", "grpo", made.rate_times(1e-5), "policy_stays"),
    _fault("kto-rate-low", "kto", made.rate_times(1e-5), "nothing_learned"),
    # the code of a stage
    _fault("dpo-frozen", "dpo", made.frozen, "no_gradient", also=frozenset({"nothing_learned"})),
    _fault("grpo-frozen", "grpo", made.frozen, "no_gradient", also=frozenset({"policy_stays"})),
    _fault("dpo-masked", "dpo", made.masked_pairs, "labels_masked",
           also=frozenset({"no_gradient", "nothing_learned", "kl_always_zero"})),
    _fault("sft-masked", "sft", made.masked_answers, "labels_masked",
           also=frozenset({"no_gradient", "learning_rate_zero"})),
    _fault("dpo-no-reference", "dpo", made.no_reference, "no_reference", also=BROKEN_PAIRS),
    _fault("dpo-reference-moves", "dpo", made.reference_is_policy, "reference_moves",
           also=frozenset({"nothing_learned"})),
    _fault("dpo-reference-wrong", "dpo", made.wrong_reference, "starts_off_reference", also=BROKEN_PAIRS),
    _fault("dpo-sign", "dpo", made.opposite_loss, "margin_falls",
           also=BROKEN_PAIRS | {"learns_the_opposite"}),
    _fault("ppo-reference-moves", "ppo", made.rollouts_refer_to_policy, "kl_always_zero"),
    _fault("ppo-sign", "ppo", made.opposite_advantages, "reward_falls", "kl_explodes", also=BROKEN_POLICY),
    _fault("ppo-critic-shuffled", "ppo", made.shuffled_returns, "critic_useless"),
    _fault("ppo-critic-rate-low", "ppo", made.critic_stays, "critic_useless"),
    _fault("ppo-entropy-collapse", "ppo", made.collapsing, "entropy_collapses", "oversize_updates",
           also=BROKEN_POLICY, fades=True),
    _fault("ppo-logprobs-noisy", "ppo", made.noisy_sampler, "sampler_differs", also=BROKEN_POLICY, fades=True),
    _fault("grpo-sampler-stale", "grpo", made.stale_sampler, "sampler_differs", also=BROKEN_POLICY),
    _fault("grpo-samples-foreign", "grpo", made.foreign_samples, "kl_negative", also=BROKEN_POLICY),
    _fault("ppo-updates-many", "ppo", made.many_updates, "oversize_updates", also=BROKEN_POLICY, fades=True),
    _fault("ppo-scores-whitened", "ppo", made.whitened_scores, "reward_mean_removed",
           also=frozenset({"critic_useless", "policy_stays"})),
    # beta, and the weight of the KL
    _fault("dpo-beta-high", "dpo", made.beta(5.0), "beta_too_high", also=BROKEN_PAIRS),
    _fault("dpo-beta-low", "dpo", made.beta(0.001), "beta_too_low", "nothing_learned", also=BROKEN_PAIRS),
    _fault("ppo-kl-strong", "ppo", made.kl_weight(20.0), "policy_stays", "penalty_scale",
           also=frozenset({"critic_useless"})),
    _fault("rloo-kl-off", "rloo", made.kl_off, "kl_unbounded", "reward_hacked", also=BROKEN_POLICY),
    # the reward
    _fault("ppo-reward-hacked", "ppo", made.trap_reward, "reward_hacked", also=BROKEN_POLICY, fades=True),
    _fault("grpo-reward-length", "grpo", made.length_reward, "longer_answers", "cut_completions", "reward_hacked",
           also=BROKEN_POLICY, fades=True),
    _fault("grpo-rewards-conflict", "grpo", made.conflicting_rewards, "rewards_conflict",
           also=BROKEN_POLICY | {"reward_hacked"}),
    _fault("grpo-reward-constant", "grpo", made.constant_reward, "zero_advantage",
           also=frozenset({"policy_stays", "no_gradient"})),
    _fault("ppo-reward-times-1000", "ppo", made.reward_times(1000.0), "penalty_scale",
           also=BROKEN_POLICY | {"reward_hacked"}),
    _fault("ppo-reward-tiny", "ppo", made.reward_times(0.0003), "penalty_scale", "policy_stays",
           also=frozenset({"critic_useless"})),
    _fault("rloo-reward-short", "rloo", made.short_reward, "empty_answers", also=BROKEN_POLICY | {"reward_hacked"}),
    # sampling
    _fault("grpo-cut", "grpo", made.short_limit, "cut_completions", also=frozenset({"policy_stays"})),
    _fault("ppo-no-eos", "ppo", made.endless_start, "cut_completions", also=BROKEN_POLICY),
    # the data
    _fault("dpo-swapped", "dpo", made.swapped, "learns_the_opposite", also=BROKEN_PAIRS),
    _fault("reward-swapped", "reward", made.swapped, "learns_the_opposite", also=BROKEN_PAIRS),
    _fault("reward-labels-random", "reward", made.label_noise(0.5), "ranks_at_chance", also=BROKEN_PAIRS),
    _fault("reward-labels-noisy", "reward", made.label_noise(0.3), "labels_disagree", "ranks_at_chance",
           also=BROKEN_PAIRS, fades=True),
    _fault("dpo-labels-noisy", "dpo", made.label_noise(0.3), "labels_disagree", also=BROKEN_PAIRS, fades=True),
    _fault("kto-one-class", "kto", made.sorted_thumbs, "one_class", also=BROKEN_PAIRS),
    _fault("dpo-memorised", "dpo", made.few_rows, "memorises_epochs", "memorises_rows", "held_out_rises",
           "saturated",
           also=BROKEN_PAIRS),
    _fault("reward-overfit", "reward", made.few_rows, "held_out_rises", "memorises_epochs", "memorises_rows",
           "too_sure",
           also=BROKEN_PAIRS),
    _fault("sft-memorised", "sft", made.few_rows, "held_out_rises", "memorises_epochs", "memorises_rows",
           also=BROKEN_PAIRS),
    # scores of a reward model
    _fault("reward-too-sure", "reward", made.scaled_scores, "too_sure", "held_out_rises",
           also=BROKEN_PAIRS | {"scores_off_centre"}, fades=True),
    _fault("reward-off-centre", "reward", made.shifted_scores, "scores_off_centre", also=BROKEN_PAIRS),
    _fault("reward-centring-sign", "reward", made.wrong_centring, "scores_off_centre", also=BROKEN_PAIRS),
    # the log
    _fault("dpo-not-finite", "dpo", made.not_finite_log, "not_finite", also=frozenset({"nothing_learned"})),
    _fault("reward-two-writers", "reward", made.two_writers, "two_writers"),
    _fault("kto-crashed", "kto", made.crashed, "unfinished"),
)  # fmt: skip
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}
PAIRS: tuple[tuple[str, str], ...] = (
    ("dpo-swapped", "dpo-beta-high"),
    ("dpo-labels-noisy", "dpo-reference-wrong"),
    ("ppo-reward-hacked", "ppo-critic-shuffled"),
    ("grpo-cut", "grpo-rate-low"),
    ("reward-labels-random", "reward-off-centre"),
    ("ppo-scores-whitened", "ppo-logprobs-noisy"),
)
"""Faults that are also made two at once; both should be found."""
