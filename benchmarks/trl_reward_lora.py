"""TRL's RewardTrainer with LoRA on all linear layers, for against_trl.py. Runs in TRL's environment.

    TRL_ENV/bin/python benchmarks/trl_reward_lora.py --model MODEL --data hh.jsonl --max-length 512

The head is trained whole. Prints one JSON line.
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
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


class InOrder(RewardTrainer):
    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="pairs per update")
    parser.add_argument("--per-device", type=int, default=8, help="pairs per forward")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--bf16", type=int, default=0)
    args = parser.parse_args()
    data = load_dataset("json", data_files=args.data, split="train").select(range(args.pairs))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=torch.float32)
    config = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.per_device,
        gradient_accumulation_steps=args.batch // args.per_device,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        max_length=args.max_length,
        use_cpu=True,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=bool(args.bf16),
        disable_tqdm=True,
    )
    lora = {"r": args.lora_r, "lora_alpha": 2 * args.lora_r, "lora_dropout": 0.0, "target_modules": "all-linear"}
    trainer = InOrder(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=LoraConfig(**lora, task_type="SEQ_CLS", modules_to_save=["score"]),
    )
    started = time.time()
    trainer.train()
    seconds = time.time() - started
    found = {
        "train_s": seconds,
        "pairs_per_s": args.pairs / seconds,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "loss": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "trained": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
