"""Comparisons for reward models that are probed: a good answer is another one after another prompt, and not the longer.

A prompt asks for one of two kinds of words. Gold is the share of words of that kind, minus that of the other kind,
minus fillers. Marks and blanks mean nothing. `HELD_OUT` is the task that no threshold was ever chosen on.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from assent.models.loading import load_tokenizer
from assent.models.new_model import new_model
from assent.models.saving import save_model
from assent.sandbox.faults.models import made_once
from assent.sandbox.faults.patches import OPEN
from assent.sandbox.faults.tasks import ANIMALS, FILLERS, NOUNS, NUMBERS, THINGS
from assent.types import Preference, PromptGroup

Kind = Literal["llama", "gpt2"]
CONTEXT = 96
NOISE = 0.1
"""Gap in gold at which a label is right with odds of e to 1."""
TWIN = "twin"
"""Column of a row whose rejected answer is the chosen one, changed in the way that it names."""
TWINS = {"empty": 0.08, "doubled": 0.10, "open": 0.06}
"""Ways, and the shares of rows: the answer left empty, said twice, without its end token."""


@dataclass(frozen=True)
class Task:
    """verbs: the two ways to ask. words: what each of them asks for."""

    verbs: tuple[str, str]
    words: tuple[Sequence[str], Sequence[str]]


TASKS: Mapping[str, Task] = {
    "kinds": Task(("pets", "goods"), (ANIMALS, THINGS)),
    "counts": Task(("count", "name"), (NUMBERS, THINGS)),
    "tones": Task(("ask", "tell"), (("please", "thanks", "kindly", "dear"), ("now", "must", "stop", "go"))),
    "looks": Task(("paint", "measure"), (("red", "green", "blue", "grey"), ("long", "wide", "deep", "high"))),
}
HELD_OUT = "looks"
CALIBRATION = tuple(name for name in TASKS if name != HELD_OUT)


def comparisons(task: str, count: int, *, seed: int, held_out: bool = False) -> list[PromptGroup]:
    """Two answers each, labelled by gold with Bradley-Terry noise; the chosen one comes first. No held-out prompt is
    among the others, whatever the seeds."""
    rng = random.Random(f"assent-faults/scores/{task}/{seed}/{held_out}")
    found: dict[str, PromptGroup] = {}
    while len(found) < count:
        prompt = f"{rng.choice(TASKS[task].verbs)} {' '.join(rng.sample(NOUNS, 3))} :"
        if (hashlib.sha256(prompt.encode()).digest()[0] % 4 == 0) == held_out and prompt not in found:
            pair = (_answer(rng, task), _answer(rng, task))
            gap = gold(task, prompt, pair[0]) - gold(task, prompt, pair[1])
            wins = rng.random() < 1 / (1 + math.exp(-gap / NOISE))
            found[prompt] = _compared(prompt, pair if wins else pair[::-1])
    return list(found.values())


def with_twins(rows: Sequence[PromptGroup], *, seed: int) -> list[PromptGroup]:
    """The rows, some of which compare their chosen answer with itself, changed: so that a reward model knows that no
    answer, an answer said twice and an answer without an end are worse."""
    rng = random.Random(f"assent-faults/scores/twins/{seed}")
    rest = 1 - sum(TWINS.values())
    kinds = rng.choices([*TWINS, ""], weights=[*TWINS.values(), rest], k=len(rows))
    return [_twin(row, kind) if kind else row for row, kind in zip(rows, kinds, strict=True)]


def exchanged(row: PromptGroup) -> PromptGroup:
    """The row with chosen and rejected the other way round."""
    columns = {**row.columns, **({OPEN: [1 - place for place in row.columns[OPEN]]} if OPEN in row.columns else {})}
    return replace(row, completions=row.completions[::-1], columns=columns)


def gold(task: str, prompt: str, answer: str) -> float:
    words = answer.rstrip(".").split()
    kinds = TASKS[task].words if prompt.startswith(TASKS[task].verbs[0]) else TASKS[task].words[::-1]
    wanted, other = (sum(word in kind for word in words) for kind in kinds)
    fillers = sum(word in FILLERS for word in words)
    return (0.9 * (wanted - other) - 0.6 * fillers) / max(1, len(words))


def raw_model(root: Path, kind: Kind = "llama") -> str:
    """The folder of a small model with random weights, made if it is not there: a Llama, whose positions are relative,
    or a GPT-2, which counts them from the first token on."""
    return made_once(root / f"scores-{kind}", lambda scratch: _raw(scratch / "raw", root, kind))


def _raw(folder: Path, root: Path, kind: Kind) -> Path:
    if kind == "llama":
        rng = random.Random(0)
        words = sorted({*FILLERS, *NOUNS, *(word for task in TASKS.values() for word in _vocabulary(task))})
        texts = [f"{' '.join(rng.choices(words, k=12))} : ." for _ in range(600)]
        new_model(folder, texts=texts, vocab_size=640, hidden_size=32, layers=2, heads=2, context=CONTEXT)
        return folder
    tokenizer = load_tokenizer(raw_model(root))
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(folder, GPT2LMHeadModel(config), tokenizer)


def _vocabulary(task: Task) -> tuple[str, ...]:
    return (*task.verbs, *task.words[0], *task.words[1])


def _compared(prompt: str, pair: tuple[str, str], **columns: object) -> PromptGroup:
    return PromptGroup(prompt=prompt, completions=pair, preference=Preference(ranking=(1, 2)), columns=columns)


def _answer(rng: random.Random, task: str) -> str:
    first, second = TASKS[task].words
    filler, share = rng.uniform(0.0, 0.6), rng.uniform(0.05, 0.95)
    words = [
        rng.choice(FILLERS if rng.random() < filler else first if rng.random() < share else second)
        for _ in range(rng.randint(2, 7))
    ]
    blank, mark = ("  " if rng.random() < 0.3 else " "), ("." if rng.random() < 0.5 else "")
    return f" {blank.join(words)}{mark}"


def _twin(row: PromptGroup, kind: str) -> PromptGroup:
    text = str(row.completions[0])
    worse = {"empty": "", "doubled": f"{text} {text}", "open": text}[kind]
    assert isinstance(row.prompt, str)
    return _compared(row.prompt, (text, worse), **{TWIN: kind}, **({OPEN: [1]} if kind == "open" else {}))
