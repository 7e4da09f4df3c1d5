"""Options of other trainers whose value changes with the name: each has a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from assent.commands.conversion import ONLINE, Conversion

Rule = Callable[[Conversion, str, Any], None]


def _nothing(found: Conversion, name: str, value: Any) -> None:
    """An option that a rule of several reads, or that says what is so here anyway."""


def _named(ours: str, says: str = "") -> Rule:
    def rule(found: Conversion, name: str, value: Any) -> None:
        if ours not in found.fields:
            found.left.append(f"{name}: {found.command} has no {ours}")
            return
        found.ours[ours] = value
        if says:
            found.changed.append(f"{ours}: {says}")

    return rule


def _precision(found: Conversion, name: str, value: Any) -> None:
    if value in (True, "auto", "full", "bf16"):
        found.ours["mixed_precision"] = "bf16"


def _prompt_limit(found: Conversion, name: str, value: Any) -> None:
    if found.command not in ONLINE:
        found.left.append(f"{name} {value}: max_length is one limit for prompt and completion together")


def _float16(found: Conversion, name: str, value: Any) -> None:
    if value is True:
        found.left.append("fp16: float16 is not supported: mixed_precision bf16, or float32")


def _dtype(found: Conversion, name: str, value: Any) -> None:
    kind = {"bf16": "bfloat16", "fp32": "float32"}.get(str(value), str(value))
    if kind in ("bfloat16", "float32"):
        found.ours["dtype"] = kind
    else:
        found.left.append(f"{name} {value}: dtype is float32 or bfloat16; weights are float32 unless it is given")


def _data(found: Conversion, name: str, value: Any) -> None:
    """A name, several with commas, axolotl's list of mappings, or the handbook's mixture."""
    if isinstance(value, Mapping):
        value = [*value] if not isinstance(value.get("datasets"), list) else value["datasets"]
    parts = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
    first = parts[0]
    if isinstance(first, Mapping):
        found.ours["data"] = str(first.get("path") or first.get("id"))
        if subset := first.get("name"):
            found.ours["data"] += f":{subset}"
        if split := first.get("split"):
            found.ours["split"] = split
        fields = {**_FIELDS, "field_messages": "messages" if found.command == "sft" else "prompt"}
        columns = {first[theirs]: ours for theirs, ours in fields.items() if first.get(theirs) not in (None, ours)}
        if columns:
            found.ours["columns"] = columns
        if kind := first.get("type"):
            found.left.append(f"datasets type {kind}: a row's layout is found from its columns (docs/data.md)")
    else:
        subset = found.options.get("dataset_config")
        found.ours["data"] = f"{first}:{subset}" if subset else str(first)
    if len(parts) > 1:
        found.left.append(
            f"data sets beside {found.ours['data']}: one is read; join them first ({len(parts) - 1} left)"
        )
    if found.trainer == "LLaMA-Factory":
        found.changed.append(f"data {first}: a name of dataset_info.json there; a file, a folder or a hub name here")


_FIELDS = {"field_chosen": "chosen", "field_rejected": "rejected", "field_instruction": "instruction",
           "field_output": "output", "field_input": "input"}  # fmt: skip
"""axolotl's names for columns. `field_messages` of a comparison is its prompt, else the conversation."""


def _column(ours: str) -> Rule:
    def rule(found: Conversion, name: str, value: Any) -> None:
        if value != ours:
            found.ours["columns"] = {**found.ours.get("columns", {}), value: ours}

    return rule


def _asked(found: Conversion, name: str, value: Any) -> None:
    """OpenRLHF's input_key, output_key: `prompt` and `completion`."""
    ours = {"input_key": "prompt", "output_key": "completion", "label_key": "label"}[name]
    _column(ours)(found, name, value)


def _splits(found: Conversion, name: str, value: Any) -> None:
    """The handbook's dataset_splits: the first trains, the second is held out."""
    listed = value if isinstance(value, list) else [value]
    found.ours["split"] = listed[0]
    if len(listed) > 1 and "eval_split" in found.fields:
        found.ours["eval_split"] = listed[1]


def _moving(found: Conversion, name: str, value: Any) -> None:
    """TR-DPO. Without `sync_ref_model` its numbers have no effect there; with it, they have defaults."""
    if found.options.get("sync_ref_model") is not True:
        return
    if "reference_sync_steps" in found.fields:
        found.ours["reference_sync_steps"] = found.options.get("ref_model_sync_steps", 512)
        found.ours["reference_mixup_alpha"] = found.options.get("ref_model_mixup_alpha", 0.6)
    elif name == "sync_ref_model":
        found.left.append(f"{name}: {found.command} has no reference_sync_steps")


def _targets(found: Conversion, name: str, value: Any) -> None:
    listed = value if isinstance(value, list) else str(value).replace(" ", "").split(",")
    if found.options.get("lora_target_linear") is True:
        return  # all linear layers, which are ours
    if listed not in (["all"], ["all-linear"], ["all_linear"]):
        found.ours["lora_target_modules"] = listed


def _optimiser(found: Conversion, name: str, value: Any) -> None:
    text = str(value)
    if "8bit" in text:
        found.ours["optim"] = "adamw_8bit"
    elif "optim" in found.fields:
        found.ours["optim"] = "adamw"
    if text != "adamw_8bit" and ("8bit" in text or not text.startswith(("adamw", "paged_adamw"))):
        found.changed.append(f"optim {found.ours.get('optim', 'adamw')}: {text} there")


def _schedule(found: Conversion, name: str, value: Any) -> None:
    ours = next((one for one in ("constant", "linear", "cosine") if str(value).startswith(one)), None)
    if ours is not None:
        found.ours["lr_scheduler_type"] = ours
    if ours != value:
        found.changed.append(f"lr_scheduler_type {ours or 'linear'}: {value} there")


def _eval_steps(found: Conversion, name: str, value: Any) -> None:
    if isinstance(value, int) and value > 0 and "eval_steps" in found.fields:
        found.ours["eval_steps"] = value


def _held_out(found: Conversion, name: str, value: Any) -> None:
    if value and "eval_fraction" not in found.fields:
        found.left.append(f"{name}: {found.command} has no held-out data")
    elif value and value < 1:
        found.ours["eval_fraction"] = value
    elif value:
        found.left.append(f"{name} {value}: eval_fraction is a share of the rows")


def _checkpoints(found: Conversion, name: str, value: Any) -> None:
    if isinstance(value, int) and value > 0:
        found.ours["save_steps"] = value
    elif value == -1:
        found.ours["save_steps"] = 0
        found.changed.append("save_steps 0: no checkpoint but at an interrupt, as -1 there")
    else:
        found.left.append(f"save_steps {value}: here it is a number of steps")


def _kept(found: Conversion, name: str, value: Any) -> None:
    found.ours["save_total_limit"] = max(2, int(value))
    if int(value) < 2:
        found.changed.append("save_total_limit 2: the last checkpoint but one is kept as well")


def _quantised(found: Conversion, name: str, value: Any) -> None:
    if name != "load_in_8bit" and value in (4, True):
        found.ours["load_in_4bit"] = True
    elif value:
        found.left.append(f"{name} {value}: weights are held in 4 bits or not at all (load_in_4bit)")


def _trackers(found: Conversion, name: str, value: Any) -> None:
    known = {"use_wandb": "wandb", "wandb": "wandb", "use_tensorboard": "tensorboard"}
    listed = [known[name]] if name in known and value else value if isinstance(value, list) else [value]
    kept = [str(one) for one in listed if one in ("wandb", "tensorboard", "mlflow", "trackio")]
    if kept:
        found.ours["report_to"] = kept


def _beta(found: Conversion, name: str, value: Any) -> None:
    """The pull to the reference: of a loss, or of a penalty."""
    if found.command in ("grpo", "rloo", "ppo"):
        found.ours["kl_coef"] = value
        if value:
            found.changed.append("kl_coef: their beta; kl_penalty says where it applies")
    elif "beta" in found.fields:
        found.ours["beta"] = value
    else:
        found.left.append(f"{name}: {found.command} has no beta")


def _loss(found: Conversion, name: str, value: Any) -> None:
    listed = value if isinstance(value, list) else [value]
    if "loss_type" not in found.fields or found.command == "reward":
        found.left.append(f"{name} {value}: {found.command} has one loss")
    elif found.command == "grpo" and value not in ("grpo", "dapo", "dr_grpo"):
        found.left.append(f"{name} {value}: loss_type is grpo, dapo or dr_grpo")
    else:
        found.ours["loss_type"] = listed[0]
        if len(listed) > 1:
            found.left.append(f"{name}: of {', '.join(map(str, listed))} the first; `losses` takes a weighted sum")


def _sft_term(found: Conversion, name: str, value: Any) -> None:
    """A weighted maximum-likelihood term beside the preference loss."""
    if value:
        found.left.append(f"{name} {value}: losses [sigmoid, {{name: sft, weight: {value}}}] instead of loss_type")


def _reward(found: Conversion, name: str, value: Any) -> None:
    listed = value if isinstance(value, list) else [value]
    if found.command not in ONLINE:
        return
    kept = []
    for one in map(str, listed):
        is_function = name == "reward_funcs" and "/" not in one
        spec = f"my_rewards:{one.rpartition('.')[2]}" if is_function and ":" not in one else one
        kept.append(spec)
        if is_function:
            found.changed.append(f"reward {spec}: write it as a function of (prompts, completions) that returns scores")
    weights = found.options.get("reward_weights")
    if isinstance(weights, list) and len(weights) == len(kept):
        found.ours["reward"] = [{"reward": one, "weight": weight} for one, weight in zip(kept, weights, strict=True)]
    else:
        found.ours["reward"] = kept[0] if len(kept) == 1 else kept


def _passes(found: Conversion, name: str, value: Any) -> None:
    """Passes over the data, or over a round where completions are sampled."""
    if found.command not in ONLINE:
        found.ours["num_train_epochs"] = value
    elif name == "max_epochs" and "num_ppo_epochs" in found.fields:
        found.ours["num_ppo_epochs"] = value
    else:
        found.left.append(f"{name}: total_steps counts rounds of sampling and training")


def _steps(found: Conversion, name: str, value: Any) -> None:
    if found.command not in ONLINE and isinstance(value, int) and value > 0:
        found.ours["max_steps"] = value


def _template(found: Conversion, name: str, value: Any) -> None:
    if value in ("default", "tokenizer_default", "empty"):
        return
    if value == "chatml":
        found.ours["chat_template"] = "chatml"
    else:
        found.left.append(f"{name} {value}: the model's own template is used; data show prints what it renders")


def _estimator(found: Conversion, name: str, value: Any) -> None:
    if found.command == "grpo":
        found.ours["loss_type"] = "dr_grpo" if value == "dr_grpo" else "grpo"
    elif str(value).startswith("reinforce"):
        found.changed.append(f"{name} {value}: assent {found.command}, whose baseline is the other completions' mean")


def _scale(found: Conversion, name: str, value: Any) -> None:
    named = ("group" if value else "none") if isinstance(value, bool) else value
    _named("scale_rewards")(found, name, named)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("use_peft", "adapter", "finetuning_type", "warmup_steps", "do_train"), _nothing),
    **dict.fromkeys(("lora_target_linear", "reward_weights", "chat_template_jinja", "num_episodes"), _nothing),
    **dict.fromkeys(("do_eval", "eval_strategy", "evaluation_strategy", "apply_chat_template"), _nothing),
    **dict.fromkeys(("dataset_config", "reward_model_type"), _nothing),
    **dict.fromkeys(("dataset", "dataset_name", "datasets", "prompt_data", "dataset_mixer", "dataset_mixture"), _data),
    **dict.fromkeys(("input_key", "output_key", "label_key"), _asked),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _targets),
    **dict.fromkeys(("optim", "optimizer"), _optimiser),
    **dict.fromkeys(("val_size", "val_set_size"), _held_out),
    **dict.fromkeys(("quantization_bit", "load_in_4bit", "load_in_8bit"), _quantised),
    **dict.fromkeys(("report_to", "log_with", "use_wandb", "wandb", "use_tensorboard"), _trackers),
    **dict.fromkeys(("beta", "pref_beta", "rl_beta", "dpo_beta"), _beta),
    **dict.fromkeys(("loss_type", "pref_loss", "dpo_loss_type"), _loss),
    **dict.fromkeys(("pref_ftx", "rpo_alpha", "nll_loss_coef"), _sft_term),
    **dict.fromkeys(("reward_model", "reward_model_path", "reward_pretrain", "remote_rm_url", "reward_funcs"), _reward),
    **dict.fromkeys(("reward_model_name_or_path",), _reward),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "max_epochs"), _passes),
    **dict.fromkeys(("template", "chat_template"), _template),
    **dict.fromkeys(("torch_dtype", "dtype", "model_dtype"), _dtype),
    "param_dtype": _precision,  # DeepSpeed keeps float32 weights beside
    **dict.fromkeys(("max_prompt_length", "prompt_max_len"), _prompt_limit),
    **dict.fromkeys(("cutoff_len", "sequence_len", "max_len", "max_seq_length"), _named("max_length")),
    "lora_rank": _named("lora_r"),
    "bf16": _precision,
    "fp16": _float16,
    **dict.fromkeys(("sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha"), _moving),
    "dataset_splits": _splits,
    "chosen_key": _column("chosen"),
    "rejected_key": _column("rejected"),
    "prompt_key": _column("prompt"),
    "eval_steps": _eval_steps,
    "save_steps": _checkpoints,
    "save_total_limit": _kept,
    "max_steps": _steps,
    "advantage_estimator": _estimator,
    "scale_rewards": _scale,
    "sft_model_path": _named("model"),
    "lr_scheduler_type": _schedule,
    "lr_scheduler": _schedule,
    "epsilon": _named("cliprange"),
    "init_kl_coef": _named("kl_coef"),
    "num_iterations": _named("num_ppo_epochs"),
    "ppo_epochs": _named("num_ppo_epochs"),
    "use_vllm": lambda found, name, value: found.ours.update({"sampler": "vllm"} if value is True else {}),
    "ipo": lambda found, name, value: found.ours.update({"loss_type": "ipo"} if value is True else {}),
}
"""Their options, and what makes ours of them."""
