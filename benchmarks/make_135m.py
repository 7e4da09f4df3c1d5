"""A random model of SmolLM2-135M's shape (49,152 tokens, 30 layers) with another model's tokenizer.

python benchmarks/make_135m.py --tokenizer MODEL --output-dir OUT
"""

from __future__ import annotations

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from assent.models.loading import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="model folder whose tokenizer and template are used")
    parser.add_argument("--output-dir", required=True)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters -> {args.output_dir}")


if __name__ == "__main__":
    main()
