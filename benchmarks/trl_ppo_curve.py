"""TRL 1.9's PPO trainer on the work that ppo_time_to_reward.py writes down. Runs in TRL's environment.

    TRL_ENV/bin/python benchmarks/trl_ppo_curve.py work.json OUT

Saves the policy every `save_steps` rounds, and prints one JSON line: the training seconds at each, without the time
that saving took. The prompts' ids are handed over, and compared with the ids that TRL's way of rendering gives. Reward
model and critic start with the bias in the configuration of Assent's reward model, so that scores are the same numbers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.utils import get_reward


def causal(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def scorer(path: str) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    head = torch.nn.Linear(model.score.in_features, 1)
    head.weight.data.copy_(model.score.weight.data)
    head.bias.data.fill_(getattr(model.config, "assent_score_bias", 0.0))
    model.score = head
    return model


def rendered(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(found)


def probe_scores(model: Any, tokenizer: Any, probes: list[list[list[int]]]) -> list[float]:
    """Scores of completions (prompt ids, completion ids), padded as TRL pads them."""
    before, after = (max(len(probe[i]) for probe in probes) for i in (0, 1))
    pad = tokenizer.pad_token_id
    rows = [[pad] * (before - len(p)) + p + c + [pad] * (after - len(c)) for p, c in probes]
    with torch.no_grad():
        return get_reward(model, torch.tensor(rows), pad, before)[1].tolist()


class Curve(TrainerCallback):
    """Saves the policy, and records the seconds of training up to then."""

    def __init__(self, folder: Path, save_steps: int) -> None:
        self.folder, self.save_steps = folder, save_steps
        self.points: list[dict[str, Any]] = []
        self.scores: list[float] = []
        self.started, self.saving = 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.scores.append(logs["objective/scores"])

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        seconds = now - self.started - self.saving
        if state.global_step % self.save_steps == 0 or state.global_step == state.max_steps:
            target = self.folder / f"step-{state.global_step}"
            model.policy.save_pretrained(target)
            self.points.append({"step": state.global_step, "seconds": seconds, "policy": str(target)})
            self.saving += time.perf_counter() - now


def main() -> None:
    work, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    options = work["options"]
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    differing = sum(rendered(tokenizer, messages) != ids for messages, ids in work["prompts"])
    if differing:
        sys.exit(f"{differing} of {len(work['prompts'])} prompts have other ids in TRL's rendering")
    data = Dataset.from_list([{"input_ids": ids} for _, ids in work["prompts"]])
    reward = scorer(work["reward"])
    curve = Curve(out, work["save_steps"])
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        seed=work["seed"],
        per_device_train_batch_size=options["batch_size"],
        local_rollout_forward_batch_size=options["batch_size"],
        gradient_accumulation_steps=1,
        total_episodes=options["total_steps"] * options["batch_size"],
        response_length=options["max_new_tokens"],
        stop_token="eos",
        temperature=1.0,
        learning_rate=options["learning_rate"],
        kl_coef=options["kl_coef"],
        missing_eos_penalty=options["missing_eos_penalty"],
        num_ppo_epochs=options["num_ppo_epochs"],
        num_mini_batches=options["num_mini_batches"],
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        num_sample_generations=0,
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=causal(work["model"]),
        ref_model=causal(work["model"]),
        reward_model=reward,
        value_model=scorer(work["reward"]),
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        callbacks=[curve],
    )
    probes = probe_scores(reward, tokenizer, work["probes"])
    trainer.train()
    print(json.dumps({"points": curve.points, "round_scores": curve.scores, "probe_scores": probes}))


if __name__ == "__main__":
    main()
