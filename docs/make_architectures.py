"""Writes docs/architectures.md from benchmarks/architectures.json, which benchmarks/architectures.py keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "architectures.md"
FOUND = PAGE.parents[1] / "benchmarks" / "architectures.json"
EXPLAINED = 1e-5
"""The largest difference that is shown without the one in float64."""


def page(document: Mapping[str, Any]) -> str:
    """docs/architectures.md."""
    found: Mapping[str, Mapping[str, Any]] = document["architectures"]
    whole = {name: one for name, one in found.items() if not one["failed"]}
    parts = {name: one for name, one in found.items() if one["failed"] and "build" not in one["failed"]}
    unbuilt = {name: one["failed"]["build"] for name, one in found.items() if "build" in one["failed"]}
    tiers = [one["policy tier"] for one in found.values() if "policy tier" in one]
    versions = document["versions"]
    numbers = {
        "TYPES": len(found),
        "WALKED": len(whole) + len(parts),
        "SEGMENTS": tiers.count("segments"),
        "MASK": tiers.count("mask"),
        "PADDED": tiers.count("padded"),
        "ROWS": document["tokens"],
        "VERSIONS": f"{document['date']}, transformers {versions['transformers']}, torch {versions['torch']}",
    }
    text = INTRODUCTION
    for name, value in numbers.items():
        text = text.replace(f"{{{name}}}", str(value))
    lines = [text, TABLE, *(_row(name, one) for name, one in found.items() if "class" in one), ""]
    lines += ["## What did not work", "", *_told(parts), "", "## What was not walked", ""]
    lines += [f"- `{name}`: {_plain_words(reason)}" for name, reason in unbuilt.items()]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Architectures

What works with which architecture of transformers. `python benchmarks/architectures.py` walks all {TYPES} types that
transformers can load as causal models. It builds {WALKED} of them small, with their own kinds of
layers and random weights in float32, and reads rows of up to {ROWS} tokens, longer than every window, chunk or top-k of
these small models ({VERSIONS}).

- **tier**: how packed batches are read ([architecture](architecture.md)). {SEGMENTS} types read each prompt once with
  our attention (`segments`), {MASK} with their own attention under our mask (`mask`), {PADDED} in padded rows
  (`padded`), which give the same numbers and take longer. `sft`, `dpo`, `kto` and every other training of a policy work
  in each tier.
- **scorer**: `own class` is transformers' class for sequence classification; `score_head` is a head in a file of its
  own beside the model ([reward models](reward-models.md)). `reward` and the critic of `ppo` work with both.
- **sampling**: how `sample`, `best-of-n` and online training decode: `cohorts` and `dynamic` with a cache, `reread`
  without, which reads a row anew for each token. Where all three columns have figures, `ppo`, `grpo`, `rloo` and
  `online-dpo` have all they need.

The figures are the largest differences from the untouched model, one completion at a time: of a log-probability in
nats or a score, of a gradient relative to its tensor's largest entry. Where float32 differs by more than 1e-5,
the same difference in float64 stands in brackets: what vanishes there was rounding. `float32` in the brackets says
that parts of the class compute in float32 all the same, as the linear attention of Qwen3-Next and Qwen3.5 always does.

Encoders (BERT and its kin) are walked with `is_decoder: true`. Without it they read later tokens, and are refused.
"""
TABLE = """| type | tier | log-probability | gradient | scorer | score, value | gradient | sampling | log-probability |
|---|---|---|---|---|---|---|---|---|"""


def _row(name: str, one: Mapping[str, Any]) -> str:
    def figure(what: str) -> str:
        if what not in one:
            return "–"
        text = f"{one[what]:.0e}" if one[what] else "0"
        exact = one.get(f"{what} in float64")
        beside = "float32" if exact is None else f"{exact:.0e}" if exact else "0"
        return text if one[what] <= EXPLAINED or what.startswith("sample") else f"{text} ({beside})"

    cells = [f"`{name}`", one.get("policy tier", "–"), figure("policy difference"), figure("policy gradient")]
    cells += [one.get("head", "–"), figure("scorer difference"), figure("scorer gradient")]
    return "| " + " | ".join([*cells, one.get("decoder", "–"), figure("sample difference")]) + " |"


STAGES = {"policy": "training a policy", "scorer": "reward models and critics", "sample": "sampling"}


def _told(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"- `{name}`, {STAGES.get(stage, stage)}: {_plain_words(reason)}"
        for name, one in parts.items()
        for stage, reason in one["failed"].items()
    ] or ["Nothing."]


def _plain_words(reason: str) -> str:
    """In one line of Markdown."""
    reason = (
        reason.removeprefix("ValueError: ").removeprefix("ModelError: ").split(" expected: ")[0].split("; mask: ")[0]
    )
    return " ".join(reason.replace("|", "/").replace("<", "‹").replace(">", "›").split())


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(FOUND.read_text(encoding="utf-8"))), encoding="utf-8")
