"""float32 matrix products of training: by torch as it stands (MKL on x86) and by oneDNN, side by side.

    python benchmarks/products.py

For each shape (rows, inputs, outputs) and each of the three products of a linear layer: the median over rounds, in
turn, of the two rates in GFLOP/s. Prints one JSON document. `assent.models.products` says where oneDNN is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from sandbox import platform_name
from torch import Tensor

from assent.models import products

SHAPES = [(2048, 256, 256), (2048, 256, 688), (2048, 688, 256), (256, 256, 8192), (2048, 576, 1536), (64, 256, 688)]


def rate(product: Callable[[], Tensor], flops: float) -> float:
    started = time.perf_counter()
    number = 0
    while time.perf_counter() - started < 0.05:
        product()
        number += 1
    return number * flops / (time.perf_counter() - started) / 1e9


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
    document = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions}
    print(json.dumps({**document, "taken_here": products.onednn_is_faster(), "products": rows}, indent=1))


if __name__ == "__main__":
    main()
