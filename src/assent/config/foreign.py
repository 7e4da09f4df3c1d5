"""What the options of TRL, LLaMA-Factory, axolotl and OpenRLHF are called here, or why there is none.

One table, for unknown flags and keys, for whole files given to --config, and for `convert-config`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from assent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answer:
    """`ours`: our option, or None. `says`: how the meaning differs, or why there is none; empty if it is the same."""

    ours: str | None
    says: str = ""

    def __str__(self) -> str:
        return f"{self.ours} ({self.says})" if self.ours and self.says else self.ours or f"none: {self.says}"


_SAME = {
    "model": "model_name_or_path base_model pretrain",
    "revision": "model_revision revision_of_model",
    "split": "dataset_train_split prompt_split dataset_split",
    "eval_split": "dataset_test_split",
    "eval_data": "eval_dataset test_datasets",
    "num_train_epochs": "num_epochs",
    "learning_rate": "lr actor_learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "max_grad_norm": "max_norm",
    "output_dir": "save_path",
    "lora_alpha": "peft_lora_alpha",
    "use_dora": "peft_use_dora",
    "use_rslora": "peft_use_rslora",
    "beta": "pref_beta rl_beta dpo_beta",
    "reference": "ref_model ref_model_name_or_path ref_pretrain",
    "desirable_weight": "kto_chosen_weight kto_desirable_weight",
    "undesirable_weight": "kto_rejected_weight kto_undesirable_weight",
    "max_new_tokens": "max_completion_length response_length generate_max_len",
    "num_completions": "num_generations n_samples_per_prompt",
    "critic": "critic_pretrain value_model_path",
    "cliprange": "eps_clip",
    "cliprange_high": "epsilon_high",
    "cliprange_value": "value_clip",
    "lam": "lambd",
    "kl_target": "ppo_target",
    "eval_fraction": "val_size val_set_size",
    "load_in_4bit": "quantization_bit",
    "project": "wandb_project trackio_project",
    "reference_sync_steps": "ref_model_sync_steps",
    "reference_mixup_alpha": "ref_model_mixup_alpha",
    "hyperparameters.label_smoothing": "label_smoothing dpo_label_smoothing",
    "hyperparameters.simpo_gamma": "simpo_gamma",
}
"""Ours: theirs, of the same meaning."""

_CHANGED = (
    # theirs, ours, what to say
    ("sft_model_path", "model", "the policy to train, and its own reference"),
    ("lora_rank r peft_lora_r", "lora_r", ""),
    ("lora_target target_modules peft_target_modules", "lora_target_modules", "all: leave it out"),
    ("lora_target_linear", "lora_target_modules", "leave it out: all linear layers are the default"),
    ("per_device_train_batch_size micro_batch_size", "batch_size", "rows per update over all processes: theirs times "
     "accumulation times devices"),
    ("micro_train_batch_size micro_rollout_batch_size", "micro_batch_tokens", "chosen for the device; "
     "it changes memory and speed, never the result"),
    ("train_batch_size global_batch_size", "batch_size", "rows per update; in ppo and grpo prompts per round"),
    ("rollout_batch_size", "batch_size", "prompts per round"),
    ("gradient_accumulation_steps", "batch_size", "counts the rows of a whole update; memory follows from "
     "micro_batch_tokens"),
    ("max_epochs", "num_train_epochs", "in ppo: num_ppo_epochs, passes over a round"),
    ("ppo_buffer_size", "num_mini_batches", "updates in each pass over a round; batch_size counts the whole round"),
    ("num_episodes total_episodes episodes", "total_steps", "rounds: episodes divided by batch_size * num_completions"),
    ("cutoff_len sequence_len max_len max_seq_length model_max_length", "max_length", "prompt and completion together"),
    ("max_prompt_length prompt_max_len", "max_length", "one limit for prompt and completion together"),
    ("dataset dataset_name datasets dataset_path train_dataset prompt_data train_data", "data", "a file, a folder or "
     "a hub name; names of a dataset_info.json are not known here"),
    ("warmup_steps", "warmup_ratio", "a share of all steps"),
    ("warmup lr_warmup_ratio lr_warmup_steps", "warmup_ratio", "a share of all steps"),
    ("use_peft adapter finetuning_type peft_type", "lora_r", "a rank above 0 trains an adapter (lora), 0 all weights "
     "(full)"),
    ("bf16", "mixed_precision", "bf16; the weights' own type is dtype"),
    ("torch_dtype model_dtype data_type param_dtype", "dtype", "float32 or bfloat16"),
    ("use_cpu no_cuda", "device", "cpu"),
    ("optimizer", "optim", "adamw or adamw_8bit"),
    ("adam_betas", "adam_beta1", "and adam_beta2"),
    ("pref_loss dpo_loss_type", "loss_type", "docs/papers.md lists the losses"),
    ("ipo", "loss_type", "loss_type ipo"),
    ("pref_ftx rpo_alpha dpo_use_weighting nll_loss_coef", "losses", "a sum of losses, as [sigmoid, {name: sft, "
     "weight: 1}]"),
    ("reward_model reward_model_path reward_model_name_or_path reward_pretrain remote_rm_url reward_funcs", "reward",
     "a reward model's folder, module:function of (prompts, completions), a rule or an address"),
    ("reward_weights", "reward", "a list of sources, each with its weight: [{reward: …, weight: …}]"),
    ("init_kl_coef kl_beta kl_loss_coef", "kl_coef", "kl_penalty says where it applies"),
    ("epsilon", "cliprange", ""),
    ("normalize_reward ppo_score_norm", "scale_scores", "divides by the running standard deviation; a reward model is "
     "centred by normalize_rewards"),
    ("apply_chat_template", "chat_template", "always applied to lists of messages, never to plain text"),
    ("num_iterations ppo_epochs", "num_ppo_epochs", "passes over a round"),
    ("use_vllm vllm", "sampler", "vllm"),
    ("advantage_estimator", "reward", "each estimator is a command: ppo (gae), grpo (group_norm), rloo, a2c"),
    ("eval_strategy evaluation_strategy do_eval evals_per_epoch", "eval_steps", "steps between measurements; 0: "
     "only at the end"),
    ("load_best_model_at_end", "metric_for_best_model", "the best model becomes the result"),
    ("use_wandb wandb use_tensorboard swanlab", "report_to", "wandb, tensorboard, mlflow or trackio"),
    ("run_name wandb_run_name wandb_name", "output_dir", "a tracked run is named after its folder"),
    ("template chat_template_path chat_template_name", "chat_template", "the model's own, unless one is given: "
     "chatml, or a file with a Jinja template"),
    ("default_system system_prompt", "data", "a column `system`, or a system message in each row"),
    ("mask_history train_on_last_turn", "train_on", "last"),
    ("train_on_inputs train_on_prompt completion_only_loss assistant_only_loss train_on_responses_only", "train_on",
     "the loss is on completions alone, on every assistant turn (all) or the last one"),
    ("chosen_key rejected_key prompt_key input_key output_key label_key columns_mapping field_messages field_chosen "
     "field_rejected field_instruction field_output dataset_text_field", "columns", "THEIRS=OURS: question=prompt"),
    ("load_in_8bit", "load_in_4bit", "weights are held in 4 bits or not at all"),
    ("overwrite_output_dir load_checkpoint resume_from_checkpoint ckpt_path", "resume", "the same command resumes; "
     "another run needs another output_dir"),
    ("save_total max_ckpt_num", "save_total_limit", "at least 2"),
    ("saves_per_epoch save_strategy", "save_steps", "steps between checkpoints"),
    ("seed_everything data_seed", "seed", "one seed for order and sampling"),
    ("disable_gradient_checkpointing", "gradient_checkpointing", "the opposite"),
    ("group_by_length shuffle_dataset", "shuffle", "rows are packed without padding, so their lengths do not matter"),
)  # fmt: skip
"""Theirs, ours, and how it differs."""

_NONE = {
    "every step is logged, and assent report draws it": "logging_steps logging_strategy logging_first_step log_level "
    "log_completions plot_loss include_num_input_tokens_seen num_completions_to_print num_sample_generations",
    "rows are always packed without padding, and a step's result does not depend on it": "packing sample_packing "
    "packing_samples padding_free neat_packing pad_to_sequence_len eval_sample_packing packing_strategy "
    "padding_value pad_token eval_packing use_dynamic_batch",
    "dropout is off everywhere": "lora_dropout peft_lora_dropout dropout attention_dropout neftune_noise_alpha",
    "how attention is computed is chosen and checked when a model is loaded": "attn_implementation flash_attention "
    "flash_attn xformers_attention sdp_attention s2_attention eager_attention use_liger_kernel liger_kernel unsloth "
    "use_unsloth torch_compile use_unsloth_gc enable_liger_kernel",
    "torchrun starts the processes, and sharding shard cuts the weights (FSDP2)": "deepspeed fsdp fsdp_config "
    "zero_stage adam_offload ref_offload overlap_comm ds3_gather_for_generation zpg grad_accum_dtype offload "
    "ring_attn_size sequence_parallel_size tensor_parallel_size colocate_all_models deepspeed_enable_sleep "
    "enforce_eager ds_config ring_head_stride inference_tp_size colocate_actor_ref colocate_critic_reward sp_size",
    "float16 is not supported: mixed_precision bf16, or float32": "fp16 float16 fp32 fp8",
    "no code of a model's folder ever runs": "trust_remote_code",
    "a model is a folder: upload it with hf upload": "push_to_hub",
    "evaluation uses the memory budget of training": "per_device_eval_batch_size eval_batch_size "
    "eval_accumulation_steps",
    "rows are read as they come: cut the file, or give max_steps": "max_samples max_train_samples max_eval_samples "
    "max_count dataset_probs mix_strategy interleave_probs dataset_mixer dataset_mixture",
    "one pass over the data, with nothing prepared beforehand": "preprocessing_num_workers dataset_num_proc num_proc "
    "overwrite_cache dataset_prepared_path remove_unused_columns streaming dataset_dir cache_dir dataset_processes "
    "dataset_exact_deduplication tokenized_path preprocessing_batch_size shuffle_merged_datasets skip_prepare_dataset",
    "training samples from the policy itself, which only temperature changes": "top_p top_k min_p repetition_penalty",
    "the model's config.json and its own tokenizer decide": "model_type tokenizer_type special_tokens tokenizer_config "
    "is_llama_derived_model tokenizer_name tokenizer_name_or_path use_fast_tokenizer disable_fast_tokenizer "
    "resize_vocab rope_scaling add_tokens tokenizer_use_fast",
    "give the adapter's folder as model": "adapter_name_or_path lora_model_dir peft_path checkpoint_dir",
    "only text is trained on": "image_max_pixels video_max_pixels freeze_vision_tower",
    "the command says it: sft, reward, dpo, kto, ppo, grpo": "stage rl",
    "a training command trains": "do_train do_predict predict_with_generate",
    "the whole model is saved, as an ordinary folder": "save_only_model save_safetensors save_hf_ckpt "
    "save_value_network disable_ds_ckpt",
    "there is nothing like it here": "strict debug local_rank tf32 use_cce ddp_timeout gradient_checkpointing_kwargs "
    "lora_fan_in_fan_out lr_scheduler_kwargs quantization_method double_quantization additional_target "
    "bnb_4bit_quant_type use_bnb_nested_quant precompute_ref_log_probs generate_during_eval load_in_mxfp4 "
    "weight_tying full_determinism reward_model_type ref_model_adapters bnb_4bit_compute_dtype env eval_table_size "
    "eval_table_max_new_tokens roles message_field_role message_field_content train_on_eos type_of_dataset "
    "local_rollout_forward_batch_size stop_token whiten_rewards value_head_prefix enable_ema l2 aux_loss_coef "
    "ppo_whiten_rewards ld_alpha pref_bco_weight multi_objective_aggregation train_max_tokens_per_gpu "
    "enable_vllm_is_correction",
}
"""Why there is none: theirs."""

_PREFIXES = {
    "vllm_": "sampler vllm sets up its engine itself",
    "wandb_": "report_to wandb and project",
    "hub_": "a model is a folder: upload it with hf upload",
    "logging_": "every step is logged",
    "dataloader_": "rows are read in this process",
    "ddp_": "torchrun starts the processes",
    "fsdp": "torchrun starts the processes, and sharding shard cuts the weights (FSDP2)",
    "deepspeed": "torchrun starts the processes, and sharding shard cuts the weights (FSDP2)",
    "ray_": "no training command runs on Ray",
    "actor_num_": "no command places models on nodes: torchrun starts the processes",
    "critic_num_": "no command places models on nodes: torchrun starts the processes",
    "ref_num_": "no command places models on nodes: torchrun starts the processes",
    "reward_num_": "no command places models on nodes: torchrun starts the processes",
    "bnb_4bit_": "load_in_4bit is NF4",
}

FOREIGN: dict[str, Answer] = {
    **{theirs: Answer(None, why) for why, names in _NONE.items() for theirs in names.split()},
    **{theirs: Answer(ours) for ours, names in _SAME.items() for theirs in names.split()},
    **{theirs: Answer(ours, says) for names, ours, says in _CHANGED for theirs in names.split()},
}
"""Their names, and the answers."""

OURS_TOO = frozenset({"adapter", "reward_model", "top_k", "top_p"})
"""Names in the table that some other command of ours has as options."""

LOSSES = {"dpo": "sigmoid", "cdpo": "sigmoid", "kto_pair": "apo_zero", "sigmoid_dpo": "sigmoid", "bco": "bco_pair",
          "apo": "apo_zero", "apo-zero": "apo_zero", "apo-down": "apo_down", "dpo_sigmoid": "sigmoid"}  # fmt: skip
"""Their names of losses, and ours."""


def answer(name: str) -> Answer | None:
    """The answer for an option's name, with dashes or underscores; None for a name that no trainer has."""
    plain = name.lstrip("-").replace("-", "_").removeprefix("no_")
    if plain in FOREIGN:
        return FOREIGN[plain]
    return next((Answer(None, why) for start, why in _PREFIXES.items() if plain.startswith(start)), None)


def foreign_error(names: Iterable[str], *, where: str = "", file: str | None = None) -> ConfigError | None:
    """One error for all unknown names, in which those of other trainers are answered; None where there are none.

    file    the file that they are in, which may be converted
    """
    names = list(names)
    answers = {name: answer(name) for name in names}
    if not any(answers.values()):
        return None
    width = max(len(name) for name in names)
    lines = [f"  {name:<{width}}  {found or 'unknown'}" for name, found in answers.items()]
    known = [name for name, found in answers.items() if found]
    one = len(names) == 1
    return ConfigError(
        f"option{'' if one else 's'} of another trainer{where}: theirs, then ours\n" + "\n".join(lines),
        fix=f"assent convert-config {file} writes the whole file in our names"
        if file is not None
        else f"use our name{'' if len(known) == 1 else 's'}; assent convert-config FILE converts a whole configuration",
    )
