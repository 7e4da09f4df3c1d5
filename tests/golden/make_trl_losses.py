"""Writes trl_losses.json: what TRL's own loss code gives for fixed log-probabilities. Run it in TRL's environment:

    python tests/golden/make_trl_losses.py

It calls the trainers' loss methods themselves, with a stand-in for the trainer and for the model (whose per-token
log-probabilities are drawn here), one pair at a time where TRL only gives a mean, and asserts nothing of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

PAGE = Path(__file__).with_name("trl_losses.json")
NUM_PAIRS, LONGEST, VOCABULARY = 6, 9, 11
REVERSE_KL = {"f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5}
DIVERGENCES = [
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
]
WITH_DIVERGENCES = ("sigmoid", "sigmoid_norm", "robust", "ipo", "hinge", "exo_pair", "discopop")
DPO = [
    ("sigmoid", {"beta": 0.3}),
    ("sigmoid_norm", {"beta": 1.7}),
    ("robust", {"beta": 0.3, "label_smoothing": 0.1}),
    ("ipo", {"beta": 0.2}),
    ("hinge", {"beta": 0.3}),
    ("exo_pair", {"beta": 0.3, "label_smoothing": 0.01}),
    ("discopop", {"beta": 0.05, "discopop_tau": 0.05}),
    ("discopop", {"beta": 0.3, "discopop_tau": 0.7}),
    ("nca_pair", {"beta": 0.3}),
    ("bco_pair", {"beta": 0.3}),
    ("sppo_hard", {"beta": 0.2}),
    ("aot", {"beta": 0.3, "label_smoothing": 0.0}),
    ("aot", {"beta": 0.3, "label_smoothing": 0.2}),
    ("aot_unpaired", {"beta": 0.3, "label_smoothing": 0.2}),
    ("apo_zero", {"beta": 0.3}),
    ("apo_down", {"beta": 0.3}),
    ("sft", {}),
]
OF_THE_STEP = ("aot", "aot_unpaired")


def stand_in(**attributes: Any) -> SimpleNamespace:
    """What the loss methods read of a trainer."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        is_encoder_decoder=False,
        padding_value=0,
        pad_token_id=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def draw_pairs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Per-token log-probabilities of pairs, chosen first, behind a prompt of one token; the reference's sums."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, LONGEST, (2 * NUM_PAIRS,), generator=generator)
    mask = torch.arange(LONGEST)[None] < lengths[:, None]
    logprobs = -torch.rand(2 * NUM_PAIRS, LONGEST, generator=generator, dtype=torch.float64) * 2 - 0.05
    logprobs = (logprobs * mask).to(dtype)
    noise = torch.randn(2 * NUM_PAIRS, generator=generator, dtype=torch.float64).to(dtype)
    prompt = torch.ones(2 * NUM_PAIRS, 1, dtype=torch.bool)
    return {
        "logprobs": logprobs,
        "completion_mask": torch.cat([~prompt, mask], dim=1).long(),
        "reference": logprobs.sum(1) + 2 * noise,
    }


def dpo_loss(name: str, hyperparameters: dict[str, Any], pairs: dict[str, torch.Tensor], rows: list[int]) -> float:
    """TRL's loss of these pairs, `name` alone."""
    both = torch.tensor(rows + [NUM_PAIRS + row for row in rows])
    logprobs, mask = pairs["logprobs"][both], pairs["completion_mask"][both]
    nothing = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    known = {"beta": 0.1, "label_smoothing": 0.0, "discopop_tau": 0.05, **REVERSE_KL, **hyperparameters}
    trainer = stand_in(
        ld_alpha=None,
        use_weighting=False,
        loss_types=[name],
        loss_weights=[1.0],
        args=SimpleNamespace(discopop_tau=known["discopop_tau"]),
        **{key: known[key] for key in ("beta", "label_smoothing", *REVERSE_KL)},
    )
    reference = pairs["reference"][both]
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[: len(rows)],
        "ref_rejected_logps": reference[len(rows) :],
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False).item()


def dpo_cases() -> list[dict[str, Any]]:
    cases = []
    for name, hyperparameters in DPO:
        for divergence in [{}, *(DIVERGENCES if name in WITH_DIVERGENCES else [])]:
            # TRL's alpha divergence knows no float64
            dtype = torch.float32 if "f_alpha_divergence_coef" in divergence else torch.float64
            pairs = draw_pairs(dtype)
            known = {**hyperparameters, **divergence}
            rows = [list(range(NUM_PAIRS))] if name in OF_THE_STEP else [[row] for row in range(NUM_PAIRS)]
            sums, lengths = pairs["logprobs"].sum(1), pairs["completion_mask"].sum(1)
            inputs = {"chosen": sums[:NUM_PAIRS], "rejected": sums[NUM_PAIRS:]}
            inputs |= {"chosen_lengths": lengths[:NUM_PAIRS], "rejected_lengths": lengths[NUM_PAIRS:]}
            if name != "sft":
                reference = pairs["reference"]
                inputs |= {"reference_chosen": reference[:NUM_PAIRS], "reference_rejected": reference[NUM_PAIRS:]}
            values = [dpo_loss(name, known, pairs, each) for each in rows]
            cases.append(case("dpo", name, known, dtype, inputs, values))
    return cases


def draw_logits() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(2, T, V) logits of one pair and its tokens, chosen first, behind a prompt of one token."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, LONGEST, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    batch = {}
    for side, length in (("chosen", LONGEST), ("rejected", LONGEST - 3)):
        ids = torch.randint(1, VOCABULARY, (1, length), generator=generator)
        labels = ids.clone()
        labels[:, 0] = -100
        batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": torch.ones_like(ids), f"{side}_labels": labels}
    return logits, batch


def whole_loss(trainer_class: type, own: str, **attributes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The whole loss of one pair by CPO's or ORPO's trainer, and the sums and lengths that went into it."""
    logits, batch = draw_logits()
    trainer = stand_in(concatenated_inputs=trainer_class.concatenated_inputs, **attributes)
    trainer.get_batch_logps = trainer_class.get_batch_logps
    trainer.concatenated_forward = lambda model, batch: trainer_class.concatenated_forward(trainer, model, batch)
    setattr(trainer, own, lambda *logps: getattr(trainer_class, own)(trainer, *logps))
    outputs = SimpleNamespace(logits=logits)
    loss, _ = trainer_class.get_batch_loss_metrics(trainer, lambda *_, **__: outputs, batch)
    inputs = {}
    for row, side in enumerate(("chosen", "rejected")):
        ids = batch[f"{side}_input_ids"][0]
        logprobs = logits[row, : len(ids) - 1].log_softmax(-1).gather(-1, ids[1:, None])
        inputs |= {side: logprobs.sum().reshape(1), f"{side}_lengths": torch.tensor([len(ids) - 1])}
    return loss.item(), inputs


def cpo_and_orpo_cases() -> list[dict[str, Any]]:
    cases = []
    for name, loss_type, known in [
        ("cpo", "sigmoid", {"beta": 0.3, "cpo_alpha": 0.7, "label_smoothing": 0.0}),
        ("cpo", "sigmoid", {"beta": 0.3, "cpo_alpha": 1.0, "label_smoothing": 0.1}),
        ("simpo", "simpo", {"beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.0}),
        ("simpo", "simpo", {"beta": 2.5, "simpo_gamma": 1.4, "label_smoothing": 0.1}),
        ("slic", "hinge", {"beta": 0.25, "cpo_alpha": 0.0, "label_smoothing": 0.0}),
    ]:
        options = {"cpo_alpha": 0.0, "simpo_gamma": 0.5, "alpha": 0.0, **known}
        loss, inputs = whole_loss(CPOTrainer, "cpo_loss", loss_type=loss_type, **options)
        cases.append(case("cpo", name, known, torch.float64, inputs, [loss]))
    loss, inputs = whole_loss(ORPOTrainer, "odds_ratio_loss", beta=0.4)
    # TRL casts to float32 inside
    cases.append(case("orpo", "orpo", {"beta": 0.4}, torch.float32, inputs, [loss]))
    return cases


def kto_cases() -> list[dict[str, Any]]:
    cases = []
    pairs = draw_pairs(torch.float64)
    sums, reference = pairs["logprobs"].sum(1), pairs["reference"]
    desirable = torch.arange(2 * NUM_PAIRS) % 3 == 0
    # completions under other prompts, for the baseline: one that is above 0 and one that is clipped there
    for shift in (0.4, -0.4):
        mismatched = reference + shift
        for loss_type in ("kto", "apo_zero_unpaired"):
            known = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8}
            nothing = torch.zeros_like(pairs["logprobs"])
            outputs = SimpleNamespace(log_probs=pairs["logprobs"], entropy=nothing, mean_logits=nothing)
            trainer = stand_in(calculate_KL=loss_type == "kto", loss_type=loss_type, **known)
            trainer._compute_kl_logps = lambda *_, mismatched=mismatched: mismatched
            batch = {
                "input_ids": torch.ones_like(pairs["completion_mask"]),
                "attention_mask": torch.ones_like(pairs["completion_mask"]),
                "completion_mask": pairs["completion_mask"],
                "label": desirable,
                "ref_logps": reference,
                "ref_KL_logps": reference,
            }
            loss = KTOTrainer._compute_loss(trainer, lambda outputs=outputs, **_: outputs, batch, return_outputs=False)
            inputs = {"logprobs": sums, "reference_logprobs": reference, "desirable": desirable}
            inputs |= {"mismatched": mismatched, "reference_mismatched": reference}
            cases.append(case("kto", loss_type, known, torch.float64, inputs, [loss.item()]))
    return cases


def case(
    trainer: str,
    loss: str,
    hyperparameters: dict[str, Any],
    dtype: torch.dtype,
    inputs: dict[str, torch.Tensor],
    values: list[float],
) -> dict[str, Any]:
    """values: one per row, or one mean over all."""
    return {
        "trainer": trainer,
        "loss": loss,
        "hyperparameters": hyperparameters,
        "dtype": str(dtype).removeprefix("torch."),
        "inputs": {name: value.tolist() for name, value in inputs.items()},
        "values": values,
    }


def main() -> None:
    cases = dpo_cases() + cpo_and_orpo_cases() + kto_cases()
    lines = ",\n".join(json.dumps(each) for each in cases)
    PAGE.write_text(f'{{"trl": "{trl.__version__}", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
