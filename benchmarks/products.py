"""CPU operations that Assent computes in another way than torch, both ways side by side.

    python benchmarks/products.py

Products: float32, by torch's own way (MKL on x86) and by oneDNN, for each shape (rows, inputs, outputs) and each of the
three products of a linear layer, in GFLOP/s. `assent.models.products` says where oneDNN is used.
Attention: bfloat16, forward and backward, by torch's fused kernel and by `assent.models.cpu_attention`, in ms.
Each figure is the median over rounds that take the ways in turn. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import assent  # noqa: F401  # first: it says how OpenMP's threads wait

# isort: split
import torch
from sandbox import platform_name
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from assent.models import cpu_attention, products

SHAPES = [(2048, 256, 256), (2048, 256, 688), (2048, 688, 256), (256, 256, 8192), (2048, 576, 1536), (64, 256, 688)]
SEGMENTS = [(4, 100, 100), (8, 64, 200), (1, 300, 300), (2, 300, 300), (4, 200, 500), (1, 700, 700)]
"""Segments, queries, keys; 8 heads of width 32, 4 of keys."""


def rate(product: Callable[[], Tensor], flops: float) -> float:
    started = time.perf_counter()
    number = 0
    while time.perf_counter() - started < 0.05:
        product()
        number += 1
    return number * flops / (time.perf_counter() - started) / 1e9


def attention(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, lq, lk in SEGMENTS:
        q, k, v = (torch.randn(number, h, n, 32).bfloat16().requires_grad_() for h, n in ((8, lq), (4, lk), (4, lk)))
        mask = torch.full((number, 1, lq, lk), float("-inf")).triu(1 + lk - lq)
        grad = torch.randn(number, 8, lq, 32).bfloat16()
        plain, narrow = lq == lk, mask.bfloat16()
        fused = partial(scaled_dot_product_attention, is_causal=plain, attn_mask=None if plain else narrow)
        ways = {
            "torch": lambda q=q, k=k, v=v, fused=fused: fused(q, k, v, enable_gqa=True),
            "assent": lambda q=q, k=k, v=v, mask=mask: cpu_attention.attend(q, k, v, mask=mask, scale=32**-0.5),
        }
        found = []
        for _ in range(rounds):
            seconds = {}
            for way, attend in ways.items():
                started = time.perf_counter()
                torch.autograd.grad(attend(), (q, k, v), grad)
                seconds[way] = time.perf_counter() - started
            found.append(seconds)
        shown = {way: 1e3 * statistics.median(r[way] for r in found[1:]) for way in ways}
        ratio = statistics.median(r["torch"] / r["assent"] for r in found[1:])
        rows.append({"segments": number, "queries": lq, "keys": lk, **shown, "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rows = []
    for m, k, n in SHAPES:
        x, weight, grad = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        for name, a, b in [
            ("output", x, weight),
            ("input's gradient", grad, weight.t()),
            ("weight's gradient", grad.t(), x.t()),
        ]:
            ways = {"torch": lambda a=a, b=b: a @ b.t(), "onednn": lambda a=a, b=b: products._product(a, b)}
            found = [{way: rate(product, 2.0 * m * k * n) for way, product in ways.items()} for _ in range(args.rounds)]
            shown = {way: statistics.median(r[way] for r in found) for way in ways}
            ratio = statistics.median(r["onednn"] / r["torch"] for r in found)
            rows.append({"rows": m, "inputs": k, "outputs": n, "product": name, **shown, "ratio": ratio})
    machine = {"processor": platform_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    versions = {name: version(name) for name in ("torch", "assent")}
    document: dict[str, object] = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions}
    document |= {"onednn_is_taken": products.onednn_is_faster(), "products": rows}
    document |= {"attention_is_taken": cpu_attention.serves(torch.ones(1).bfloat16()), "attention": attention(9)}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
