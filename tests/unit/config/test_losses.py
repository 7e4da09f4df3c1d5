"""Declarations of losses: what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assent.config.losses import PREFERENCE_LOSSES, preference_loss_declaration, thumbs_loss_declaration
from assent.errors import ConfigError
from assent.objectives import preference_loss


def test_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean sigmoid"):
        preference_loss_declaration("sigmod")
    assert preference_loss_declaration("sigmoid").name == "sigmoid"


def test_hyperparameters_are_checked() -> None:
    sigmoid = PREFERENCE_LOSSES["sigmoid"]
    assert sigmoid.resolve({}) == {"beta": 0.1, "label_smoothing": 0.0, "f_divergence_type": "reverse_kl"}
    assert sigmoid.resolve({"beta": 2})["beta"] == 2.0
    with pytest.raises(ConfigError, match="did you mean beta"):
        sigmoid.resolve({"betta": 0.1})
    for wrong in (0.0, -1.0, math.inf, math.nan, True, "0.1"):
        with pytest.raises(ConfigError, match="beta of loss 'sigmoid' is out of range"):
            sigmoid.resolve({"beta": wrong})
    with pytest.raises(ConfigError, match="one of reverse_kl, forward_kl"):
        sigmoid.resolve({"f_divergence_type": "kl"})


def test_a_hyperparameter_without_effect_is_refused() -> None:
    sigmoid = PREFERENCE_LOSSES["sigmoid"]
    alone = {"f_alpha_divergence_coef": 0.3}
    with pytest.raises(ConfigError, match="no effect with f_divergence_type reverse_kl"):
        sigmoid.resolve(alone)
    together = {"f_divergence_type": "alpha_divergence", **alone}
    assert sigmoid.resolve(together).items() >= together.items()
    assert "f_alpha_divergence_coef" not in sigmoid.resolve({"f_divergence_type": "js_divergence"})


def test_a_loss_of_the_other_kind_names_its_command() -> None:
    with pytest.raises(ConfigError, match="assent kto"):
        preference_loss_declaration("kto")
    with pytest.raises(ConfigError, match="assent dpo"):
        thumbs_loss_declaration("sigmoid")
    with pytest.raises(ConfigError, match="did you mean kto"):
        thumbs_loss_declaration("ktoo")


THIRD_PARTY = """
from assent.config.losses import LossDeclaration
from assent.objectives import Terms

def squared(pairs, *, scale=2.0):
    'Squared distance from a margin of one.'
    chosen, rejected = pairs.log_ratios()
    return Terms((chosen - rejected - 1) ** 2 * scale, chosen, rejected)

def likelihoods(pairs):
    return -pairs.chosen + pairs.rejected, pairs.chosen, pairs.rejected

likelihoods.declaration = LossDeclaration(
    name="likelihoods", summary="", paper="", equation="", needs_reference=False,
    accepts=frozenset({"chosen_probability"}), zero_margin_value=lambda **_: 0.0,
)

def wrong(pairs):
    pass

wrong.declaration = "needs a reference"
"""


def test_a_third_partys_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_losses.py").write_text(THIRD_PARTY)
    monkeypatch.chdir(tmp_path)
    declared = preference_loss_declaration("third_party_losses:squared")
    assert declared.resolve({}) == {"scale": 2.0}
    assert declared.summary == "Squared distance from a margin of one."
    assert (declared.needs_reference, declared.uses_lengths, declared.accepts) == (True, True, frozenset())
    assert math.isnan(declared.zero_margin_value())
    two, one = torch.tensor([2.0]), torch.tensor([1.0])
    pair = {"chosen": two, "rejected": -two}
    rest = {"reference_chosen": one, "reference_rejected": one, "chosen_lengths": one, "rejected_lengths": one}
    values, metrics = preference_loss("third_party_losses:squared", **pair, **rest, scale=3.0)
    assert values.item() == 3 * (4 - 1) ** 2
    assert metrics["rewards/margins"].item() == 4
    with pytest.raises(ValueError, match="cannot use margin"):
        preference_loss("third_party_losses:squared", **pair, **rest, margin=one)
    with pytest.raises(ConfigError, match="no hyperparameter 'scales'"):
        declared.resolve({"scales": 1.0})

    declared = preference_loss_declaration("third_party_losses:likelihoods")
    assert (declared.name, declared.needs_reference) == ("third_party_losses:likelihoods", False)
    values, _ = preference_loss("third_party_losses:likelihoods", **pair, chosen_probability=torch.tensor([0.25]))
    assert values.item() == 0.25 * -4 + 0.75 * 4

    for spec, why in [("wrong", "not a LossDeclaration"), ("missing", "no such function")]:
        with pytest.raises(ConfigError, match=why):
            preference_loss_declaration(f"third_party_losses:{spec}")
    with pytest.raises(ConfigError, match="the loss function's module cannot be imported"):
        preference_loss_declaration("no_such_module:loss")


def test_declarations_import_no_torch() -> None:
    code = "import sys, assent.config.losses; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
