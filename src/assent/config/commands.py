"""Configuration of the commands that train nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assent.config.options import NonNegative, Options, Positive


class NewModelConfig(Options):
    """A small model with random weights (Llama), and a byte-level BPE tokenizer learned from text files."""

    output_dir: str
    """Folder to write; it must not exist, or be empty."""
    text_files: Annotated[list[str], Field(min_length=1)]
    """Text to learn the tokenizer from: plain text, or JSONL of which every string is used; also gzipped."""
    vocab_size: Positive = 8192
    """Entries of the vocabulary, control tokens included."""
    hidden_size: Positive = 256
    """Width of the model."""
    layers: Positive = 8
    """Transformer layers."""
    heads: Positive = 8
    """Attention heads per layer."""
    context: Positive = 2048
    """Longest sequence, in tokens."""
    chat_template: str = "chatml"
    """chatml, or a file with a Jinja template."""
    seed: NonNegative = 0
    """The weights are a function of it."""


class DataCheckConfig(Options):
    """What is in a file of prompts and completions, and what is wrong with it. Nothing is written."""

    file: str
    """A file, a folder or a hub name."""
    layout: str | None = None
    """Layout of the columns; none given: found from their names."""
    split: str | None = None
    """Split of a folder or hub dataset that has several."""
    against: str | None = None
    """Another file, for the overlap of prompts (the held-out split, say)."""
