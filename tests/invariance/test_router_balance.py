"""The load-balancing loss of mixtures of experts: transformers' own number, however the step is cut and read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, MixtralConfig, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from assent.cli import main
from assent.engine.balance import Balanced
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.batch import TokenGroup
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.invariance.test_engine_whole_step import Baseline, Sorted
from tests.support.architectures import assert_same_gradients, gradients, make_model, random_groups
from tests.support.engine import Nll, Settings
from tests.support.models import random_model, write_folder
from tests.support.rows import read_rows
from tests.support.stages import arguments, write_inputs

SINGLE = random_groups(((11, (5,)), (4, (9,)), (17, (2,)), (1, (6,))))
PAIRS = random_groups(((11, (5, 12)), (4, (9, 3)), (17, (2, 14)), (1, (1, 6))), holes=False)
WANT = frozenset({"router"})


def plain(model: PreTrainedModel, rows: list[tuple[int, ...]], *, mask: Tensor | None = None) -> Tensor:
    """transformers' loss of padded rows; `mask`: other tokens to leave out than the padding."""
    width = max(map(len, rows))
    ids = torch.tensor([row + (0,) * (width - len(row)) for row in rows])
    real = torch.tensor([[t < len(row) for t in range(width)] for row in rows]).long()
    logits = model(input_ids=ids, attention_mask=real, use_cache=False, output_router_logits=True).router_logits
    config = model.config
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    return load_balancing_loss_func(logits, experts, config.num_experts_per_tok, real if mask is None else mask)


def balance(module: AlignmentModel, groups: list[TokenGroup]) -> Tensor:
    batch = pack(groups, device="cpu")
    objective = Balanced(Nll(), 1.0)
    terms, _ = objective(module(batch, objective.want), batch)
    return terms["aux"] / objective.counts(batch)["aux"]


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen2-moe", "qwen3-moe", "gpt-oss"])
def test_it_is_transformers_loss_of_the_same_rows_and_so_are_its_gradients(name: str) -> None:
    model = make_model(name)
    expected = plain(model, [group.prompt_ids + group.completions[0].ids for group in SINGLE])
    wanted = gradients(model, expected)
    module = AlignmentModel(model, kind="policy")
    found = balance(module, SINGLE)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(found.detach()) > 2.001  # of two experts for a token, 2 is balance
    assert_same_gradients(gradients(model, found), wanted)


def test_a_shared_prompt_counts_once_in_every_tier() -> None:
    """The plain model reads it with each completion: there its second reading is left out."""
    model = make_model("mixtral")
    rows = [group.prompt_ids + c.ids for group in PAIRS for c in group.completions]
    width = max(map(len, rows))
    prompts = [len(group.prompt_ids) for group in PAIRS for _ in group.completions]
    counted = [
        [(prompt if i % 2 else 0) <= t < len(row) for t in range(width)]
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]
    expected = float(plain(model, rows, mask=torch.tensor(counted).long()).detach())
    for tier in ("segments", "mask", "padded"):
        module = AlignmentModel(make_model("mixtral"), kind="policy", tier=tier)  # type: ignore[arg-type]
        assert float(balance(module, PAIRS)) == pytest.approx(expected, rel=1e-6)


def updated(objective: Any, groups: list[TokenGroup], **options: Any) -> tuple[dict[str, float], Learner]:
    learner = Learner(
        AlignmentModel(make_model("mixtral"), kind="policy"),
        runtime=Runtime("cpu"),
        optim=Settings(**{"adam_epsilon": 1.0, **options}),
        total_steps=10,
        router_aux_loss_coef=options.pop("coefficient", 0.3),
    )
    return learner.update(groups, objective), learner


@pytest.mark.parametrize("objective", [Nll(), Sorted()], ids=["rows", "whole step"])
def test_micro_batches_change_nothing(objective: Any) -> None:
    whole, expected = updated(objective, PAIRS, micro_batch_tokens=10_000)
    assert whole["loss/aux"] == pytest.approx(0.3 * whole["aux_loss"], rel=1e-6)
    assert whole["loss"] == pytest.approx(sum(v for k, v in whole.items() if k.startswith("loss/")), rel=1e-6)
    for options in ({"micro_batch_tokens": 1}, {"micro_batch_tokens": 30}, {"gradient_checkpointing": True}):
        cut, found = updated(objective, PAIRS, **options)
        for name in ("loss", "loss/aux", "aux_loss"):
            assert cut[name] == pytest.approx(whole[name], rel=1e-6)
        assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
        for ours, theirs in zip(found.module.parameters(), expected.module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("tokens", [20, 10_000])
def test_what_is_read_for_a_baseline_alone_is_not_balanced(tokens: int) -> None:
    aside = [replace(g, completions=(g.completions[0], replace(g.completions[1], aside=True))) for g in PAIRS]
    aside = [replace(g, completion={"thumb": np.array([1.0, np.nan])}) for g in aside]
    metrics, _ = updated(Baseline(), aside, micro_batch_tokens=tokens)
    rows = [group.prompt_ids + group.completions[0].ids for group in PAIRS]
    assert metrics["aux_loss"] == pytest.approx(float(plain(make_model("mixtral"), rows)), rel=1e-6)
    no_gradient = [replace(g, completion={"thumb": np.array([1.0, np.nan])}) for g in PAIRS]  # but not aside
    metrics, _ = updated(Baseline(), no_gradient, micro_batch_tokens=tokens)
    whole, _ = updated(Nll(), PAIRS)
    assert metrics["aux_loss"] == pytest.approx(whole["aux_loss"], rel=1e-6)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a tiny Mixtral as `moe`, whose experts are not used alike."""
    folder = tmp_path_factory.mktemp("inputs")
    paths = write_inputs(folder)
    tokenizer = AutoTokenizer.from_pretrained(paths["model"])
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=1,
        max_position_embeddings=128, **sizes, **ids,
    )  # fmt: skip
    write_folder(folder / "moe", random_model(config, scale=5.0), tokenizer)
    return {**paths, "llama": paths["model"], "model": str(folder / "moe")}


@pytest.mark.parametrize("command", ["sft", "dpo", "kto", "ppo", "a2c", "grpo", "rloo", "online-dpo"])
def test_every_command_that_trains_a_policy_adds_it(command: str, inputs: dict[str, str], tmp_path: Path) -> None:
    more = {"kto": ["--split-comparisons"], "rloo": ["--lora-r", "2"]}.get(command, [])
    argv = [*arguments(command, inputs, tmp_path / "run"), "--router-aux-loss-coef", "0.01", *more]
    assert main(argv) == 0
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "aux_loss" in row]
    assert len(rows) == 5
    assert all(row["loss/aux"] == pytest.approx(0.01 * row["aux_loss"]) for row in rows)
    assert all(math.isfinite(row["aux_loss"]) and row["aux_loss"] >= 1.0 - 1e-3 for row in rows)


def test_a_model_without_a_router_is_refused_before_anything_is_written(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", {**inputs, "model": inputs["llama"]}, tmp_path / "run")
    assert main([*argv, "--router-aux-loss-coef", "0.01"]) == 2
    assert "has no router" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--router-aux-loss-coef", "-1"]) == 2
    reward = arguments("reward", inputs, tmp_path / "reward")
    assert main([*reward, "--router-aux-loss-coef", "0.01"]) == 2  # it trains no policy
