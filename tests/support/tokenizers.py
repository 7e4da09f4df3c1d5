"""Small tokenizers of the kinds that models come with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from assent.models.templates import resolve_template
from assent.models.tokenizing import Tokenized, tokenize_groups
from assent.types import PromptGroup

CHATML = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEXTS = [
    "The quick brown fox jumps over the lazy dog. assistant user system INST",
    "Where is my order? It ships on Monday, and it arrives on Wednesday.",
    "hello there, how are you today? I am well, thank you.",
    "prompt completion hello world [INST] [/INST] hi ok yes no maybe\n",
]


def byte_bpe(*, template: str | None = CHATML, add_prefix_space: bool = False, special: tuple[str, ...] = ()):
    """GPT-2-like: byte-level BPE. `<|im_end|>` ends texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    bpe.decoder = decoders.ByteLevel()
    names = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", *special]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|im_end|>"
    )
    if template:
        tokenizer.chat_template = template
    return tokenizer


def metaspace(*, scheme: str = "always", template: str | None = INST):
    """SentencePiece-like: Unigram over `▁` words, a dummy prefix, BOS put before raw texts."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    unigram.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(TEXTS * 3, trainer)
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", unigram.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if template:
        tokenizer.chat_template = template
    return tokenizer


def prepending():
    """Llama 2's legacy kind: a normalizer that puts `▁` before every stretch of text."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False)
    bpe.train_from_iterator(TEXTS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = INST
    return tokenizer


def word_level(*, template: str | None = None):
    """Words of a closed vocabulary, split at blanks."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *dict.fromkeys(" ".join(TEXTS).split())]
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=level, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if template:
        tokenizer.chat_template = template
    return tokenizer


def tokenize(
    groups: Sequence[PromptGroup],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 512,
    *,
    train_on: Literal["all", "last"] = "all",
    max_new_tokens: int | None = None,
    **options: Any,
) -> Tokenized:
    """Groups by the tokenizer's own template; `options` are those of `resolve_template`."""
    return tokenize_groups(
        groups,
        tokenizer=tokenizer,
        template=resolve_template(tokenizer, **options),
        max_length=max_length,
        train_on=train_on,
        max_new_tokens=max_new_tokens,
    )
