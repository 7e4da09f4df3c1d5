"""Encodes text at a given place: at the start of a row, after other text, or after a control token (law 8).

SentencePiece-like tokenizers put a dummy prefix (`▁`, a space) before any text. It belongs to the start of a text, not
to a completion that continues a prompt. So `Encoder` holds the tokenizer as it is and, if it has a dummy prefix, a
variant without. A third variant, which knows no control tokens, encodes those that a person's text spells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from assent.errors import ModelError, TemplateError

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Unicode noncharacters (never used in interchange) that enclose a control token which a text spells."""

CHUNK = 2048
"""Texts encoded at once. It bounds the memory of the tokenizer's own records."""


class Encoder:
    """Encodes texts in batches. It reads the tokenizer when it is created, so add tokens before."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, eos_ids: frozenset[int] = frozenset()) -> None:
        """Raises ModelError for a tokenizer without a fast backend."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelError(
                "the tokenizer has no fast implementation",
                got=type(tokenizer).__name__,
                expected="a tokenizer of the tokenizers library (tokenizer.json)",
                fix="convert it once with transformers.AutoTokenizer and save the folder",
            )
        self._whole = backend
        added = backend.get_added_tokens_decoder()
        unknown = tokenizer.unk_token_id
        self.control = {
            t.content: i
            for i, t in added.items()
            if t.content and (i in eos_ids or (t.special and i != unknown))  # the text "<unk>" may stay unknown
        }
        """Control tokens by their text: the special tokens and those in the EOS set."""
        self.eos_literals = {text: i for text, i in self.control.items() if i in eos_ids}
        self._literal_of = {i: t.content for i, t in added.items()}
        longest_first = sorted(self.control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        eos_first = sorted(self.eos_literals, key=len, reverse=True)
        self._eos_pattern = re.compile(f"(?<!{OPEN})(?:{'|'.join(map(re.escape, eos_first)) or '(?!)'})")

    # ---- the tokenizer's variants

    @cached_property
    def _parts(self) -> tuple[Any, Any, bool]:
        """Normalizer and pre-tokenizer (as JSON) without the dummy prefix, and whether they had one."""
        normalizer, pre_tokenizer = _component(self._whole.normalizer), _component(self._whole.pre_tokenizer)
        bare_normalizer, bare_pre = _without_dummy_prefix(normalizer), _without_dummy_prefix(pre_tokenizer)
        return bare_normalizer, bare_pre, (bare_normalizer, bare_pre) != (normalizer, pre_tokenizer)

    @property
    def has_dummy_prefix(self) -> bool:
        return self._parts[2]

    @cached_property
    def _continuing(self) -> Tokenizer:
        if not self.has_dummy_prefix:
            return self._whole
        return self._variant(json.loads(self._whole.to_str()))

    @cached_property
    def _literal(self) -> Tokenizer:
        return self._variant(json.loads(self._whole.to_str()) | {"added_tokens": []})

    def _variant(self, definition: dict[str, Any]) -> Tokenizer:
        normalizer, pre_tokenizer, _ = self._parts
        changed = definition | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None}
        return Tokenizer.from_str(json.dumps(changed))

    @cached_property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that the tokenizer puts before a raw text: BOS, or nothing."""
        plain = self._ids(self._whole, ["a"])[0]
        whole = self._whole.encode("a", add_special_tokens=True).ids
        for i in range(len(whole) - len(plain) + 1):
            if whole[i : i + len(plain)] == plain:
                return tuple(whole[:i])
        return ()

    # ---- encoding

    def starting(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that begin a row (rendered or raw prompts). The template or the caller adds BOS."""
        return self._marked(texts, [self._whole] * len(texts))

    def following(self, texts: Sequence[str], before: Sequence[Sequence[int]]) -> list[list[int]]:
        """Ids of texts that continue rows. `before` holds the ids before each text.

        After a control token the text is encoded together with it, because a tokenizer may treat the text after one
        differently (a prefix, stripped blanks). After ordinary text it is encoded without the dummy prefix.
        """
        literal = [self._literal_of.get(ids[-1]) if ids else None for ids in before]
        joined = [(mark or "") + text for text, mark in zip(texts, literal, strict=True)]
        tokenizers = [
            self._whole if mark or not ids else self._continuing for ids, mark in zip(before, literal, strict=True)
        ]
        out = self._marked(joined, tokenizers)
        for i, mark in enumerate(literal):
            if mark and out[i][:1] == [before[i][-1]]:
                out[i] = out[i][1:]
            elif mark:  # the token merges with this text, so the text is encoded by itself
                out[i] = self._marked([texts[i]], [self._continuing])[0]
        return out

    def mark(self, text: str) -> str:
        """`text` with marks around the control tokens that it spells. `starting` and `following` keep them as text."""
        return self._control_pattern.sub(lambda m: f"{OPEN}{m[0]}{CLOSE}", text)

    def spells_control(self, text: str) -> bool:
        return self._control_pattern.search(text) is not None

    def cut_after_eos(self, text: str) -> tuple[str, str, bool]:
        """(the text through the first EOS that the template wrote, the text after it, whether there is one)."""
        found = self._eos_pattern.search(text)
        return (text[: found.end()], text[found.end() :], True) if found else (text, "", False)

    def _marked(self, texts: Sequence[str], tokenizers: Sequence[Tokenizer]) -> list[list[int]]:
        out: list[list[int]] = [[]] * len(texts)
        plain: dict[int, list[int]] = {}
        by_id: dict[int, Tokenizer] = {}
        for i, (text, tokenizer) in enumerate(zip(texts, tokenizers, strict=True)):
            if OPEN in text:
                out[i] = self._with_literals(text, tokenizer)
                continue
            # the variant without dummy prefix is used up to the first control token, then the tokenizer itself
            control = self._control_pattern.search(text) if tokenizer is not self._whole else None
            if control:
                head = self._ids(tokenizer, [text[: control.start()]])[0] if control.start() else []
                out[i] = head + self._ids(self._whole, [text[control.start() :]])[0]
                continue
            plain.setdefault(id(tokenizer), []).append(i)
            by_id[id(tokenizer)] = tokenizer
        for key, rows in plain.items():
            for i, ids in zip(rows, self._ids(by_id[key], [texts[i] for i in rows]), strict=True):
                out[i] = ids
        return out

    def _with_literals(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Encodes text, marked literal, text, … one by one. A template may have split a pair of marks."""
        pieces = re.split(f"{OPEN}({self._control_pattern.pattern}){CLOSE}|[{OPEN}{CLOSE}]", text)
        ids = self._marked([pieces[0]], [tokenizer])[0] if pieces[0] else []
        for i, piece in enumerate(pieces[1:], start=1):
            if piece:
                ids += self._spelled(piece) if i % 2 else self._marked([piece], [self._continuing])[0]
        return ids

    def _spelled(self, literal: str) -> list[int]:
        """Ids of a control token's spelling as text. If the vocabulary has the spelling, it is cut in two."""
        forbidden = self.control[literal]
        for cut in range(len(literal)):
            ids = [i for part in (literal[:cut], literal[cut:]) if part for i in self._ids(self._literal, [part])[0]]
            if forbidden not in ids:
                return ids
        raise TemplateError(
            f"the tokenizer reads the text {literal!r} as a control token, however it is cut",
            fix="remove this text from the data",
        )

    @staticmethod
    def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        # transformers shares the backend and leaves its last padding and truncation set
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = False
        out: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            encoded = tokenizer.encode_batch_fast(list(texts[start : start + CHUNK]), add_special_tokens=False)
            out += [e.ids for e in encoded]
        return out


def _component(component: Any) -> Any:
    """A normalizer or pre-tokenizer as JSON, without writing the vocabulary out."""
    return None if component is None else json.loads(component.__getstate__())


def _without_dummy_prefix(part: Any) -> Any:
    """The component's JSON without what it puts before a text; None if nothing is left."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel" and "add_prefix_space" in part:
        return part | {"add_prefix_space": False}
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        return part | {key: [kept for p in part[key] if (kept := _without_dummy_prefix(p)) is not None]}
    return part
