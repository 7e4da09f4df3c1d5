"""What has been converted of another trainer's configuration, and the options that follow from several of theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

ONLINE = ("ppo", "grpo", "rloo", "online-dpo")
PER_DEVICE = ("per_device_train_batch_size", "micro_batch_size")
BATCH = frozenset(
    {*PER_DEVICE, "gradient_accumulation_steps", "train_batch_size", "rollout_batch_size", "num_generations",
     "n_samples_per_prompt", "micro_train_batch_size", "micro_rollout_batch_size", "total_episodes", "max_samples",
     "ppo_buffer_size"}
)  # fmt: skip
"""Options that are taken together: see `Conversion.batch`."""


class Conversion:
    """What has been converted so far: `ours` by our names, and lines about the rest."""

    def __init__(self, trainer: str, command: str, kind: type[BaseModel], options: Mapping[str, Any]) -> None:
        self.trainer, self.command, self.kind, self.options = trainer, command, kind, options
        self.fields = kind.model_fields
        self.ours: dict[str, Any] = {}
        self.hyperparameters: dict[str, Any] = {}
        self.changed: list[str] = []
        self.left: list[str] = []
        self.to_do: list[str] = []
        self.num_devices, self.has_devices = 1, False

    def take(self, ours: str, value: Any) -> None:
        if ours.startswith("hyperparameters."):
            self.hyperparameters[ours.partition(".")[2]] = value
        else:
            self.ours[ours] = value

    def adapter(self) -> None:
        """LoRA's options, which mean nothing where no adapter is trained."""
        options = self.options
        kind = str(options.get("finetuning_type") or options.get("adapter") or "").lower()
        if self.trainer == "LLaMA-Factory" and not kind:
            kind = "lora"
        uses = kind in ("lora", "qlora") or options.get("use_peft") is True
        uses = uses or (self.trainer == "OpenRLHF" and bool(options.get("lora_rank")))
        if kind not in ("", "lora", "qlora", "full"):
            self.left.append(
                f"{kind} adapters: none here; all weights are trained, and learning_rate may be too high for that"
            )
        if uses:
            defaults = {"LLaMA-Factory": (8, None), "TRL": (16, 32), "OpenRLHF": (0, 16)}.get(self.trainer, (8, None))
            self.ours.setdefault("lora_r", defaults[0])
            if defaults[1] is not None:
                self.ours.setdefault("lora_alpha", defaults[1])
            if kind == "qlora":
                self.ours["load_in_4bit"] = True
            return
        idle = [
            n
            for n in ("lora_r", "lora_alpha", "lora_target_modules", "use_dora", "use_rslora", "load_in_4bit")
            if n in self.ours
        ]
        for name in idle:
            del self.ours[name]
        if idle:
            self.left.append(f"{', '.join(idle)}: no adapter is trained, and without one they have no effect")

    def batch(self) -> None:
        """batch_size from theirs: per device times accumulation times devices; in prompts where answers are sampled."""
        get = self.options.get
        rows, total = get("train_batch_size"), get("batch_size")
        if self.trainer == "axolotl" and total and not (get("micro_batch_size") and get("gradient_accumulation_steps")):
            rows = total * self.num_devices
            self.changed.append(f"batch_size: {total} x {self.num_devices} devices = {rows} rows per update")
        if rows is None:
            per_device = next((get(name) for name in PER_DEVICE if get(name) is not None), None)
            unset = per_device is None
            if per_device is None:
                if self.trainer not in ("TRL", "LLaMA-Factory"):
                    return self._completions()
                per_device = 8
            accumulation = get("gradient_accumulation_steps") or 1
            buffered = get("ppo_buffer_size") or 1
            rows = per_device * accumulation * self.num_devices * buffered
            if buffered > 1:
                self.ours["num_mini_batches"] = buffered
            devices = f"{self.num_devices} device{'s' if self.num_devices > 1 else ''}"
            devices += "" if self.has_devices else " (the file does not say: --num-devices)"
            self.changed.append(
                f"batch_size: {per_device} per device{' (their default)' if unset else ''} x "
                f"{accumulation} accumulated x {devices}{f' x {buffered} buffered' if buffered > 1 else ''} = {rows} "
                "rows per update"
            )
        self.ours["batch_size"] = rows
        return self._completions()

    def _completions(self) -> None:
        if self.command not in ONLINE:
            if self.options.get("max_samples"):
                self.left.append("max_samples: rows are read as they come: cut the file, or give max_steps")
            return
        get = self.options.get
        each = get("num_generations") or get("n_samples_per_prompt")
        if each is None:
            each = {("TRL", "grpo"): 8, ("axolotl", "grpo"): 8, ("TRL", "rloo"): 2}.get((self.trainer, self.command), 1)
            each = max(each, 1 if self.command == "ppo" else 2)
        self.ours["num_completions"] = each
        rows = self.ours.get("batch_size")
        if (rollouts := get("rollout_batch_size")) is not None:
            updates = max(1, rollouts * each // rows) if rows else 1
            self.ours["batch_size"] = prompts = rollouts
            if updates > 1 and rollouts % updates == 0 and "num_mini_batches" in self.fields:
                self.ours["num_mini_batches"] = updates
                self.changed.append(f"num_mini_batches {updates}: rollout_batch_size x completions / train_batch_size")
        elif rows is not None:
            self.ours["batch_size"] = prompts = max(1, math.ceil(rows / each))
            if each > 1:
                self.changed.append(f"batch_size: {rows} completions per update are {prompts} prompts of {each}")
        else:
            return
        self._rounds(prompts * each)
        self._room()

    def _room(self) -> None:
        """One limit for prompt and completion together, where theirs has one for each."""
        new = self.ours.get("max_new_tokens")
        prompt = self.options.get("max_prompt_length") or self.options.get("prompt_max_len")
        if "max_length" not in self.ours and new:
            self.ours["max_length"] = (prompt or 512) + new
            self.changed.append(f"max_length: {prompt or '512 (a guess)'} for the prompt and {new} for the completion")

    def _rounds(self, completions: int) -> None:
        get = self.options.get
        steps, episodes = get("max_steps"), get("total_episodes")
        if episodes is None and get("max_samples") and self.trainer == "OpenRLHF":
            episodes = get("max_samples") * self.ours["num_completions"] * (get("num_episodes") or 1)
        if isinstance(steps, int) and steps > 0:
            self.ours["total_steps"] = steps
        elif episodes:
            self.ours["total_steps"] = max(1, round(episodes / completions))
            self.changed.append(f"total_steps: {episodes} completions in rounds of {completions}")
        else:
            self.changed.append("total_steps: rounds of sampling and training, 50 unless given; theirs are passes")

    def held_out(self) -> None:
        """What is held out. TRL's scripts evaluate on the split `test` where a strategy asks for it."""
        said = self.options.get("eval_strategy", self.options.get("evaluation_strategy", self.options.get("do_eval")))
        names = ("eval_data", "eval_split", "eval_fraction")
        if self.trainer == "TRL" and "eval_split" in self.fields:
            if said in (None, "no", False):
                self.ours.pop("eval_split", None)
            elif not any(name in self.ours for name in names):
                self.ours["eval_split"] = "test"
                self.changed.append("eval_split test: the file leaves it unset, and this is their default")
        if "eval_steps" in self.ours and not any(name in self.ours for name in names):
            self.left.append(f"eval_steps {self.ours.pop('eval_steps')}: the file names no held-out data")

    def schedule(self) -> None:
        """warmup_steps as a share. Where the number of steps is unknown, how to compute it is to be done."""
        steps = self.options.get("warmup_steps")
        if steps in (None, 0) or "warmup_ratio" in self.ours:
            return
        total = self.ours.get("max_steps") or self.ours.get("total_steps")
        if steps < 1:
            self.ours["warmup_ratio"] = steps
        elif total:
            self.ours["warmup_ratio"] = round(min(1.0, steps / total), 4)
            self.changed.append(f"warmup_ratio: {steps} of {total} steps")
        else:
            self.to_do.append(f"warmup_ratio: {self._share(steps)}, their warmup_steps as a share of all steps")

    def _share(self, steps: int) -> str:
        """The share that so many steps are, as a sum to do by hand."""
        if "total_steps" in self.fields:
            return f"give {steps} / total_steps"
        epochs, rows = (self.ours.get(name, self.fields[name].default) for name in ("num_train_epochs", "batch_size"))
        said = f"give {steps} x batch_size / (num_train_epochs x rows of the data)"
        if not all(isinstance(one, int | float) and one > 0 for one in (epochs, rows)):
            return said  # our parser says what is wrong with them
        return f"{said}, here {steps * rows / epochs:.4g} / rows"
