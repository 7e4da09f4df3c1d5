"""`assent kto`: thumbs, the baseline of mismatched completions, and what a run of it logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.stages import KtoConfig
from assent.errors import DataError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.stages import kto
from assent.stages.kto import KtoObjective, with_mismatched
from assent.stages.references import REFERENCE
from assent.stages.selecting import to_thumbs
from assent.types import Preference, PromptGroup
from tests.support.models import tiny_model
from tests.support.rows import comparison, group, read_rows
from tests.support.stages import write_inputs


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def thumb(number: int, text: str, up: bool, **preference: Any) -> PromptGroup:
    return group(number, text, preference=Preference(thumbs=(up,), **preference))


ROWS = [thumb(i, f"it is {2 * i}." if i % 2 else "no" * (i + 1), i % 2 == 1) for i in range(8)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    return {**write_inputs(folder), "other": tiny_model(folder / "other", seed=1)}


@pytest.fixture
def run(inputs: dict[str, str], tmp_path: Path) -> Callable[..., Path]:
    def train(name: str = "run", *, data: Sequence[PromptGroup] = ROWS, **options: Any) -> Path:
        given = {"model": inputs["model"], "data": "rows", "output_dir": str(tmp_path / name), "max_length": 64}
        given |= {"learning_rate": 3e-3, "batch_size": 4, "max_steps": 3, "reference_cache": str(tmp_path / "cache")}
        kto.train(KtoConfig(**{**given, **options}), data=data)
        return tmp_path / name

    return train


def rows(folder: Path) -> list[dict[str, float]]:
    return read_rows(folder / "metrics.jsonl")


def thumbs(*ups: bool, mismatched: bool, weights: Sequence[float] = (1.0, 1.0)) -> list[TokenGroup]:
    """Completions of one token; the reference gives −3 to a row's own and −2 to the mismatched one."""
    reference = np.array([-3.0, -2.0] if mismatched else [-3.0])
    return [
        TokenGroup(
            (3,),
            (TokenCompletion((4,)),) * len(reference),
            completion={REFERENCE: reference, "thumb": np.array([float(up), np.nan][: len(reference)])},
            value={"weight": weight},
        )
        for up, weight in zip(ups, weights, strict=True)
    ]


def of(objective: KtoObjective, logprobs: Sequence[float], groups: list[TokenGroup]) -> tuple[float, dict[str, float]]:
    batch = pack(groups, device="cpu")
    sums, means = objective(Outputs(logprobs=torch.tensor(logprobs)), batch)
    (loss,), (count,) = sums.values(), objective.counts(batch).values()
    return float(loss) / count, {name: float(total) / float(n) for name, (total, n) in means.items() if n}


@pytest.mark.parametrize(("mismatched", "baseline"), [((-1.0, -1.6), 0.7), ((-4.0, -1.5), 0.0)])
def test_kto_by_hand(mismatched: tuple[float, float], baseline: float) -> None:
    """Own log-ratios 1 and −0.5; the baseline is the mean of the mismatched ones, not below zero."""
    objective = KtoObjective("kto", beta=0.5, desirable_weight=1.5, undesirable_weight=0.8)
    logprobs = (-2.0, mismatched[0], -3.5, mismatched[1])
    loss, means = of(objective, logprobs, thumbs(True, False, mismatched=True, weights=(3.0, 1.0)))
    up = 1.5 * (1 - sigma(0.5 * (1.0 - baseline)))
    down = 0.8 * (1 - sigma(0.5 * (baseline + 0.5)))
    assert loss == pytest.approx((3 * up + down) / 4, rel=1e-6)
    assert means["kl_baseline"] == pytest.approx(baseline, abs=1e-6)
    assert means["rewards/margins"] == pytest.approx(0.5 * 1.5)
    assert (means["rewards/chosen"], means["rewards/rejected"]) == pytest.approx((0.5, -0.25))
    assert (means["logps/chosen"], means["logps/rejected"]) == pytest.approx((-2.0, -3.5))


def test_mismatched_completions_get_no_gradient() -> None:
    logprobs = torch.tensor([-2.0, -1.0, -3.5, -1.5], requires_grad=True)
    batch = pack(thumbs(True, False, mismatched=True), device="cpu")
    sums, _ = KtoObjective("kto", beta=0.5)(Outputs(logprobs=logprobs), batch)
    (gradient,) = torch.autograd.grad(sums["kto"], logprobs)
    assert gradient[0] < 0 < gradient[2]
    assert gradient[1] == gradient[3] == 0


def test_the_loss_without_a_baseline_by_hand() -> None:
    objective = KtoObjective("apo_zero_unpaired", beta=0.5)
    loss, means = of(objective, (-2.0, -3.5), thumbs(True, False, mismatched=False))
    assert loss == pytest.approx((1 - sigma(0.5) + sigma(-0.25)) / 2, rel=1e-6)
    assert "kl_baseline" not in means


def token_groups(*prompts: int) -> list[TokenGroup]:
    return [
        TokenGroup((p,) * 3, (TokenCompletion((10 + i,) * (i + 1)),), completion={"thumb": np.array([1.0])})
        for i, p in enumerate(prompts)
    ]


def test_mismatched_completions_are_each_used_once_and_are_of_other_prompts() -> None:
    groups = token_groups(1, 2, 3, 4, 5)
    found = with_mismatched(groups, max_length=5, seed=0)
    assert [g.completions[0] for g in found] == [g.completions[0] for g in groups]
    others = [g.completions[1].ids[0] for g in found]
    assert sorted(others) == [10, 11, 12, 13, 14]
    assert all(other != 10 + i for i, other in enumerate(others))
    assert all(len(g.completions[1].ids) == min(2, other - 9) for g, other in zip(found, others, strict=True))
    assert all(g.completions[1].truncated == (other > 11) for g, other in zip(found, others, strict=True))
    shared = with_mismatched(token_groups(1, 1, 1, 2), max_length=9, seed=0)
    assert [g.completions[1].ids[0] for g in shared[:3]] == [13, 13, 13]
    with pytest.raises(DataError, match="all rows have the same prompt"):
        with_mismatched(token_groups(7, 7), max_length=9, seed=0)


def test_comparisons_are_split_when_asked() -> None:
    pair = replace(comparison(1, weight=2.0), logps=(-1.0, -2.0))
    kept, refused = to_thumbs([pair, ROWS[0]], split_comparisons=True)
    assert refused == {}
    assert [(g.completions[0], g.logps) for g in kept[:2]] == [
        (pair.completions[0], (-1.0,)),
        (pair.completions[1], (-2.0,)),
    ]
    assert [g.preference for g in kept[:2]] == [Preference(thumbs=(up,), weight=2.0) for up in (True, False)]
    assert kept[2] is ROWS[0]
    assert kept[0].source != kept[1].source
    with pytest.raises(DataError, match="has no thumb"):
        to_thumbs([pair])


@pytest.mark.parametrize("column", [{"chosen_probability": 0.1}, {"margin": 1.0}])
def test_what_a_thumb_cannot_carry_is_refused(column: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"a column that thumbs cannot carry\n.*{next(iter(column))}"):
        to_thumbs([comparison(1, **column)], split_comparisons=True)


def test_a_run_starts_at_one_half_and_learns(run: Callable[..., Path]) -> None:
    folder = run(max_steps=12, desirable_weight=1.2, batch_size=8)
    steps = [row for row in rows(folder) if "learning_rate" in row]
    assert steps[0]["loss"] == pytest.approx(0.5 * (1.2 + 1.0) / 2, rel=1e-5)
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.01
    assert steps[-1]["rewards/margins"] > 0.02
    gates = {name for row in rows(folder) for name in row if name.startswith("gate/")}
    assert {"gate/log_ratios", "gate/loss_at_zero_margin"} <= gates
    assert "thumbs: 4 up, 4 down" in json.loads((folder / "run.json").read_text())["notes"]


@pytest.mark.parametrize("tokens", [40, 100_000])
def test_the_baseline_is_the_whole_steps(tokens: int, run: Callable[..., Path], inputs: dict[str, str]) -> None:
    """However a step is cut; against another model, so that the baseline is not zero."""
    options: dict[str, Any] = {"reference": inputs["other"], "max_steps": 2, "adam_epsilon": 1e-3, "batch_size": 8}
    whole = [row for row in rows(run("whole", micro_batch_tokens=100_000, **options)) if "learning_rate" in row]
    cut = [row for row in rows(run("cut", micro_batch_tokens=tokens, **options)) if "learning_rate" in row]
    assert (cut[0]["perf/micro_batches"] > 1) == (tokens == 40)
    for one, other in zip(cut, whole, strict=True):
        for name in ("loss", "kl_baseline", "rewards/margins", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


def test_held_out_thumbs_and_a_loss_without_a_baseline(run: Callable[..., Path]) -> None:
    held_out = run("held-out", eval_fraction=0.3)
    assert any("eval_loss" in row and "eval_kl_baseline" in row for row in rows(held_out))
    plain = run("plain", loss_type="apo_zero_unpaired")
    assert not any("kl_baseline" in row for row in rows(plain))
