"""`assent new-model`: a small Llama with random weights, and a byte-level BPE tokenizer trained on the given texts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assent.errors import DataError, DataFileNotFoundError, ModelError
from assent.models.saving import save_model
from assent.models.templates import attach_template

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
LEAST_VOCABULARY = 256 + len(SPECIAL) + 2


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: the folder, parameters, vocabulary size, and characters of the tokenizer's training text."""

    path: Path
    parameters: int
    vocab_size: int
    characters: int

    def line(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters, vocabulary {self.vocab_size} from {self.characters} characters "
            f"-> {self.path}"
        )


def new_model(
    folder: str | Path,
    *,
    text_files: Sequence[str | Path] = (),
    texts: Iterable[str] = (),
    vocab_size: int = 8192,
    hidden_size: int = 256,
    layers: int = 8,
    heads: int = 8,
    context: int = 2048,
    chat_template: str = "chatml",
    seed: int = 0,
) -> Summary:
    """Writes a model folder. Its tokenizer is trained on `texts` and `text_files`: plain text, or all strings in JSONL,
    each also gzipped.

    The same arguments give the same bytes. Raises DataError for files without text, ModelError for impossible sizes.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise ModelError("the folder is not empty", got=target, fix="give a new folder, or empty this one")
    if hidden_size % heads or (hidden_size // heads) % 2:
        raise ModelError(
            "hidden_size must be an even multiple of heads", got=f"hidden_size {hidden_size}, heads {heads}"
        )
    if vocab_size < LEAST_VOCABULARY:
        raise ModelError(
            "the vocabulary is too small for 256 bytes and the control tokens",
            got=vocab_size,
            expected=f"at least {LEAST_VOCABULARY}",
        )
    tokenizer, characters = _tokenizer(_all_texts(text_files, texts), vocab_size)
    attach_template(None, tokenizer, chat_template)
    tokenizer.model_max_length = context
    model = _model(tokenizer, hidden_size=hidden_size, layers=layers, heads=heads, context=context, seed=seed)
    save_model(target, model, tokenizer)
    return Summary(target, sum(p.numel() for p in model.parameters()), len(tokenizer), characters)


def _tokenizer(texts: Iterator[str], vocab_size: int) -> tuple[PreTrainedTokenizerFast, int]:
    characters = 0

    def counted() -> Iterator[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield text

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,  # room for two control tokens of the chat template
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(counted(), trainer)
    if not characters:
        raise DataError("there is no text to train a tokenizer on", fix="give files with text")
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=pad, bos_token=bos, eos_token=eos), characters


def _model(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, heads: int, context: int, seed: int
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _all_texts(files: Sequence[str | Path], texts: Iterable[str]) -> Iterator[str]:
    for file in files:
        yield from _texts(Path(file))
    yield from texts


def _texts(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise DataFileNotFoundError("the text file does not exist", got=path)
    name = path.name.removesuffix(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not name.endswith(".jsonl"):
                    yield line
                elif line.strip():
                    yield from _strings(_parsed(line, path, number))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"the text file cannot be read: {error}", got=path) from error


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} is not JSON: {error}", got=path) from error


def _strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, except keys and the roles of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "role":
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
