"""DPO and reward models against a plain padded trainer written with transformers' Trainer: speed, MFU, memory.

    python benchmarks/against_trainer.py --shape 0.5b --tokenizer MODEL --data hh.jsonl --device cuda --bf16

The peer is the first thing that one would write: chosen and rejected in one padded batch, logits of every position, and
the reference's log-probabilities computed before training. Both sides get the same ids, the same random weights, the
same order and the same optimiser. The script prints how far the loss moves, and the largest difference between the two
in one step. Each run is a process of its own. Runs alternate, `--repeats` times. Neither side saves or logs: Assent's
side is only the loop of `assent dpo` and `assent reward`.

Pairs per second are those of the updates after the first; "with_reference" adds the reference's pass. Useful MFU is the
least that the updates need, over the rate of a large matrix product in the same process. By the formula of
`assent.models.shape`, that least reads each prompt once, and the head only where something is learned. Peak memory is
what is allocated on a CUDA device, else the process's resident set. Prints one JSON document with every run, and
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generate import run
from make_model import SHAPES, make_model
from sandbox import machine

import assent  # noqa: F401  # before torch: it says how OpenMP's threads wait

KINDS = {"dpo": "policy", "reward": "scorer"}


def work(args: argparse.Namespace) -> None:
    """Does one run of one side, and prints one JSON line."""
    import torch

    from assent.config.stages import PreferenceConfig, RewardConfig
    from assent.data.loading import load_groups
    from assent.engine.peak_memory import PeakMemory
    from assent.engine.runtime import matmul_rate
    from assent.stages.selecting import to_comparisons
    from assent.stages.stage_data import read_stage_data

    kind = PreferenceConfig if args.method == "dpo" else RewardConfig
    config = kind(
        model=args.model,
        data=args.data,
        output_dir="-",
        device=args.device,
        mixed_precision="bf16" if args.bf16 else "no",
        batch_size=args.batch_size,
        max_length=args.max_length,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
    )
    rows = list(load_groups(args.data))[: args.pairs]
    stage_data = read_stage_data(config, model=args.model, sources={"train": rows}, select=to_comparisons)
    tokens = stage_data.train.tokens
    tokens = tokens[: len(tokens) // args.batch_size * args.batch_size]  # whole updates
    if len(tokens) < 2 * args.batch_size:
        sys.exit(f"{len(tokens)} pairs are fewer than two updates of {args.batch_size}, and the first is not timed")
    memory = PeakMemory(torch.device(args.device))
    rate = matmul_rate(args.device, torch.bfloat16 if args.bf16 else torch.float32)
    found = (run_assent if args.work == "assent" else run_trainer)(config, stage_data.tokenizer, tokens, args)
    seconds, timed = found["seconds"], len(tokens) - args.batch_size
    found |= {"pairs_per_s": timed / seconds, "useful_mfu": found.pop("flops") / seconds / rate}
    reference = found.pop("reference_seconds") / len(tokens)
    if args.method == "dpo":
        found["pairs_per_s_with_reference"] = 1 / (seconds / timed + reference)
    found |= {"pairs": len(tokens), "peak_bytes": memory.bytes, "matmul_rate": rate}
    print(json.dumps(found))


def now(device: str) -> float:
    """The time, once the device has finished its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def run_assent(config: Any, tokenizer: Any, tokens: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    from assent.engine.learner import Learner
    from assent.engine.references import completion_sums
    from assent.engine.runtime import Runtime
    from assent.stages.model_loading import load_module
    from assent.stages.preference import PreferenceObjective
    from assent.stages.references import with_reference
    from assent.stages.reward import objective_of

    steps = range(0, len(tokens), args.batch_size)
    runtime = Runtime(args.device, mixed_precision=config.mixed_precision)
    module = load_module(config, args.model, KINDS[args.method], tokenizer, runtime=runtime)
    learner = Learner(module, runtime=runtime, optim=config, total_steps=len(steps))
    is_dpo = args.method == "dpo"
    objective = PreferenceObjective(config.entries) if is_dpo else objective_of(config)
    started = now(args.device)
    if is_dpo:
        tokens = with_reference(tokens, completion_sums(tokens, learner))
    reference_seconds, losses, started = now(args.device) - started, [], 0.0
    for start in steps:
        losses.append(learner.update(tokens[start : start + args.batch_size], objective)["loss"])
        started = started or now(args.device)
    seconds = now(args.device) - started
    flops = learner.cost.update(tokens[args.batch_size :])
    return {"loss": losses, "seconds": seconds, "reference_seconds": reference_seconds, "flops": flops}


def run_trainer(config: Any, tokenizer: Any, tokens: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """The peer: transformers' models and Trainer. Only the ids and the weights come from Assent."""
    import torch
    from transformers import Trainer, TrainerCallback

    from assent.models.loading import load_policy, load_scorer
    from assent.models.shape import Cost
    from assent.stages.references import with_reference

    is_dpo, accumulated = args.method == "dpo", args.batch_size // args.per_device[0]
    model = (load_policy if is_dpo else load_scorer)(args.model, tokenizer=tokenizer).to(args.device)
    collate = lambda rows: padded(rows, pad=tokenizer.pad_token_id)
    started = now(args.device)
    if is_dpo:
        tokens = with_reference(tokens, reference_sums(model, tokens, collate, args))
    reference_seconds = now(args.device) - started
    losses, times = [], []

    class PairTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:  # type: ignore[override]
            loss = pair_loss(model, inputs, beta=config.entries[0].hyperparameters["beta"] if is_dpo else None)
            losses.append(loss.detach())
            return loss

    class Watch(TrainerCallback):
        def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
            if state.global_step in (1, state.max_steps):
                times.append(now(args.device))

    with tempfile.TemporaryDirectory() as folder:
        options = training_arguments(config, folder, args)
        pairs = PairTrainer(model, options, collate, train_dataset=tokens, callbacks=[Watch()])
        pairs.model_accepts_loss_kwargs = False  # our loss is a mean: Trainer divides it by the accumulated batches
        pairs.train()
    by_step = torch.stack(losses).float().view(-1, accumulated).mean(1).tolist()
    flops = Cost.of(model, shared=True).update(tokens[args.batch_size :])
    return {"loss": by_step, "seconds": times[1] - times[0], "reference_seconds": reference_seconds, "flops": flops}


def training_arguments(config: Any, folder: str, args: argparse.Namespace) -> Any:
    """The same options as on Assent's side. Nothing is saved or logged."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=args.per_device[0],
        gradient_accumulation_steps=args.batch_size // args.per_device[0],
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        bf16=args.bf16,
        use_cpu=args.device == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def padded(rows: Sequence[Any], *, pad: int) -> dict[str, Any]:
    """(2B, T): all chosen completions with their prompts, then all rejected ones.

    `targets[t]` is the id that t predicts, or -100 where none counts.
    """
    import torch

    from assent.stages.references import REFERENCE

    halves = [(list(row.prompt_ids), row.completions[i]) for i in (0, 1) for row in rows]
    width = max(len(prompt) + len(completion.ids) for prompt, completion in halves)
    input_ids = torch.full((len(halves), width), pad)
    attention_mask, targets = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    for i, (prompt, completion) in enumerate(halves):
        start, end = len(prompt), len(prompt) + len(completion.ids)
        ids = torch.tensor(completion.ids)
        input_ids[i, :end], attention_mask[i, :end] = torch.cat([torch.tensor(prompt), ids]), 1
        counted = torch.tensor(completion.mask or [True] * len(ids))
        targets[i, start - 1 : end - 1] = ids.masked_fill(~counted, -100)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "targets": targets}
    if REFERENCE in rows[0].completion:
        batch["reference"] = torch.tensor([row.completion[REFERENCE][i] for i in (0, 1) for row in rows])
    return batch


def log_probabilities(model: Any, batch: Any) -> Any:
    """(2B,) sums over each completion."""
    import torch.nn.functional as F

    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    targets = batch["targets"]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none")
    return -losses.view(targets.shape).sum(1)


def pair_loss(model: Any, batch: Any, *, beta: float | None) -> Any:
    """With a beta, DPO's loss (arXiv:2305.18290, eq. 7); else Bradley and Terry's, on a reward model's scores."""
    import torch.nn.functional as F

    if beta is not None:
        chosen, rejected = (log_probabilities(model, batch) - batch["reference"]).mul(beta).chunk(2)
    else:
        scores = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        chosen, rejected = scores.squeeze(1).float().chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()


def reference_sums(model: Any, tokens: Sequence[Any], collate: Callable[..., Any], args: argparse.Namespace) -> Any:
    """(2 · pairs,) chosen and rejected in turn, in batches of the training size."""
    import torch

    found, size = [], args.per_device[0]
    with torch.no_grad(), torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
        for start in range(0, len(tokens), size):
            batch = {name: value.to(args.device) for name, value in collate(tokens[start : start + size]).items()}
            found.append(torch.stack(log_probabilities(model, batch).chunk(2), dim=1).flatten())
    return torch.cat(found).cpu()


def compare(method: str, args: argparse.Namespace) -> dict[str, Any]:
    common = [sys.executable, __file__, "--method", method, "--model", args.model, "--data", args.data]
    common += ["--device", args.device, *(["--bf16"] if args.bf16 else []), "--pairs", str(args.pairs)]
    common += ["--batch-size", str(args.batch_size), "--max-length", str(args.max_length)]
    common += ["--learning-rate", str(args.learning_rate)]
    rounds = []
    for number in range(args.repeats):
        row = {"assent": run([*common, "--work", "assent"])}
        for size in args.per_device:
            row[f"trainer_{size}"] = run([*common, "--work", "trainer", "--per-device", str(size)])
        ours = row["assent"]["loss"]
        for side in row.values():
            side["loss_differs_by"] = max(abs(a - b) for a, b in zip(ours, side.pop("loss"), strict=True))
        print(f"{method} round {number + 1}: {json.dumps(row)}", file=sys.stderr)
        rounds.append(row)
    figures = [name for name in rounds[0]["assent"] if name.startswith("pairs_per_s")]
    found: dict[str, Any] = {"medians": {}, "over": {}}
    for side in rounds[0]:
        names = [*figures, "useful_mfu", "peak_bytes"]
        found["medians"][side] = {name: statistics.median(row[side][name] for row in rounds) for name in names}
        if side != "assent":
            ratios = {
                name: statistics.median(row["assent"][name] / row[side][name] for row in rounds) for name in names
            }
            differs = max(row[side]["loss_differs_by"] for row in rounds)
            found["over"][side] = {**ratios, "loss_differs_by": differs}
    return {"loss_moves_by": max(ours) - min(ours), **found, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES))
    parser.add_argument("--tokenizer", help="model folder whose tokenizer and template are used")
    parser.add_argument("--data", required=True, help="comparisons")
    parser.add_argument("--methods", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="autocast, on both sides")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per update")
    parser.add_argument("--per-device", nargs="+", type=int, default=[8], help="pairs per pass of the peer")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="a higher one tells losses apart sooner")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=["assent", "trainer"], help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    if not (args.shape and args.tokenizer):
        parser.error("--shape and --tokenizer are needed")
    if any(args.batch_size % size for size in args.per_device):
        parser.error(f"--per-device must divide --batch-size {args.batch_size}")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # Trainer would spread a batch over all
    with tempfile.TemporaryDirectory() as folder:
        args.model = str(Path(folder) / "model")
        make_model(args.shape, args.tokenizer, args.model)
        results = {method: compare(method, args) for method in args.methods}
    options = {name: value for name, value in vars(args).items() if name not in ("work", "method", "model")}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    head = {"date": time.strftime("%Y-%m-%d"), "machine": machine(args.device), "versions": versions}
    print(json.dumps({**head, "options": options, **results}, indent=1))


if __name__ == "__main__":
    main()
