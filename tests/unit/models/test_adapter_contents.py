"""An adapter's folder may come from anybody: its numbers and its patterns are bounded."""

from __future__ import annotations

import pytest

from assent.errors import ModelError
from assent.models.adapter_contents import check_adapter_files


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_alpha": float("nan")}, "rank or an alpha"),
        ({"lora_alpha": float("inf")}, "rank or an alpha"),
        ({"r": 10**9}, "rank or an alpha"),
        ({"r": "2"}, "rank or an alpha"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "rank or an alpha"),
        ({"target_modules": "(([a-z_.0-9]+)+)+X"}, "without end"),
        ({"target_modules": ["(a|a)*b"]}, "without end"),
        ({"rank_pattern": {"(a+)+b": 2}}, "without end"),
        ({"exclude_modules": "a" * 20_000}, "without end"),
        ({"target_modules": ["a"] * 20_000}, "more layers than models have"),
    ],
)
def test_an_adapters_numbers_and_patterns_are_bounded(tmp_path, values, words):
    with pytest.raises(ModelError, match=words):
        check_adapter_files(tmp_path, {"peft_type": "LORA", **values})


def test_ordinary_patterns_of_adapters_are_taken(tmp_path):
    layers = r"model\.layers\.(\d+|x)\.(self_attn|mlp)\.(?:q_proj|k_proj|[a-z]+_proj)$"
    for pattern in ("all-linear", layers, r".*\.layers\..*\.(q_proj|v_proj)", "^(?!.*visual).*proj.*$", ["q_proj"]):
        with pytest.raises(ModelError, match="no weights in safetensors"):  # the next check
            check_adapter_files(tmp_path, {"target_modules": pattern, "r": 8, "lora_alpha": 16})
