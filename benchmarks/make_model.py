"""Makes a model with random weights, in a known model's shape, with another model's tokenizer.

python benchmarks/make_model.py --shape 135m --tokenizer MODEL --output-dir OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import assent  # noqa: F401  # first: it says how OpenMP's threads wait

# isort: split
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from assent.models.loading import load_tokenizer, save_model


def qwen(hidden: int, intermediate: int, layers: int, heads: int, *, vocab_size: int = 151936) -> dict[str, Any]:
    """Qwen2.5's options."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": 2, "max_position_embeddings": 32768}
    more = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    return {"model_type": "qwen2", "vocab_size": vocab_size, **sizes, **heads_of, **more}


SMOLLM = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
SMOLLM |= {"num_key_value_heads": 3, "max_position_embeddings": 8192}
LLAMA = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA |= {"num_key_value_heads": 8, "max_position_embeddings": 8192}
SHAPES = {
    "tiny": qwen(64, 128, 2, 4, vocab_size=16384),
    "135m": {"model_type": "llama", "vocab_size": 49152, **SMOLLM},  # SmolLM2-135M
    "0.5b": qwen(896, 4864, 24, 14),  # Qwen2.5-0.5B
    "1.5b": qwen(1536, 8960, 28, 12),  # Qwen2.5-1.5B
    "8b": {"model_type": "llama", "vocab_size": 128256, **LLAMA, "tie_word_embeddings": False},  # Llama 3.1 8B
}


def make_model(
    shape: str, tokenizer_folder: str, folder: str | Path, *, device: str = "cpu", dtype: str = "float32"
) -> int:
    """Writes the folder, and returns the number of parameters. A large model is drawn faster on its `device`."""
    tokenizer = load_tokenizer(tokenizer_folder)
    tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    options = {"tie_word_embeddings": True, **SHAPES[shape], **tokens}
    config = AutoConfig.for_model(**options)
    if len(tokenizer) > config.vocab_size:
        raise SystemExit(f"the tokenizer has {len(tokenizer)} tokens, shape {shape} only {config.vocab_size}")
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    save_model(folder, model, tokenizer)
    return model.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=list(SHAPES))
    parser.add_argument("--tokenizer", required=True, help="model folder whose tokenizer and template are used")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--device", default="cpu", help="where the weights are drawn")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    parameters = make_model(args.shape, args.tokenizer, args.output_dir, device=args.device, dtype=args.dtype)
    print(f"{parameters / 1e6:.1f} M parameters -> {args.output_dir}")


if __name__ == "__main__":
    main()
