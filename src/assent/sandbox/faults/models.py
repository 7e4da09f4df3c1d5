"""The tiny models that faulty and healthy runs start from, made once and kept in a folder."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from assent.config.stages import SftConfig
from assent.models.new_model import new_model
from assent.sandbox.faults.tasks import FILLERS, NOUNS, WORDS, demonstrations
from assent.stages import sft
from assent.types import PromptGroup

Variant = Literal["raw", "base", "endless"]
"""raw: random weights. base: fine-tuned on answers of every skill. endless: it was never taught to end."""
CONTEXT = 64
STEPS = 160
CUT = 30
"""Answers that are cut lose their end, so that a model that sees only such answers never learns to end."""


def model_folder(root: Path, family: str, variant: Variant = "base", *, steps: int = STEPS) -> str:
    """The folder of a model of a family, made if it is not there."""
    name = f"{family}-{variant}" if variant != "raw" else "raw"
    return made_once(root / name, lambda scratch: _make(root, scratch, family, variant, steps))


def made_once(folder: Path, make: Callable[[Path], Path]) -> str:
    """The folder, which `make` makes within a folder of its own, so that no other process finds half of it."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = make(Path(scratch))
            try:
                os.replace(made, folder)
            except OSError:  # another process was quicker; a model of the same seed is the same
                if not folder.exists():
                    raise
    return str(folder)


def _make(root: Path, scratch: Path, family: str, variant: Variant, steps: int) -> Path:
    if variant == "raw":
        rng = random.Random(0)
        texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(400)]
        new_model(scratch / "raw", texts=texts, vocab_size=384, hidden_size=32, layers=1, heads=2, context=CONTEXT)
        return scratch / "raw"
    start = model_folder(root, family, "raw" if variant == "base" else "base", steps=steps)
    rows = demonstrations(family, 800, seed=0 if variant == "base" else 1)
    if variant == "endless":
        rows = _endless(rows)
    config = SftConfig(
        model=start,
        data=family,
        output_dir=str(scratch / "run"),
        max_length=CUT if variant == "endless" else CONTEXT,
        batch_size=16,
        max_steps=steps,
        learning_rate=5e-3,
        warmup_ratio=0.1,
        save_steps=0,
        device="cpu",
    )
    sft.train(config, data=rows)
    return scratch / "run" / "model"


def _endless(rows: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Answers that go on beyond what the model is shown of them."""
    rng = random.Random(1)
    return [
        PromptGroup(
            prompt=row.prompt,
            completions=(f"{row.completions[0]} {' '.join(rng.choices((*FILLERS, *NOUNS), k=36))}",),
            columns=row.columns,
        )
        for row in rows
    ]
