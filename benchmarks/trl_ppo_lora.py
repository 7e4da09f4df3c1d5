"""The PPO trainer of TRL 1.9 with LoRA on policy and critic, for ppo_against_trl.py. Runs in TRL's environment.

    TRL_ENV/bin/python benchmarks/trl_ppo_lora.py --model MODEL --data hh.jsonl --episodes 32 --lora-r 16

The reference is the policy with its adapter off. The critic is a model of its own, for TRL has no other; its head is
trained whole. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-prompt", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lora-r", type=int, default=16)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    data = load_dataset("json", data_files=args.data, split="train").select(range(args.episodes))

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False)
        return {"input_ids": list(ids)[-args.max_prompt :]}

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=torch.float32)

    data = data.map(tokenize, remove_columns=data.column_names)
    torch.manual_seed(0)
    lora = {"r": args.lora_r, "lora_alpha": 2 * args.lora_r, "lora_dropout": 0.0, "target_modules": "all-linear"}
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        total_episodes=args.episodes,
        num_ppo_epochs=args.epochs,
        response_length=args.new_tokens,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        num_sample_generations=0,
        learning_rate=1e-5,
        missing_eos_penalty=1.0,
        local_rollout_forward_batch_size=args.batch,
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        ref_model=None,
        reward_model=scorer(),
        value_model=get_peft_model(scorer(), LoraConfig(**lora, task_type="SEQ_CLS", modules_to_save=["score"])),
        train_dataset=data,
        eval_dataset=data.select(range(4)),
        peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
    )
    started = time.time()
    trainer.train()
    seconds = time.time() - started
    print(
        json.dumps(
            {
                "train_s": seconds,
                "episodes_per_s": args.episodes / seconds,
                "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
