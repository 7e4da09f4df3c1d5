"""The parts of first_gpu.sh that are not benchmarks of their own: inputs, correctness, a cap on memory, the document.

    python benchmarks/first_gpu_parts.py attention --device cuda

`first_gpu.sh` calls them. `attention` and `graphs` print the largest difference from the plain transformers model, and
from decoding without graphs; `capped` runs one command of Assent under a cap on the device's memory and prints the
plan's peak beside the measured one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import assent  # noqa: F401  # first: it says how OpenMP's threads wait

# isort: split
from plan_memory import words
from sandbox import machine

sys.path.insert(0, str(Path(__file__).parents[1]))

TIERS = ("segments", "mask", "padded")
CHOSEN = ("llama", "qwen2", "gemma2", "gemma3", "mistral", "gpt-oss")
"""Plain, with biases, with soft-cap, with two rope regimes, with a window, with sinks."""
BOUND = 1e-4
"""Of a log-probability in float32: a device adds products up in another order than the CPU."""


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    """A tokenizer with its template, comparisons and prompts: made of syllables, of some hundred tokens each."""
    from assent.models.new_model import new_model

    folder, rng = Path(args.folder), random.Random(0)
    lengths = (6, 4) if args.smallest else (160, 60)
    texts = [words(random.Random(i), 60) for i in range(200 if args.smallest else 3000)]
    sizes = {"vocab_size": 512 if args.smallest else 4096, "hidden_size": 64, "layers": 2, "heads": 4, "context": 4096}
    new_model(folder / "tokenizer", texts=texts, seed=0, **sizes)

    def says(role: str, number: int) -> list[dict[str, str]]:
        return [{"role": role, "content": words(rng, number)}]

    rows = []
    for _ in range(8 if args.smallest else 512):
        prompt = says("user", rng.randrange(lengths[0] // 2, lengths[0] + 1))
        chosen, rejected = (says("assistant", rng.randrange(1, lengths[1] + 1)) for _ in range(2))
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    for name, kept in (("comparisons", rows), ("prompts", [{"prompt": row["prompt"]} for row in rows])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return {"rows": len(rows)}


def attention(args: argparse.Namespace) -> dict[str, Any]:
    """For each architecture and tier: the largest difference of a log-probability and of a gradient, as a share of its
    tensor's largest entry, from one plain call over padded rows. Packed segments must be accepted; another tier may be
    refused, with the reason."""
    import torch

    from assent.errors import ModelError
    from assent.models.module import AlignmentModel
    from assent.models.packing import pack
    from tests.support.architectures import gradients, make_model, plain_logprobs, random_groups, weighted

    groups, found, refused = random_groups(), {}, {}
    for name in CHOSEN:
        plain = make_model(name).to(args.device)
        with torch.device(args.device):
            expected = plain_logprobs(plain, groups)
        expected_gradients = gradients(plain, weighted_on(expected, weighted))
        for tier in TIERS:
            model = make_model(name).to(args.device)  # anew: what it is wrapped in may change its layers
            try:
                module = AlignmentModel(model, kind="policy", tier=tier)  # type: ignore[arg-type]
            except ModelError as error:  # with a window, say, no additive mask gives the model's numbers
                refused[f"{name}, {tier}"] = error.got
                continue
            logprobs = module(pack(groups, device=args.device), frozenset({"logprobs"})).logprobs
            got = gradients(model, weighted_on(logprobs, weighted))
            apart = max(
                float((got[key] - value).abs().max() / value.abs().max().clamp(min=1e-6))
                for key, value in expected_gradients.items()
            )
            found[f"{name}, {tier}"] = {
                "tier": module.tier,
                "reason": module.tier_reason,
                "logprobs": float((logprobs - expected).detach().abs().max()),
                "gradients": apart,
            }
    worst = max(row["logprobs"] for row in found.values())
    within = worst <= BOUND and not any(cell.endswith("segments") for cell in refused)
    return {"within": within, "worst_logprob": worst, "bound": BOUND, "cells": found, "refused": refused}


def weighted_on(values: Any, weighted: Any) -> Any:
    """The tests' weighted sum, whose weights are on the CPU."""
    return weighted(values.cpu())


def graphs(args: argparse.Namespace) -> dict[str, Any]:
    """Sampling with recorded steps against sampling that starts kernel by kernel: ids and log-probabilities."""
    import torch
    from transformers import AutoModelForCausalLM

    from assent.models.loading import load_tokenizer
    from assent.rollouts import decoding
    from assent.rollouts.sampler import SamplingParams, SeedKey
    from assent.rollouts.torch_sampler import TorchSampler

    tokenizer = load_tokenizer(args.model)
    recorded = []

    class Counted(decoding.OnDevice):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            recorded.append(True)

    rows = [json.loads(line) for line in Path(args.data).read_text().splitlines()[:8]]
    prompts = [tuple(tokenizer(row["prompt"][0]["content"])["input_ids"]) for row in rows]
    drawn, can_record, plain = [], decoding.can_record, decoding.DECODERS["graphs"]
    decoding.DECODERS["graphs"] = partial(decoding.GraphDecoder, capture=Counted)
    for can in (can_record, lambda device: False):
        decoding.can_record = can  # type: ignore[assignment]
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, trust_remote_code=False)
        sampler = TorchSampler(model.to(args.device).eval(), tokenizer, eos_ids=())
        sampler.load({}, "benchmark")
        params, seed = SamplingParams(max_new_tokens=24), SeedKey(0, "benchmark", 0)
        drawn.append(sampler.sample(prompts, num_completions=4, params=params, seed=seed))
    decoding.can_record, decoding.DECODERS["graphs"] = can_record, plain
    pairs = list(zip(*drawn, strict=True))
    same = sum(ours.ids == theirs.ids for ours, theirs in pairs)
    apart = [
        abs(a - b)
        for ours, theirs in pairs
        if ours.ids == theirs.ids
        for a, b in zip(ours.logprobs, theirs.logprobs, strict=True)
    ]
    steps = f"{len(recorded)} recorded" if recorded else "none was recorded: this device records none"
    return {"steps": steps, "same_ids": same, "of": len(pairs), "logprobs": max(apart, default=None)}


def capped(args: argparse.Namespace) -> dict[str, Any]:
    """One command of Assent under a cap on the device's memory. Without CUDA there is no cap, and it says so."""
    import torch

    from assent.cli import main

    has_cuda = torch.cuda.is_available()
    if args.needs_cuda and not has_cuda:
        return {"not_tried": "needs CUDA"}
    if has_cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.gigabytes * 1e9 / total))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main(args.command)
    if status:
        sys.exit(f"{' '.join(args.command)} ended with status {status}")
    run = Path(args.command[args.command.index("--output-dir") + 1])
    record = json.loads((run / "run.json").read_text())
    plan, metrics = record["facts"]["plan"], record["result"]["metrics"]
    peak = metrics["cost/peak_memory_bytes"]
    return {
        "cap_bytes": args.gigabytes * 1e9 if has_cuda else None,
        "peak_bytes": peak,
        "planned_bytes": None if plan is None else plan["memory_bytes"],
        "planned_over_peak": None if plan is None else plan["memory_bytes"] / peak,
        "metrics": {name: value for name, value in metrics.items() if name.startswith(("cost/", "perf/", "rollout/"))},
    }


def join(args: argparse.Namespace) -> dict[str, Any]:
    """One document of all steps, in the order in which they ended. Exit status 1 if one failed."""
    folder = Path(args.folder)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": args.device,
        "machine": machine(args.device),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "assent")},
        "cores": os.cpu_count(),
        "steps": {},
    }
    for path in sorted(folder.glob("*.status"), key=lambda path: path.stat().st_mtime_ns):
        status, seconds = map(int, path.read_text().split())
        step: dict[str, Any] = {"status": status, "seconds": seconds}
        text = path.with_suffix(".json").read_text() if path.with_suffix(".json").exists() else ""
        if "{" in text:
            try:
                step["found"] = json.loads(text[text.index("{") :])
            except ValueError:  # cut off: a step that was ended
                step["said"] = text[-1500:]
        if status:
            step["last_words"] = path.with_suffix(".err").read_text(errors="replace")[-1500:]
        document["steps"][path.stem] = step
    document["failed"] = [name for name, step in document["steps"].items() if step["status"]]
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for function in (inputs, attention, graphs, capped, join):
        part = parts.add_parser(function.__name__, help=(function.__doc__ or "").splitlines()[0])
        part.set_defaults(function=function)
        if function in (inputs, join):
            part.add_argument("folder")
        if function is inputs:
            part.add_argument("--smallest", action="store_true")
        if function in (attention, graphs, join):
            part.add_argument("--device", default="cuda")
        if function is graphs:
            part.add_argument("--model", required=True)
            part.add_argument("--data", required=True)
        if function is capped:
            part.add_argument("--gigabytes", type=float, default=24.0)
            part.add_argument("--needs-cuda", action="store_true")
            part.add_argument("command", nargs="+")
    args = parser.parse_args()
    document = args.function(args)
    print(json.dumps(document, indent=1))
    return int(bool(document.get("failed")) or document.get("within") is False)


if __name__ == "__main__":
    sys.exit(main())
