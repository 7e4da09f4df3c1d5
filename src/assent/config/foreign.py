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
    "model": "model_name_or_path base_model pretrain model_name",
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
    "beta": "pref_beta rl_beta dpo_beta orpo_alpha",
    "reference": "ref_model ref_model_name_or_path ref_pretrain",
    "desirable_weight": "kto_chosen_weight kto_desirable_weight desirable_loss_weight",
    "undesirable_weight": "kto_rejected_weight kto_undesirable_weight undesirable_loss_weight",
    "max_new_tokens": "max_completion_length response_length generate_max_len",
    "num_completions": "num_generations n_samples_per_prompt",
    "critic": "critic_pretrain value_model_path",
    "cliprange": "eps_clip",
    "cliprange_high": "epsilon_high",
    "cliprange_value": "value_clip",
    "lam": "lambd",
    "dual_clip": "delta",
    "entropy_coef": "entropy_loss_coef",
    "scale_scores": "use_score_scaling",
    "router_aux_loss_coef": "aux_loss_coef moe_aux_loss_coef",
    "kl_target": "ppo_target",
    "eval_fraction": "val_size val_set_size",
    "load_in_4bit": "quantization_bit",
    "project": "wandb_project trackio_project tracker_project_name",
    "reference_sync_steps": "ref_model_sync_steps",
    "reference_mixup_alpha": "ref_model_mixup_alpha",
    "hyperparameters.label_smoothing": "label_smoothing dpo_label_smoothing",
    "hyperparameters.simpo_gamma": "simpo_gamma",
    "hyperparameters.cpo_alpha": "cpo_alpha",
    "hyperparameters.discopop_tau": "discopop_tau",
    "hyperparameters.f_divergence_type": "f_divergence_type",
}
"""Ours: theirs, of the same meaning."""

_CHANGED = (
    # theirs, ours, what to say
    ("sft_model_path", "model", "the policy to train, and its own reference"),
    ("lora_rank r peft_lora_r", "lora_r", ""),
    ("lora_target target_modules peft_target_modules", "lora_target_modules", "all: leave it out"),
    ("lora_target_linear", "lora_target_modules", "leave it out: all linear layers are the default"),
    ("per_device_train_batch_size micro_batch_size per_gpu_train_batch_size", "batch_size", "rows per update over all "
     "processes: theirs times accumulation times devices"),
    ("micro_train_batch_size micro_rollout_batch_size forward_batch_size auto_find_batch_size", "micro_batch_tokens",
     "chosen for the device; it changes memory and speed, never the result"),
    ("train_batch_size global_batch_size", "batch_size", "rows per update; in ppo and grpo prompts per round"),
    ("rollout_batch_size generation_batch_size", "batch_size", "prompts per round"),
    ("gradient_accumulation_steps", "batch_size", "counts the rows of a whole update; memory follows from "
     "micro_batch_tokens"),
    ("max_epochs", "num_train_epochs", "in ppo: num_ppo_epochs, passes over a round"),
    ("ppo_buffer_size mini_batch_size steps_per_generation", "num_mini_batches", "updates in each pass over a round; "
     "batch_size counts the whole round"),
    ("num_episodes total_episodes episodes", "total_steps", "rounds: episodes divided by batch_size * num_completions"),
    ("cutoff_len sequence_len max_len max_seq_length model_max_length", "max_length", "prompt and completion together"),
    ("max_prompt_length prompt_max_len", "max_length", "one limit for prompt and completion together"),
    ("dataset dataset_name datasets dataset_path train_dataset prompt_data train_data", "data", "a file, a folder or "
     "a hub name; names of a dataset_info.json are not known here"),
    ("dataset_config dataset_config_name", "data", "NAME:SUBSET"),
    ("tools", "data", "a column `tools`"),
    ("truncation_mode", "max_length", "a conversation loses its oldest turns, then the completion its end"),
    ("warmup_steps", "warmup_ratio", "a share of all steps"),
    ("warmup lr_warmup_ratio lr_warmup_steps", "warmup_ratio", "a share of all steps"),
    ("use_peft adapter finetuning_type peft_type", "lora_r", "a rank above 0 trains an adapter (lora), 0 all weights "
     "(full)"),
    ("bf16", "mixed_precision", "bf16; the weights' own type is dtype"),
    ("pure_bf16", "dtype", "bfloat16; master_weights keeps float32 copies in the optimiser"),
    ("torch_dtype model_dtype data_type param_dtype", "dtype", "float32 or bfloat16"),
    ("use_cpu no_cuda", "device", "cpu"),
    ("use_mps_device", "device", "mps"),
    ("device_map", "device", "one device for each process"),
    ("optimizer optim_args use_galore use_apollo use_badam use_adam_mini use_muon adafactor", "optim", "adamw or "
     "adamw_8bit"),
    ("adam_betas", "adam_beta1", "and adam_beta2"),
    ("pref_loss dpo_loss_type", "loss_type", "docs/papers.md lists the losses"),
    ("ipo", "loss_type", "loss_type ipo"),
    ("reference_free", "loss_type", "a loss that takes no reference: orpo, simpo or cpo"),
    ("f_alpha_divergence_coef", "hyperparameters", "f_alpha_divergence_coef; TRL computes with 1 minus it"),
    ("sync_ref_model", "reference_sync_steps", "every so many steps; 0: never"),
    ("force_use_ref_model", "reference", "one that is named is used, with an adapter too"),
    ("ref_model_adapters ref_adapter_name", "reference", "the adapter's folder, which names its base"),
    ("reward_model_adapters", "reward", "the adapter's folder, which names its base"),
    ("margin_loss", "data", "a column `margin` is read, if there is one"),
    ("pref_ftx rpo_alpha nll_loss_coef loss_weights", "losses", "a sum of losses, as [sigmoid, {name: sft, "
     "weight: 1}]"),
    ("reward_model reward_model_path reward_model_name_or_path reward_pretrain remote_rm_url reward_funcs", "reward",
     "a reward model's folder, module:function of (prompts, completions), a rule or an address"),
    ("reward_weights", "reward", "a list of sources, each with its weight: [{reward: …, weight: …}]"),
    ("init_kl_coef kl_beta kl_loss_coef", "kl_coef", "kl_penalty says where it applies"),
    ("kl_estimator use_kl_loss", "kl_penalty", "reward (k1), or in the loss: k2, k3, k3+"),
    ("adap_kl_ctrl", "kl_target", "the KL to keep to; without it kl_coef stays as it is"),
    ("ratio_threshold", "target_kl", "ends a round's updates where the policy is farther away"),
    ("freezing_actor_steps", "critic_warmup_steps", "rounds in which only the critic learns"),
    ("eps_clip_low_high", "cliprange", "and cliprange_high"),
    ("no_advantage_std_norm", "whiten_advantages", "in grpo: scale_rewards none"),
    ("epsilon", "cliprange", ""),
    ("normalize_reward ppo_score_norm use_score_norm", "scale_scores", "divides by the running standard deviation; a "
     "reward model is centred by normalize_rewards"),
    ("apply_chat_template", "chat_template", "always applied to lists of messages, never to plain text"),
    ("num_iterations ppo_epochs", "num_ppo_epochs", "passes over a round"),
    ("use_vllm vllm", "sampler", "vllm"),
    ("advantage_estimator", "reward", "each estimator is a command: ppo (gae), grpo (group_norm), rloo, a2c"),
    ("eval_strategy evaluation_strategy do_eval evals_per_epoch", "eval_steps", "steps between measurements; 0: "
     "only at the end"),
    ("eval_on_start eval_delay", "eval_steps", "with it, the start is measured too"),
    ("early_stopping early_stopping_steps", "early_stopping_patience", "measurements without an improvement of "
     "metric_for_best_model; in ppo, target_kl ends a round's updates"),
    ("eval_table_max_new_tokens", "eval_max_new_tokens", "with eval_prompts"),
    ("generate_during_eval eval_table_size", "eval_prompts", "number of held-out prompts to answer at each "
     "measurement"),
    ("load_best_model_at_end", "metric_for_best_model", "the best model becomes the result"),
    ("use_wandb wandb use_tensorboard swanlab use_swanlab use_comet log_with", "report_to", "wandb, tensorboard, "
     "mlflow or trackio"),
    ("run_name wandb_run_name wandb_name exp_name task_name", "output_dir", "a tracked run is named after its folder"),
    ("template chat_template_path chat_template_name tokenizer_chat_template chat_template_jinja", "chat_template",
     "the model's own, unless one is given: chatml, or a file with a Jinja template"),
    ("enable_thinking", "chat_template_kwargs", "--chat-template-kwargs.enable_thinking VALUE"),
    ("default_system default_system_message system_prompt", "data",
     "a column `system`, or a system message in each row"),
    ("mask_history train_on_last_turn", "train_on", "last"),
    ("multiturn", "train_on", "all: every assistant turn"),
    ("train_on_inputs train_on_prompt completion_only_loss assistant_only_loss train_on_responses_only "
     "roles_to_train", "train_on",
     "the loss is on completions alone, on every assistant turn (all) or the last one"),
    ("chosen_key rejected_key prompt_key input_key output_key label_key columns_mapping field_messages field_chosen "
     "field_rejected field_instruction field_output dataset_text_field", "columns", "THEIRS=OURS: question=prompt"),
    ("load_in_8bit", "load_in_4bit", "weights are held in 4 bits or not at all"),
    ("overwrite_output_dir load_checkpoint resume_from_checkpoint ckpt_path auto_resume_from_checkpoints", "resume",
     "the same command resumes; another run needs another output_dir"),
    ("save_total max_ckpt_num", "save_total_limit", "at least 2"),
    ("saves_per_epoch save_strategy", "save_steps", "steps between checkpoints"),
    ("seed_everything data_seed", "seed", "one seed for order and sampling"),
    ("disable_gradient_checkpointing", "gradient_checkpointing", "the opposite"),
    ("activation_offloading", "gradient_checkpointing", "activations are computed again, not moved"),
    ("disable_shuffling", "shuffle", "the opposite"),
    ("do_sample", "greedy", "the opposite, in sample; training samples"),
    ("group_by_length shuffle_dataset train_sampling_strategy length_column_name", "shuffle",
     "rows are packed without padding, so their lengths do not matter"),
)  # fmt: skip
"""Theirs, ours, and how it differs."""

_NONE = {
    "every step is logged, and assent report draws it": "logging_steps logging_strategy logging_first_step log_level "
    "log_completions plot_loss include_num_input_tokens_seen num_completions_to_print num_sample_generations "
    "log_level_replica log_on_each_node log_unique_prompts include_tokens_per_second disable_tqdm "
    "include_effective_tokens_per_second",
    "rows are always packed without padding, and a step's result does not depend on it": "packing sample_packing "
    "packing_samples padding_free neat_packing pad_to_sequence_len eval_sample_packing packing_strategy "
    "padding_value pad_token eval_packing use_dynamic_batch pad_to_multiple_of label_pad_token_id packing_method "
    "ignore_pad_token_for_loss sample_packing_eff_est average_tokens_across_devices dpo_padding_free "
    "rollout_max_tokens_per_gpu",
    "dropout is off everywhere": "lora_dropout peft_lora_dropout dropout attention_dropout neftune_noise_alpha "
    "disable_dropout module_dropout",
    "how attention is computed is chosen and checked when a model is loaded": "attn_implementation flash_attention "
    "flash_attn xformers_attention sdp_attention s2_attention eager_attention use_liger_kernel liger_kernel unsloth "
    "use_unsloth torch_compile use_unsloth_gc enable_liger_kernel use_liger use_liger_loss liger_kernel_config "
    "use_flash_attention_2 shift_attn flex_attention torch_compile_backend torch_compile_mode torchdynamo "
    "flash_optimum lora_mlp_kernel lora_qkv_kernel lora_o_kernel cut_cross_entropy use_ipex jit_mode_eval",
    "logits are computed for completions alone, in pieces": "use_logits_to_keep dpo_use_logits_to_keep",
    "torchrun starts the processes, and sharding shard cuts the weights (FSDP2)": "deepspeed fsdp fsdp_config "
    "zero_stage adam_offload ref_offload overlap_comm ds3_gather_for_generation zpg grad_accum_dtype offload "
    "ring_attn_size sequence_parallel_size tensor_parallel_size colocate_all_models deepspeed_enable_sleep "
    "enforce_eager ds_config ring_head_stride inference_tp_size colocate_actor_ref colocate_critic_reward sp_size "
    "accelerator_config parallelism_config sequence_parallel_degree context_parallel_size dp_shard_size world_size "
    "tpu_num_cores deepcompile",
    "float16 is not supported: mixed_precision bf16, or float32": "fp16 float16 fp32 fp8 fp16_opt_level "
    "half_precision_backend bf16_full_eval fp16_full_eval",
    "no code of a model's folder ever runs": "trust_remote_code model_code_revision",
    "a model is a folder: upload it with hf upload": "push_to_hub push_dataset_to_hub",
    "log in with hf auth login": "hf_hub_token ms_hub_token om_hub_token use_ms",
    "evaluation uses the memory budget of training": "per_device_eval_batch_size eval_batch_size "
    "eval_accumulation_steps",
    "rows are read as they come: cut the file, or give max_steps": "max_samples max_train_samples max_eval_samples "
    "max_count dataset_probs mix_strategy interleave_probs dataset_mixer dataset_mixture dataset_shard_num "
    "num_of_sequences",
    "one pass over the data, with nothing prepared beforehand": "preprocessing_num_workers dataset_num_proc num_proc "
    "overwrite_cache dataset_prepared_path remove_unused_columns streaming dataset_dir cache_dir dataset_processes "
    "dataset_exact_deduplication tokenized_path preprocessing_batch_size shuffle_merged_datasets skip_prepare_dataset "
    "dataset_streaming dataset_kwargs dataset_batch_size chars_per_token buffer_size data_shared_file_system "
    "load_from_cache_file",
    "training samples from the policy itself, which only temperature changes": "top_p top_k min_p repetition_penalty "
    "num_beams length_penalty generation_kwargs eval_num_beams",
    "the model's config.json and its own tokenizer decide": "model_type tokenizer_type special_tokens tokenizer_config "
    "is_llama_derived_model tokenizer_name tokenizer_name_or_path use_fast_tokenizer disable_fast_tokenizer "
    "resize_vocab rope_scaling add_tokens tokenizer_use_fast eos_token added_tokens_overrides tool_format "
    "add_special_tokens base_model_config model_init_kwargs ref_model_init_kwargs",
    "content is never read as control tokens": "split_special_tokens skip_special_tokens",
    "give the adapter's folder as model": "adapter_name_or_path lora_model_dir peft_path checkpoint_dir "
    "adapter_folder lora_path create_new_adapter model_adapter_name",
    "only text is trained on": "freeze_vision_tower media_dir freeze_multi_modal_projector train_mm_proj_only "
    "crop_to_patches use_audio_in_video",
    "the command says it: sft, reward, dpo, kto, ppo, grpo": "stage rl lora_task_type",
    "a training command trains": "do_train do_predict predict_with_generate",
    "a fixed reference is read once, before training, and kept": "precompute_ref_log_probs precompute_ref_batch_size",
    "rows weigh what their column `weight` says": "use_weighting dpo_use_weighting",
    "ratios are clipped token by token": "importance_sampling_level",
    "scores are not clipped": "score_clip reward_clip_range",
    "rewards are not normalised over the batch; grpo does it within a group": "normalize_advantages",
    "only causal language models are trained": "is_encoder_decoder max_target_length",
    "the metric's own direction counts": "greater_is_better",
    "a resumed run goes on with the rows that come next": "ignore_data_skip",
    "assent new-model makes a small model": "train_from_scratch",
    "all weights are trained, or an adapter (lora_r)": "unfrozen_parameters freeze_language_model freeze_llm",
    "the whole model is saved, as an ordinary folder": "save_only_model save_safetensors save_hf_ckpt "
    "save_value_network disable_ds_ckpt",
    "there is nothing like it here": "strict debug local_rank tf32 use_cce ddp_timeout gradient_checkpointing_kwargs "
    "lora_fan_in_fan_out lora_modules_to_save lr_scheduler_kwargs quantization_method double_quantization "
    "additional_target use_bnb_nested_quant load_in_mxfp4 ref_model_quantization_bit reward_model_quantization_bit "
    "weight_tying full_determinism reward_model_type env roles message_field_role message_field_content train_on_eos "
    "type_of_dataset local_rollout_forward_batch_size stop_token whiten_rewards value_head_prefix enable_ema l2 "
    "ppo_whiten_rewards ld_alpha pref_bco_weight multi_objective_aggregation train_max_tokens_per_gpu "
    "enable_vllm_is_correction stop_token_id label_smoothing_factor lora_target_parameters top_entropy_quantile "
    "dpo_norm_loss base_model_revision gradient_checkpointing_use_reentrant use_reentrant_gc upcast_layernorm "
    "upcast_lmhead_output use_kv_cache cache_implementation use_transformers_paged num_generations_eval "
    "compute_accuracy max_memory torch_empty_cache_steps skip_memory_metrics use_legacy_prediction_loop "
    "prediction_loss_only label_names past_index include_for_metrics include_inputs_for_metrics "
    "eval_do_concat_batches eval_use_gather_object batch_eval_metrics restore_callback_states_from_checkpoint "
    "save_on_each_node eval_on_each_dataset ignore_bias_buffers lr_groups tracker_kwargs accelerator_kwargs "
    "project_kwargs low_cpu_mem_usage offload_folder print_param_status mixture_of_depths optim_target_modules "
    "embedding_lr use_llama_pro use_mca use_dft_loss use_asft_loss asft_alpha use_eaft_loss cosine_min_lr_ratio "
    "lr_div_factor lr_quadratic_warmup loss_watchdog_threshold relora relora_steps loss_watchdog_patience "
    "profiler_steps eval_causal_lm_metrics plugins pretrain_data pretrain_split ptx_coef dynamic_filtering "
    "dynamic_filtering_reward_range overlong_buffer_len overlong_penalty_factor policy_loss_type async_train "
    "async_queue_size agent_func_path eval_temperature eval_n_samples_per_prompt head_prefix gptq compute_fp32_loss "
    "unpaired_preference vanilla_loss input_template pretraining_dataset",
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
    "quantization_": "load_in_4bit is NF4",
    "galore_": "the optimiser is AdamW (optim)",
    "apollo_": "the optimiser is AdamW (optim)",
    "badam_": "the optimiser is AdamW (optim)",
    "oft_": "adapters are LoRA, DoRA and rsLoRA",
    "pissa_": "an adapter starts as LoRA's does",
    "loraplus_": "an adapter has one learning rate",
    "freeze_": "all weights are trained, or an adapter (lora_r)",
    "swanlab_": "report_to takes wandb, tensorboard, mlflow or trackio",
    "comet_": "report_to takes wandb, tensorboard, mlflow or trackio",
    "mlflow_": "report_to mlflow and project",
    "trackio_": "report_to trackio and project",
    "export_": "assent merge writes an adapter and its base as an ordinary folder",
    "infer_": "training samples with the policy itself (sampler)",
    "image_": "only text is trained on",
    "video_": "only text is trained on",
    "audio_": "only text is trained on",
    "liger_": "how attention is computed is chosen and checked when a model is loaded",
    "flash_attn_": "how attention is computed is chosen and checked when a model is loaded",
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
    plain = name.lstrip("-").replace("-", "_")
    if plain not in FOREIGN:
        plain = plain.removeprefix("no_")
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
