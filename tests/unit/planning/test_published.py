"""The breakdown beside figures that others have published (docs/plan.md has the table)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.models.shape import GivenLengths, ModelShape
from assent.planning.memory import PROGRAM, Learned, predict
from assent.planning.setup import Setup
from tests.unit.planning.test_fit import LLAMA_8B

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"
GPT2_XL: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "vocab_size": 50257, "n_positions": 1024,
}  # fmt: skip
GIB = 2**30


def shown(what: str) -> str:
    """Our figure in the table's row that begins so."""
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {what} |"))
    return row.split("|")[3].strip()


def test_adam_in_mixed_precision_takes_16_bytes_for_each_parameter() -> None:
    """Rajbhandari et al., arXiv:1910.02054, §3.1: 2 for the weight, 2 for its gradient, 12 for AdamW's float32 copy and
    moments. A model of 1.5 billion parameters takes 24 GB at least."""
    shape = ModelShape.of(GPT2_XL)
    one = Learned(Setup("sft", dtype="bfloat16", master_weights=True), shape, "cuda", scorer=False)
    assert shape.num_parameters == 1_557_611_200
    assert one.weights + one.gradients + one.optimiser == 16 * shape.num_parameters
    assert shown("AdamW, bfloat16 and float32 copies, GPT-2 of 1.5 B") == f"{16 * shape.num_parameters / 1e9:.1f} GB"


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("Llama 3.1 8B, LoRA, recomputing", {"lora_r": 8, "gradient_checkpointing": True}),
        ("Llama 3.1 8B, QLoRA, recomputing", {"lora_r": 8, "in_4bit": True, "gradient_checkpointing": True}),
        ("Llama 3.1 8B, LoRA", {"lora_r": 8}),
    ],
)
def test_the_pages_figures_are_the_plans(what: str, more: dict[str, Any]) -> None:
    """Two packed rows of 2,048 tokens, tensors alone, as torch counts its peak."""
    rows = [GivenLengths(1, (2047,), 2047)] * 2
    setup = Setup("sft", dtype="bfloat16", micro_batch_tokens=4096, **more)
    memory = predict(setup, ModelShape.of(LLAMA_8B), rows, device="cuda")
    assert shown(what) == f"{(memory.allocated - PROGRAM['cuda']) / GIB:.1f} GiB"
