"""Sampling: tokens per second against transformers' `generate`, side by side, and against what the machine can do.

    python benchmarks/generate.py --model MODEL --data hh.jsonl
    python benchmarks/generate.py --model MODEL --data hh.jsonl --device cuda --dtype bfloat16

Runs Assent's sampler and the peer's script in turn, `--repeats` times in each of three settings: 4 prompts and 64
with one completion, and 16 prompts of 512 tokens with eight. Each run is a process of its own. Prints one JSON
document: every run, and the medians of the ratios within each round. Rows never end early, so both draw the same
number of tokens. With --vllm-python, it also runs vLLM's script, and Assent once more, warmed as vLLM is. The peers
compute on the CPU. On another device, Assent runs alone, against the bound.

The bound has three parts. The prompts are read at the rate of a large matrix product. Each token then takes the
products with the weights at that rate, or one reading of the weights at the rate of a large copy, whichever is longer.
The cached keys and values are read once per token at the copying rate, a prompt's only once for all its completions.
Both rates are measured in the process that samples, just before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sandbox import machine

import assent  # noqa: F401  # before torch: it says how OpenMP's threads wait

SETTINGS = {
    "four_prompts": {"prompts": 4, "completions": 1, "min-prompt": 0},
    "one_completion": {"prompts": 64, "completions": 1, "min-prompt": 0},
    "shared_prompt": {"prompts": 16, "completions": 8, "min-prompt": 512},
}


def sample(args: argparse.Namespace) -> None:
    """Runs Assent's sampler once, and prints one JSON line."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from assent.engine.runtime import matmul_rate
    from assent.rollouts.sampler import SamplingParams, SeedKey
    from assent.rollouts.torch_sampler import TorchSampler

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
    with open(args.data, encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(args.prompts), lines, strict=False)]
    prompts = [_prompt(tokenizer, row["prompt"], args) for row in rows]
    sampler = TorchSampler(model, tokenizer, eos_ids=())
    sampler.load({}, "benchmark")
    flops, copy = matmul_rate(args.device, model.dtype), _copy_rate(args.device)
    # The peer's clock also starts after loading; what is warmed here is the choice of a way to decode, and on a device
    # its kernels for these sizes. vLLM's script draws whole completions of four prompts before its clock starts.
    draw = {"num_completions": args.completions, "seed": SeedKey(0, "benchmark", 0)}
    warm, tokens = (prompts[:1], 2) if args.device == "cpu" else (prompts, 2)
    if args.warm_like_vllm:
        warm, tokens = prompts[:4], args.new_tokens
    sampler.sample(warm, params=SamplingParams(max_new_tokens=tokens), **draw)
    before, started = sampler.flops, time.perf_counter()
    rollouts = sampler.sample(prompts, params=SamplingParams(max_new_tokens=args.new_tokens), **draw)
    seconds = time.perf_counter() - started
    tokens = sum(len(rollout.ids) for rollout in rollouts)
    cost = sampler.cost
    prefill = sum(cost.sample(len(prompt), [1]) for prompt in prompts)
    weights = (cost.trunk_weights + cost.head_weights) * model.dtype.itemsize * (args.new_tokens - 1)
    bound = prefill / flops + max((sampler.flops - before - prefill) / flops, weights / copy)
    bound += _cache_bytes(model, prompts, args) / copy
    found = {"tokens_per_s": tokens / seconds, "seconds": seconds, "tokens": tokens, "share_of_bound": bound / seconds}
    found["tokens_per_s_at_bound"] = tokens / bound
    print(json.dumps({**found, "tier": sampler.tier, "matmul_flops_per_s": flops, "copy_bytes_per_s": copy}))


def _prompt(tokenizer: Any, messages: Any, args: argparse.Namespace) -> tuple[int, ...]:
    """As in the peer's script: the prompt is cut to its last tokens, or repeated, to have the requested length."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    if args.min_prompt:
        ids = ids * (args.min_prompt // len(ids) + 1)
    return tuple(ids[-max(args.max_prompt, args.min_prompt) :])


def _cache_bytes(model: Any, prompts: list[tuple[int, ...]], args: argparse.Namespace) -> float:
    """Bytes read over all steps: each step reads the prompts once, and each completion's own tokens so far."""
    config = model.config
    width = config.num_key_value_heads * (
        getattr(config, "head_dim", 0) or config.hidden_size // config.num_attention_heads
    )
    token = 2 * width * config.num_hidden_layers * model.dtype.itemsize
    steps = args.new_tokens - 1  # the first token is drawn from what the prompt's last gave
    own = len(prompts) * args.completions * steps * (steps + 1) / 2
    return token * (steps * sum(map(len, prompts)) + own)


def _copy_rate(device: str) -> float:
    """Bytes that a large copy reads and writes per second: the best of a few."""
    import torch

    source = torch.zeros(2**26 if device == "cpu" else 2**29, device=device)
    target = torch.zeros_like(source)
    target[0].item()  # waits for the device
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        target.copy_(source)
        target[0].item()
        best = min(best, time.perf_counter() - started)
    return 2.0 * source.numel() * source.itemsize / best


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _long_prompts(args: argparse.Namespace, prompts: int, length: int, file: Path) -> str:
    """The data's prompts, each message repeated until it fills the last `length` tokens by itself.

    vLLM's script can cut prompts, but not lengthen them.
    """
    with open(args.data, encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(prompts), lines, strict=False)]
    for row in rows:
        for message in row["prompt"]:
            message["content"] = f"{message['content']} " * length  # a word at least
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def beside_vllm(setting: dict[str, int], args: argparse.Namespace) -> dict[str, Any]:
    """Runs vLLM's script and Assent on the same prompts, with the same warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        data, longest = args.data, args.max_prompt
        if longest < setting["min-prompt"]:
            longest = setting["min-prompt"]
            data = _long_prompts(args, setting["prompts"], longest, Path(folder) / "prompts.jsonl")
        sizes = ["--prompts", str(setting["prompts"]), "--completions", str(setting["completions"])]
        sizes += ["--max-prompt", str(longest), "--new-tokens", str(args.new_tokens)]
        sizes += ["--model", args.model, "--data", data]
        vllm = run([args.vllm_python, str(Path(args.scripts) / "vllm_generate.py"), *sizes])
        ours = run([sys.executable, __file__, "--sample", "--warm-like-vllm", *sizes])
    return {"vllm": vllm, "assent_warm": ours, "ratio_to_vllm": ours["tokens_per_s"] / vllm["tokens_per_s"]}


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    sizes = [x for key, value in SETTINGS[name].items() for x in (f"--{key}", str(value))]
    sizes += ["--new-tokens", str(args.new_tokens), "--model", args.model, "--data", args.data]
    rounds = []
    for number in range(args.repeats):
        ours = run([sys.executable, __file__, "--sample", *sizes, "--device", args.device, "--dtype", args.dtype])
        rounds.append({"assent": ours})
        if args.device == "cpu":
            peer = run([args.peer_python, str(Path(args.scripts) / "hf_generate.py"), *sizes])
            rounds[-1] |= {"generate": peer, "ratio": ours["tokens_per_s"] / peer["tokens_per_s"]}
        if args.vllm_python is not None:
            rounds[-1] |= beside_vllm(SETTINGS[name], args)
        print(f"{name} round {number + 1}: {json.dumps(rounds[-1])}", file=sys.stderr)
    figures = ("tokens_per_s", "tokens_per_s_at_bound", "share_of_bound")
    medians = {name: statistics.median(row["assent"][name] for row in rounds) for name in figures}
    if args.device == "cpu":
        medians["speed_over_generate"] = statistics.median(row["ratio"] for row in rounds)
    if args.vllm_python is not None:
        medians["speed_over_vllm"] = statistics.median(row["ratio_to_vllm"] for row in rounds)
    return {"medians": medians, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="comparisons or prompts, JSONL with messages")
    parser.add_argument("--peer-python", default=sys.executable, help="python of an environment with transformers")
    parser.add_argument("--vllm-python", help="python of an environment with vLLM (float32, on the CPU)")
    parser.add_argument("--scripts", default="../shared/bench", help="folder with hf_generate.py and vllm_generate.py")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="on another than cpu, Assent runs alone")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sample", action="store_true", help="one run of Assent's side")
    parser.add_argument("--warm-like-vllm", action="store_true", help="of --sample: what vLLM's script does before")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--completions", type=int, default=1)
    parser.add_argument("--max-prompt", type=int, default=192)
    parser.add_argument("--min-prompt", type=int, default=0)
    args = parser.parse_args()
    if args.sample:
        return sample(args)
    if args.vllm_python and args.device != "cpu":
        parser.error("--vllm-python runs on the CPU: give --device cpu")
    results = {name: compare(name, args) for name in args.settings}
    versions = {name: version(name) for name in ("torch", "transformers", "assent")}
    head = {"date": time.strftime("%Y-%m-%d"), "machine": machine(args.device), "versions": versions}
    print(json.dumps({**head, **results}, indent=1))


if __name__ == "__main__":
    main()
