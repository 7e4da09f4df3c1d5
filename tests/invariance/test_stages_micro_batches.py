"""A stage's figures and weights do not depend on how its steps are cut into micro-batches (law 2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from assent.cli import main
from assent.config.online import PpoConfig
from assent.engine.runtime import Runtime
from assent.models.loading import load_scorer, load_tokenizer, save_model
from assent.stages.model_loading import load_rewards
from tests.support.models import tiny_model
from tests.support.rows import read_rows
from tests.support.stages import arguments, told, write_inputs

LEARNING_RATE = 3e-3


@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "ppo", "a2c", "grpo", "rloo"])
def test_micro_batches_change_speed_and_memory_only(command: str, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    other = tiny_model(tmp_path / "other", seed=1)  # with the policy itself, the first margins' signs are rounding
    found = {}
    for tokens in (32, 100_000):
        folder = tmp_path / str(tokens) / "run"
        argv = [*arguments(command, inputs, folder), "--micro-batch-tokens", str(tokens)]
        argv += ["--adam-epsilon", "1e-4" if command == "a2c" else "1e-3"]  # its unwhitened advantages are small
        argv += ["--reference", other] if command == "dpo" else []
        assert main(argv) == 0
        found[tokens] = folder
    rows = {tokens: told(folder / "metrics.jsonl") for tokens, folder in found.items()}
    passes = {tokens: micro_batches(folder) for tokens, folder in found.items()}
    assert max(passes[100_000]) == 1
    assert max(passes[32]) > 1
    assert [row["step"] for row in rows[32]] == [row["step"] for row in rows[100_000]]
    for small, whole in zip(rows[32], rows[100_000], strict=True):
        assert small.keys() == whole.keys()
        for name, value in whole.items():
            if not name.startswith("gate/"):
                assert small[name] == pytest.approx(value, rel=1e-5, abs=2e-5), (whole["step"], name)
    weights = {tokens: load_file(folder / "model" / "model.safetensors") for tokens, folder in found.items()}
    start = load_file(Path(inputs["model"]) / "model.safetensors")
    for name, whole_weights in weights[100_000].items():
        torch.testing.assert_close(weights[32][name], whole_weights, rtol=0, atol=1e-2 * LEARNING_RATE)
        if name in start and name.endswith("q_proj.weight"):
            assert (whole_weights - start[name]).abs().max() > 0.1 * LEARNING_RATE  # it did learn


def test_models_that_score_are_read_in_passes_of_as_many_tokens(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    tokenizer = load_tokenizer(model)
    save_model(tmp_path / "rm", load_scorer(model, seed=3), tokenizer)
    rewards = [str(tmp_path / "rm"), f"{{reward: 'implicit:{model},{model}', beta: 1}}"]
    sizes: dict[int, list[int]] = {}
    for tokens in (16, 0):
        config = PpoConfig(model=model, data="d", reward=rewards, output_dir="o", micro_batch_tokens=tokens)
        reward, readers = load_rewards(config, config.reward, tokenizer, runtime=Runtime("cpu"), trunk=None)
        assert len(readers) == 3
        for reader in readers:
            seen = sizes.setdefault(tokens, [])
            reader.module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].input_ids.numel()))
        reward.score(["what is 1 plus 1?", "what is 2 plus 2?"], ["it is 2.", "it is 4."])
    assert len(sizes[0]) == 3
    assert len(sizes[16]) == 6
    assert max(sizes[16]) <= 16 < min(sizes[0])


def micro_batches(folder: Path) -> list[float]:
    rows = read_rows(folder / "metrics.jsonl")
    return [row["perf/micro_batches"] for row in rows if "perf/micro_batches" in row]
