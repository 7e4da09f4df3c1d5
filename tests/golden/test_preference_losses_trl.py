"""Our losses give what TRL 1.16's own code gives (make_trl_losses.py wrote its numbers), but for what is said here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assent.objectives import kto_baseline, preference_loss, thumbs_loss

NUMBERS = json.loads(Path(__file__).with_name("trl_losses.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = NUMBERS["cases"]


def title(case: dict[str, Any]) -> str:
    return "-".join([case["loss"], *(str(value) for value in case["hyperparameters"].values())])


def of_trainer(*trainers: str) -> Any:
    chosen = [case for case in CASES if case["trainer"] in trainers]
    return pytest.mark.parametrize("case", chosen, ids=[title(case) for case in chosen])


def inputs_of(case: dict[str, Any]) -> dict[str, Tensor]:
    # TRL's float32 numbers are read as they are and computed with in float64
    return {
        name: torch.tensor(value, dtype=torch.bool if name == "desirable" else torch.float64)
        for name, value in case["inputs"].items()
    }


def close(values: Tensor, case: dict[str, Any]) -> None:
    expected = torch.tensor(case["values"], dtype=torch.float64)
    if len(expected) == 1:
        values = values.mean(dim=0, keepdim=True)
    # exo_pair's smoothing is a float32 tensor in TRL
    exact = case["dtype"] == "float64" and case["loss"] != "exo_pair"
    torch.testing.assert_close(values, expected, atol=1e-9 if exact else 1e-6, rtol=1e-9 if exact else 1e-6)


def test_the_numbers_are_of_trl_1_16() -> None:
    assert NUMBERS["trl"].startswith("1.16")


@of_trainer("dpo")
def test_losses_of_pairs_are_those_of_trls_dpo_trainer(case: dict[str, Any]) -> None:
    inputs, known = inputs_of(case), dict(case["hyperparameters"])
    if "f_alpha_divergence_coef" in known:
        # TRL: f'(u) = (u^(a - 1) - 1) / (a - 1). The paper (arXiv:2309.16240, table 1), which TRL's own help quotes
        # as "u^-a": f'(u) = (1 - u^-a) / a. The paper decides; TRL's a is 1 - a.
        known["f_alpha_divergence_coef"] = 1.0 - known["f_alpha_divergence_coef"]
    if case["loss"] == "bco_pair":
        # TRL leaves out the reward shift delta (arXiv:2404.04656), which is the method. A row that makes it 0:
        inputs = with_shift_of_zero(inputs)
    values, _ = preference_loss(case["loss"], **inputs, **known)
    close(values[: len(case["inputs"]["chosen"])], case)


def with_shift_of_zero(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pairs and one more, after which the log-ratios' mean is 0."""
    total = sum(inputs[side].sum() - inputs[f"reference_{side}"].sum() for side in ("chosen", "rejected"))
    more = {name: torch.zeros(1, dtype=torch.float64) for name in inputs}
    more["chosen"] -= total
    return {name: torch.cat([value, more[name]]) for name, value in inputs.items()}


@of_trainer("cpo", "orpo")
def test_cpo_and_orpo_trainers(case: dict[str, Any]) -> None:
    inputs, known = inputs_of(case), dict(case["hyperparameters"])
    scale = 1.0
    if case["loss"] == "slic":  # TRL's CPO with `hinge`: SLiC's with delta = 1 / beta, times beta
        scale = known["beta"]
        known = {"slic_delta": 1.0 / known["beta"], "slic_lambda": known["cpo_alpha"]}
    values, _ = preference_loss(case["loss"], **inputs, **known)
    close(scale * values, case)


@of_trainer("kto")
def test_losses_of_thumbs_are_those_of_trls_kto_trainer(case: dict[str, Any]) -> None:
    inputs = inputs_of(case)
    baseline = kto_baseline(inputs.pop("mismatched"), inputs.pop("reference_mismatched"))
    given = {"kl_baseline": baseline} if case["loss"] == "kto" else {}
    values, _ = thumbs_loss(case["loss"], **inputs, **given, **case["hyperparameters"])
    close(values, case)
