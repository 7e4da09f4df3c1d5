"""A learning rate and a β to start from, each with its source. They are starting points, not optima."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LORA = 10.0
"""An adapter's learning rate over that of all weights (Schulman et al. 2025, "LoRA Without Regret")."""
SMALL = 3e8
"""Below so many parameters the sources' rates are too low: they are of models of a billion and more."""


@dataclass(frozen=True, slots=True)
class Start:
    """learning_rate   for all weights of a model of the source's size
    beta            strength of the pull to the reference, under the command's name for it; None: the method has none
    beta_name       `beta` or `kl_coef`
    sizes           parameters of the models that the source trained
    """

    learning_rate: float
    beta: float | None
    beta_name: str
    source: str
    sizes: str


STARTS: dict[str, Start] = {
    "sft": Start(2e-5, None, "", "Zephyr (arXiv:2310.16944)", "7 B"),
    "reward": Start(1e-5, None, "", "Llama 2 (arXiv:2307.09288, §3.2.2)", "7 to 34 B"),
    "dpo": Start(5e-7, 0.1, "beta", "Zephyr (arXiv:2310.16944)", "7 B"),
    "kto": Start(5e-7, 0.1, "beta", "KTO (arXiv:2402.01306)", "1 to 30 B"),
    "ppo": Start(3e-6, 0.05, "kl_coef", "Huang et al. (arXiv:2403.17031)", "1 to 6.9 B"),
    "a2c": Start(3e-6, 0.05, "kl_coef", "Huang et al. (arXiv:2403.17031), as for PPO", "1 to 6.9 B"),
    "grpo": Start(1e-6, 0.04, "kl_coef", "DeepSeekMath (arXiv:2402.03300)", "7 B"),
    "rloo": Start(1e-6, 0.03, "kl_coef", "Ahmadian et al. (arXiv:2402.14740)", "1 to 7 B"),
    "online-dpo": Start(5e-7, 0.1, "beta", "OAIF (arXiv:2402.04792)", "8 B and less"),
}


@dataclass(frozen=True, slots=True)
class Starting:
    learning_rate: float
    beta: float | None
    beta_name: str
    source: str
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def starting_point(command: str, *, num_parameters: float, lora: bool) -> Starting:
    """Where to start `command` (KeyError if it does not train). `note` says what was changed, and what is uncertain."""
    start = STARTS[command]
    rate, notes = start.learning_rate, []
    if lora:
        rate *= LORA
        notes.append(f"times {LORA:g} for an adapter (LoRA Without Regret, 2025)")
    if num_parameters < SMALL:
        notes.append(
            f"the source trained models of {start.sizes}; one of {num_parameters / 1e6:.0f} M bears more: "
            f"also try {rate * 10:g}"
        )
    return Starting(rate, start.beta, start.beta_name, start.source, "; ".join(notes))
