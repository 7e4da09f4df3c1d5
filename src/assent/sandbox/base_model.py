"""The sandbox's base model: a small Llama trained on raw documents, with a tokenizer for the sandbox's language.

`base_folder(seed)` is an ordinary model folder: shipped for seed 0, built once and cached for other seeds. To rebuild:

    python -m assent.sandbox.base_model --seed 0 --out DIR

The tokenizer has one piece for each word of the language and one for each of the 256 bytes, so every string can be
encoded and decodes to itself. Its chat template has system, user and assistant turns, `<|user|>…<|end|>`; the base
model never saw a turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assent.runs.files import user_cache
from assent.sandbox import language
from assent.sandbox.documents import documents
from assent.sandbox.world import VERSION

ASSETS = Path(__file__).with_name("assets")
PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PIECES = r" ?[A-Za-z0-9]+|\s+|[^A-Za-z0-9\s]"
DOCUMENTS = 40_000
"""Documents, each read once: about 3.5 million tokens, about seven minutes on one core."""
BATCH_TOKENS = 3072
LEARNING_RATE = 3e-3
"""AdamW's peak rate, for the embedding and the gains."""
MATRIX_RATE = 0.02
"""Muon's peak rate, for the matrices."""
FACTS_WEIGHT = 0.2
"""Loss weight of the tokens before the first full stop; all others have weight 1."""


def _words() -> list[str]:
    """Every word of the language with a space before it, and without the space if it can begin a text."""
    import re

    lexicon = {*language.PRODUCTS, *language.NAMES, *language.CITIES, *language.CODES}
    words = {f" {word}" for word in lexicon} | {f" {n}" for n in language.NUMBERS}
    for text in documents(0, 4000):  # a few hundred words, each of which is in many of these documents
        words |= set(re.findall(_PIECES, text))
    begin = {language.capitalised(t).split()[0] for ts in language.STATEMENTS.values() for t in ts}
    begin |= {language.capitalised(t).split()[0] for ts in language.ACTS.values() for t in ts if t[0] != "{"}
    words |= begin | set(language.OPENERS) | set(language.NAMES)
    return sorted(word for word in words if len(word.encode()) > 1)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, which depends only on the language."""
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary: list[tuple[str, float]] = [(token, 0.0) for token in SPECIAL]
    vocabulary += [(byte, -20.0) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary += [(word.replace(" ", "Ġ"), -8.0) for word in _words()]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """About one million parameters."""
    return LlamaConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int, n: int) -> Iterator[torch.Tensor]:
    """Right-padded batches (B, T) of about BATCH_TOKENS: whole documents of similar length, each ending with EOS."""
    order = torch.Generator().manual_seed(seed)
    pool: list[list[int]] = []
    for index, text in enumerate(documents(seed, n), 1):
        pool.append([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id])
        if len(pool) < 2048 and index < n:
            continue
        pool.sort(key=len)
        bins: list[list[list[int]]] = [[]]
        for row in pool:
            if (len(bins[-1]) + 1) * len(row) > BATCH_TOKENS:
                bins.append([])
            bins[-1].append(row)
        for place in torch.randperm(len(bins), generator=order).tolist():
            rows = [torch.tensor(row) for row in bins[place]]
            yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        pool = []


def _optimisers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding and gains: the model learns to copy facts much sooner."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    held = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in held]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, stop: int, pad: int) -> torch.Tensor:
    """Mean cross-entropy over the tokens of a batch (B, T). The list of facts is unpredictable and counts less."""
    targets = ids[:, 1:]
    weights = torch.where((ids[:, :-1] == stop).cumsum(1) == 0, FACTS_WEIGHT, 1.0) * (targets != pad)
    logits = model(input_ids=ids).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def train(seed: int, *, n: int, report: bool = True) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Trains a seed's base model: one pass over `n` documents, warm-up and cosine; deterministic on one machine."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random state unchanged
        torch.manual_seed(seed)
        model = LlamaForCausalLM(build_config(tokenizer))
    steps = max(1, sum(1 for _ in _batches(tokenizer, seed, 2048)) * n // 2048)
    optimisers = _optimisers(model)
    peaks = [o.param_groups[0]["lr"] for o in optimisers]
    stop = int(tokenizer.convert_tokens_to_ids("."))  # type: ignore[arg-type]
    started = time.monotonic()
    for step, ids in enumerate(_batches(tokenizer, seed, n), 1):
        share = min(1.0, step / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * share
        loss = _loss(model, ids, stop, tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if report and (step % 50 == 0 or step == steps):
            seconds = time.monotonic() - started
            print(f"base model: step {step} of {steps}, loss {loss.item():.3f}, {seconds:.0f} s", file=sys.stderr)
    return model.eval(), tokenizer


def save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes an ordinary model folder with float32 weights (under four megabytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def base_folder(world_seed: int = 0) -> Path:
    """Folder of the base model for a world's seed: shipped, or built once (which takes minutes) and cached.

    The cache is `ASSENT_CACHE`, or `~/.cache/assent`.
    """
    shipped = ASSETS / f"base-v{VERSION}-seed{world_seed}"
    if shipped.exists():
        return shipped
    cache = user_cache()
    folder = cache / f"base-v{VERSION}-seed{world_seed}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        build(folder, world_seed)
    return folder


def build(folder: Path, seed: int, *, n: int | None = None) -> None:
    """Trains and writes a seed's base model. The folder is either complete or absent.

    It uses one thread, so that the bytes do not depend on the number of cores (two are hardly faster at this size).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            save(Path(temporary) / "model", *train(seed, n=n or DOCUMENTS))
        finally:
            torch.set_num_threads(threads)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(Path(temporary) / "model", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the sandbox's base model.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the documents and of the weights' start")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced if it exists")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="documents to train on")
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed, n=arguments.documents)
    print(json.dumps({"folder": str(arguments.out), "parameters": parameters(arguments.out)}))


def parameters(folder: Path) -> int:
    """Number of weights in the folder."""
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


if __name__ == "__main__":
    main()
