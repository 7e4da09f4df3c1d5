"""How many tokens a forward pass reads if the user does not choose, and how many positions are padding."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from assent.engine.micro_batches import Budget, default_tokens, padding_fraction
from assent.engine.runtime import Runtime
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.shape import CPU_UNITS, DEFAULT_TOKENS, FEWEST_TOKENS

GROUP = TokenGroup((1,) * 6, (TokenCompletion((2,) * 4), TokenCompletion((3,) * 2)))


class Module(nn.Module):
    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    ("layers", "tokens"),
    [(2, DEFAULT_TOKENS["cpu"]), (16, CPU_UNITS // (16 * 256)), (1000, FEWEST_TOKENS)],
)
def test_a_deep_model_reads_less_at_once_on_a_cpu(layers: int, tokens: int) -> None:
    for config in (LlamaConfig(num_hidden_layers=layers, hidden_size=256), GPT2Config(n_layer=layers, n_embd=256)):
        module = Module(config)
        assert default_tokens(module, "cpu") == tokens
        assert Budget.of(module, Runtime("cpu"), 0).tokens == tokens
        assert Budget.of(module, Runtime("cpu"), 77).tokens == 77
        assert default_tokens(module, "cuda") == DEFAULT_TOKENS["cuda"]


def test_a_module_without_a_configuration_reads_as_many_as_a_small_model() -> None:
    assert default_tokens(nn.Linear(2, 2), "cpu") == DEFAULT_TOKENS["cpu"]


def test_padding_is_counted_where_the_tier_pads() -> None:
    groups = [GROUP, TokenGroup((1,) * 2, (TokenCompletion((2,) * 4),))]  # rows of 12 and 6; padded 10, 8 and 6
    for tier, expected in (("segments", 0.0), ("mask", 6 / 24), ("padded", 6 / 30)):
        module = nn.Linear(1, 1)
        module.tier = tier  # type: ignore[assignment]
        assert padding_fraction(module, groups, [[0, 1]]) == pytest.approx(expected)
        assert padding_fraction(module, [GROUP], [[0], []]) == pytest.approx(0.1 if tier == "padded" else 0.0)
