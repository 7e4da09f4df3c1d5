"""A tiny model, rows and objectives for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.models.batch import GroupBatch, Outputs, TokenCompletion, TokenGroup

VOCABULARY = 17


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 1e-2
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = 0
    master_weights: bool = False
    optim: str = "adamw"


class TinyPolicy(nn.Module):
    """Log-probabilities from a token, its position and its prompt's mean: a real function of the whole group."""

    tier = "segments"

    def __init__(self, *, seed: int = 0, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        states = self.embedding(batch.input_ids)
        prompts = torch.stack([states[start:end].mean(0) for start, end in batch.prompts])
        states = states[batch.read_at] + prompts[batch.group[batch.sequence]]
        states = states + 0.01 * batch.position_ids[batch.read_at, None]
        for layer in self.layers:
            states = states + torch.tanh(layer(states))
        logp = self.head(states).float().log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1) if "entropy" in want else None
        return Outputs(logprobs=logp.gather(1, batch.targets[:, None])[:, 0], entropy=entropy)


class Nll:
    """−log π per counted token, averaged over the step."""

    want = frozenset({"logprobs"})

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"nll": float(batch.num_counted)}

    def __call__(
        self, outputs: Outputs, batch: GroupBatch
    ) -> tuple[Mapping[str, Tensor], Mapping[str, tuple[Tensor, Tensor]]]:
        assert outputs.logprobs is not None
        count = torch.tensor(float(batch.num_completions))
        return {"nll": -outputs.logprobs.sum()}, {"logps/chosen": (outputs.logprobs.detach().sum(), count)}


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_groups(n: int, *, seed: int = 0, completions: int = 2) -> list[TokenGroup]:
    """Rows of very different lengths."""
    numbers = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(i) for i in numbers.integers(1, VOCABULARY, numbers.integers(low, high)))

    return [
        TokenGroup(
            prompt_ids=ids(1, 12),
            completions=tuple(TokenCompletion(ids(1, 20)) for _ in range(completions)),
            source=f"rows.jsonl:{i + 1}",
        )
        for i in range(n)
    ]


def make_learner(*, seed: int = 0, total_steps: int = 10, **settings: object) -> Learner:
    return Learner(
        TinyPolicy(seed=seed),
        runtime=Runtime("cpu"),
        optim=Settings(**settings),  # type: ignore[arg-type]
        total_steps=total_steps,
    )


def state_of(learner: Learner) -> dict[str, Tensor]:
    """The optimiser's state by name."""
    return learner.optimiser.named_state({p: name for name, p in learner.module.named_parameters()})


def whole_and_resumed(make: Callable[[int], Learner], folder: Path) -> tuple[Learner, Learner]:
    """Four updates in one go; and two, kept in `folder`, and two more by another learner (`make(seed)`) that takes
    them up."""
    groups = make_groups(8)
    whole, first, second = (make(seed) for seed in (0, 0, 7))

    def train(learner: Learner, steps: range) -> None:
        for step in steps:
            learner.update(groups[step * 2 : step * 2 + 2], Nll())

    train(whole, range(4))
    train(first, range(2))
    first.save(folder)
    second.load(folder)
    train(second, range(2, 4))
    return whole, second


def assert_same_bits(found: Learner, expected: Learner) -> None:
    """Of the optimiser's state and of the weights."""
    mine, theirs = state_of(found), state_of(expected)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    assert found.fingerprint() == expected.fingerprint()
