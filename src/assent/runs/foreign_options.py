"""Options of other trainers: which of ours they mean, and what ours are called there.

One table for both ways. Names are those of TRL 1.16 with transformers 5, LLaMA-Factory, OpenRLHF (its dotted flags, and
the older ones), verl 0.9 and NeMo-RL, as their sources and documentation write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BETA_OF_KL = frozenset({"grpo", "rloo"})
"""Stages whose `beta` elsewhere is our kl_coef."""

# trainer | stages (all: every one) | ours | theirs, in use first; older names after it | what to add for people
_TABLE = """
trl | all | learning_rate | learning_rate
trl | sft reward dpo kto | num_train_epochs | num_train_epochs
trl | sft reward dpo kto | max_steps | max_steps
trl | all | output_dir | output_dir
trl | all | eval_steps | eval_steps
trl | all | warmup_ratio | warmup_steps warmup_ratio | a share, where it is below 1
trl | all | metric_for_best_model | metric_for_best_model | with load_best_model_at_end
trl | all | max_length | max_length
trl | dpo kto | beta | beta
trl | dpo | loss_type | loss_type
trl | dpo | losses | loss_type rpo_alpha | [sigmoid, sft], with loss_weights [1, 0.1]
trl | dpo | label_smoothing | label_smoothing | read by loss_type robust and exo_pair alone
trl | dpo kto | reference | ref_model ref_model_name_or_path
trl | kto | desirable_weight | desirable_weight
trl | kto | undesirable_weight | undesirable_weight
trl | reward | center_rewards_coefficient | center_rewards_coefficient
trl | grpo rloo | kl_coef | beta
trl | online-dpo | beta | beta
trl | ppo | kl_coef | kl_coef init_kl_coef
trl | grpo rloo | num_ppo_epochs | num_iterations
trl | ppo | num_ppo_epochs | num_ppo_epochs ppo_epochs
trl | grpo rloo | num_completions | num_generations
trl | grpo rloo | max_new_tokens | max_completion_length
trl | ppo | max_new_tokens | response_length
trl | online-dpo | max_new_tokens | max_new_tokens
trl | ppo grpo rloo online-dpo | temperature | temperature
trl | ppo online-dpo | missing_eos_penalty | missing_eos_penalty
trl | grpo | cliprange_high | epsilon_high
trl | grpo rloo | shuffle | shuffle_dataset
trl | ppo grpo rloo online-dpo | reward | reward_funcs | with reward_weights
trl | ppo | critic | value_model

llama-factory | all | learning_rate | learning_rate
llama-factory | sft reward dpo kto | num_train_epochs | num_train_epochs
llama-factory | sft reward dpo kto | max_steps | max_steps
llama-factory | all | output_dir | output_dir
llama-factory | all | eval_steps | eval_steps
llama-factory | all | warmup_ratio | warmup_ratio
llama-factory | all | metric_for_best_model | metric_for_best_model | with load_best_model_at_end
llama-factory | all | max_length | cutoff_len
llama-factory | dpo kto | beta | pref_beta
llama-factory | dpo | loss_type | pref_loss
llama-factory | dpo kto | losses | pref_ftx | 0.1, the weight of the chosen answer's likelihood
llama-factory | dpo | label_smoothing | dpo_label_smoothing
llama-factory | dpo kto | reference | ref_model
llama-factory | kto | desirable_weight | kto_chosen_weight
llama-factory | kto | undesirable_weight | kto_rejected_weight
llama-factory | ppo | kl_target | ppo_target
llama-factory | ppo | num_ppo_epochs | ppo_epochs
llama-factory | ppo | scale_scores | ppo_score_norm
llama-factory | ppo | max_new_tokens | max_new_tokens
llama-factory | ppo | temperature | temperature
llama-factory | ppo | reward | reward_model

openrlhf | sft reward dpo kto | learning_rate | adam.lr learning_rate
openrlhf | ppo a2c grpo rloo | learning_rate | actor.adam.lr actor_learning_rate
openrlhf | ppo a2c | critic_learning_rate | critic.adam.lr critic_learning_rate
openrlhf | sft reward dpo kto | num_train_epochs | train.max_epochs max_epochs
openrlhf | ppo a2c grpo rloo | num_ppo_epochs | train.max_epochs max_epochs
openrlhf | all | output_dir | ckpt.output_dir save_path
openrlhf | all | eval_steps | eval.steps eval_steps
openrlhf | all | metric_for_best_model | ckpt.best_metric_key best_metric_key
openrlhf | all | max_length | data.max_len max_len
openrlhf | sft reward dpo kto | warmup_ratio | lr_warmup_ratio
openrlhf | ppo a2c grpo rloo | warmup_ratio | actor.lr_warmup_ratio lr_warmup_ratio
openrlhf | dpo | beta | model.beta beta
openrlhf | dpo | label_smoothing | model.label_smoothing label_smoothing
openrlhf | dpo | losses | model.nll_loss_coef nll_loss_coef | 0.1, the weight of the chosen answer's likelihood
openrlhf | dpo | reference | ref.model_name_or_path ref_pretrain
openrlhf | ppo a2c grpo rloo | kl_coef | algo.kl.init_coef init_kl_coef
openrlhf | ppo a2c grpo rloo | kl_target | algo.kl.target kl_target
openrlhf | ppo a2c grpo rloo | num_completions | rollout.n_samples_per_prompt n_samples_per_prompt
openrlhf | ppo a2c grpo rloo | max_new_tokens | rollout.max_new_tokens generate_max_len
openrlhf | ppo a2c grpo rloo | temperature | rollout.temperature temperature
openrlhf | ppo a2c grpo rloo | entropy_coef | actor.entropy_coef entropy_loss_coef
openrlhf | ppo a2c grpo rloo | cliprange_high | actor.eps_clip_low_high eps_clip_low_high | the second of its two
openrlhf | ppo a2c grpo rloo | scale_scores | reward.normalize_enable normalize_reward
openrlhf | ppo a2c | critic_warmup_steps | critic.freezing_steps freezing_actor_steps
openrlhf | ppo a2c | critic | critic.model_name_or_path critic_pretrain
openrlhf | ppo a2c grpo rloo | reward | reward.model_name_or_path reward_pretrain

verl | ppo a2c grpo rloo | learning_rate | actor_rollout_ref.actor.optim.lr
verl | ppo a2c | critic_learning_rate | critic.optim.lr
verl | all | output_dir | trainer.default_local_dir
verl | all | eval_steps | trainer.test_freq
verl | ppo a2c grpo rloo | warmup_ratio | actor_rollout_ref.actor.optim.lr_warmup_steps_ratio
verl | ppo a2c grpo rloo | num_ppo_epochs | actor_rollout_ref.actor.ppo_epochs
verl | ppo a2c grpo rloo | num_completions | actor_rollout_ref.rollout.n
verl | ppo a2c grpo rloo | max_new_tokens | data.max_response_length
verl | ppo a2c grpo rloo | temperature | actor_rollout_ref.rollout.temperature
verl | ppo a2c grpo rloo | entropy_coef | actor_rollout_ref.actor.entropy_coeff
verl | ppo a2c grpo rloo | cliprange_high | actor_rollout_ref.actor.clip_ratio_high
verl | ppo a2c grpo rloo | kl_target | algorithm.kl_ctrl.target_kl | with algorithm.kl_ctrl.type adaptive
verl | ppo a2c grpo rloo | importance_sampling_cap | algorithm.rollout_correction.rollout_is_threshold
verl | ppo a2c grpo rloo | shuffle | data.shuffle
verl | ppo a2c | critic_warmup_steps | trainer.critic_warmup
verl | ppo a2c | critic | critic.model.path

nemo-rl | all | learning_rate | policy.optimizer.kwargs.lr
nemo-rl | sft | num_train_epochs | sft.max_num_epochs
nemo-rl | dpo | num_train_epochs | dpo.max_num_epochs
nemo-rl | dpo | max_steps | dpo.max_num_steps
nemo-rl | dpo | beta | dpo.reference_policy_kl_penalty
nemo-rl | dpo | losses | dpo.sft_loss_weight | 0.1, the weight of the chosen answer's likelihood
nemo-rl | all | output_dir | checkpointing.checkpoint_dir
nemo-rl | all | metric_for_best_model | checkpointing.metric_name
nemo-rl | all | max_length | policy.max_total_sequence_length
nemo-rl | grpo rloo | kl_coef | loss_fn.reference_policy_kl_penalty
nemo-rl | grpo rloo | num_completions | grpo.num_generations_per_prompt
nemo-rl | grpo rloo | max_new_tokens | policy.generation.max_new_tokens
nemo-rl | grpo rloo | temperature | policy.generation.temperature
nemo-rl | grpo rloo | cliprange_high | loss_fn.ratio_clip_max
nemo-rl | all | shuffle | data.shuffle
"""

WRITTEN_OTHERWISE = frozenset({"losses", "reward", "reference", "critic", "warmup_ratio", "cliprange_high"})
"""Ours whose values are not theirs."""
CALLED = {"trl": "TRL", "llama-factory": "LLaMA-Factory", "openrlhf": "OpenRLHF", "verl": "verl", "nemo-rl": "NeMo-RL"}
Row = tuple[str, frozenset[str] | None, str, tuple[str, ...], str]


def _parsed() -> tuple[Row, ...]:
    rows: list[Row] = []
    for line in filter(None, _TABLE.splitlines()):
        trainer, stages, ours, theirs, note = (*(part.strip() for part in line.split(" | ")), "")[:5]
        rows.append(
            (trainer, None if stages == "all" else frozenset(stages.split()), ours, tuple(theirs.split()), note)
        )
    return tuple(rows)


ROWS = _parsed()
OURS = frozenset(ours for _, _, ours, *_ in ROWS if "_" in ours) | {"beta"}
"""Our options that a text may name without dashes."""
ELSEWHERE = {
    "dpo_beta": "beta",
    "dpo_loss": "loss_type",
    "max_grad_norm": "max_grad_norm",
    "num_epochs": "num_train_epochs",
    "num_generations": "num_completions",
    "max_completion_length": "max_new_tokens",
    "pref_beta": "beta",
    "pref_loss": "loss_type",
}
"""Names that mean ours whoever's they are: model cards, older trainers."""
VERL_ACTOR = "actor_rollout_ref.actor."
VERL_KL = {
    "algorithm.use_kl_in_reward": "algorithm.kl_ctrl.kl_coef",
    f"{VERL_ACTOR}use_kl_loss": f"{VERL_ACTOR}kl_loss_coef",
}
"""Switches of verl, both off by default, and the weight that each of them puts to use."""


def their_name(ours: str, source: str, stage: str | None) -> str | None:
    """What an option is called in the other trainer, with what has to be added; None where none is known. An option
    that is the same in both is its own name."""
    if source == "verl" and ours == "kl_coef":
        in_reward, in_loss = VERL_KL.values()
        return f"{in_reward} (with use_kl_in_reward) or {in_loss} (with use_kl_loss)"
    for trainer, stages, option, names, note in ROWS:
        if (trainer, option) == (source, ours) and (stages is None or stage is None or stage in stages):
            if names[0] == ours:
                return f"as here, {note}" if note else ours
            older = f" (older: {', '.join(names[1:])})" if names[1:] and names[1:] != (ours,) else ""
            return names[0] + older + (f", {note}" if note else "")
    return None


def our_options(options: Mapping[str, Any], stage: str | None = None, source: str | None = None) -> dict[str, Any]:
    """Another trainer's options under our names, where they have one here; nested ones are named with dots."""
    ours = {ELSEWHERE.get(name, name): value for name, value in options.items()}
    flat = dict(_flat(options))
    for trainer, stages, option, names, _ in ROWS:
        if source is not None and trainer == source and (stages is None or stage in stages):
            found = [flat[name] for name in names if flat.get(name) is not None]
            if found and option not in WRITTEN_OTHERWISE:
                ours[option] = found[0]
    if stage in BETA_OF_KL and "beta" in ours:
        ours.setdefault("kl_coef", ours.pop("beta"))
    if source == "verl" and any(switch in flat for switch in VERL_KL):
        weights = [flat.get(weight) for switch, weight in VERL_KL.items() if flat.get(switch) is True]
        ours["kl_coef"] = weights[0] if weights else 0.0
    if "sync_ref_model" in flat:
        ours["reference_sync_steps"] = flat.get("ref_model_sync_steps", 512) if flat["sync_ref_model"] is True else 0
    return ours


def _flat(options: Mapping[str, Any], start: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping) and name != "hyperparameters":
            yield from _flat(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
