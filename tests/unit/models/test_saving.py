"""The weights that another engine is handed: what the folder would hold, an adapter merged, the model untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from assent.models.saving import folder_weights
from tests.support.adapters import adapted
from tests.support.rollouts import sharp_llama

IDS = torch.tensor([[3, 7, 5, 11, 4, 9]])
LORAS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 4},
    "dora": {"lora_r": 4, "use_dora": True},
    "rslora": {"lora_r": 4, "use_rslora": True, "lora_alpha": 3.0},
}


@torch.no_grad()
def _of_folder(weights: dict[str, torch.Tensor], config: Any) -> torch.Tensor:
    """Logits of a fresh model that is given these weights and nothing else."""
    model = AutoModelForCausalLM.from_config(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    model.tie_weights()
    assert not unexpected
    assert set(missing) <= set(model.all_tied_weights_keys)
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_models_weights_are_its_own_tensors_tied_ones_once(tied: bool) -> None:
    model = sharp_llama(tie_word_embeddings=tied)
    weights = folder_weights(model)
    assert ("lm_head.weight" in weights) is not tied
    own = dict(model.named_parameters())
    assert all(weights[name].data_ptr() == own[name].data_ptr() for name in own)
    torch.testing.assert_close(_of_folder(weights, model.config), model(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", LORAS)
@pytest.mark.parametrize("new_rows", [False, True])
def test_an_adapter_is_merged_and_the_model_stays_to_the_bit(kind: str, new_rows: bool) -> None:
    plain = sharp_llama()
    start = folder_weights(copy.deepcopy(plain))
    model = adapted(plain, new_rows=new_rows, **LORAS[kind])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = folder_weights(model)
    assert weights.keys() == start.keys()
    changed = {name for name in start if not torch.equal(weights[name], start[name])}
    assert {"embed_tokens", "lm_head"} <= {name.split(".")[-2] for name in changed} if new_rows else changed
    torch.testing.assert_close(_of_folder(weights, plain.config), model(input_ids=IDS).logits, atol=2e-4, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_experts_that_are_stacked_in_memory_have_the_names_and_shapes_of_the_folder(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(
        MixtralConfig(vocab_size=32, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, **sizes)
    )
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    weights = folder_weights(model)
    assert weights.keys() == written.keys()
    assert any(".experts.1." in name for name in weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in written.items())
