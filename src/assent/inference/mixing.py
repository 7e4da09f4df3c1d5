"""Decoding-time realignment: changes the policy's distance from its reference while it is sampled.

If π is the optimum for β, the optimum of E[r] − (β/λ)·KL(π‖π_ref) is the geometric mixture π_ref^(1−λ)·π^λ/Z (Liu et
al., arXiv:2402.02992, eq. 7). Token by token, its logits are (1 − λ)·reference + λ·policy (eq. 12). This is exact for
completions of one token. For longer ones Z depends on the prefix, and mixing each token is an approximation.

Legend: S rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models import products
from assent.models.shape import Cost
from assent.rollouts.decoding import DECODERS, Decoder, Prompts, probe
from assent.rollouts.torch_sampler import TorchSampler


def mixed_logits(policy: Tensor, reference: Tensor, strength: float) -> Tensor:
    """Logits of both (S, V) -> (S, V). strength λ: 0 gives the reference, 1 the policy, above 1 beyond it."""
    return (1.0 - strength) * reference.float() + strength * policy.float()


class MixedSampler(TorchSampler):
    """Samples from the mixture of a policy and its reference. Recorded log-probabilities are those of the mixture.

    model, reference   causal models with the same token ids
    strength           λ of `mixed_logits`: about the policy that training with β / λ instead of β would have given

    Raises ModelError if the vocabularies differ in size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: Any,
        *,
        strength: float,
        eos_ids: Collection[int],
        max_batch_tokens: int = 65536,
    ) -> None:
        super().__init__(model, tokenizer, eos_ids=eos_ids, max_batch_tokens=max_batch_tokens)
        sizes = [int(m.get_input_embeddings().weight.shape[0]) for m in (model, reference)]  # type: ignore[index]
        if sizes[0] != sizes[1]:
            raise ModelError(
                "policy and reference cannot be mixed, because their vocabularies differ in size",
                got=f"{sizes[0]} and {sizes[1]}",
                expected="the model that the policy was trained from",
            )
        products.install(reference)
        self.reference, self.strength = reference.eval(), strength
        self.reference_tier = ""
        self.cost = _Both(self.cost, Cost.of(reference, shared=True))  # type: ignore[assignment]

    def decoder(self) -> Decoder:
        if not self.reference_tier:
            self.reference_tier, _ = probe(self.reference)
        return _Mixed(super().decoder(), DECODERS[self.reference_tier](self.reference), self.strength)


class _Mixed:
    """Two models that decode the same rows. Their hidden states stand side by side, (S, d + d'). Each model has its own
    budget of tokens in flight."""

    def __init__(self, policy: Decoder, reference: Decoder, strength: float) -> None:
        self.policy, self.reference, self.strength = policy, reference, strength
        self.refills = policy.refills and reference.refills
        self.shares_prompts = policy.shares_prompts and reference.shares_prompts
        self.width = 0

    @property
    def tokens(self) -> int:
        return max(self.policy.tokens, self.reference.tokens)

    def admit(self, prompts: Prompts, repeats: Sequence[int], room: int) -> Tensor:
        return self._side_by_side(*(one.admit(prompts, repeats, room) for one in (self.policy, self.reference)))

    def step(self, ids: Tensor) -> Tensor:
        return self._side_by_side(self.policy.step(ids), self.reference.step(ids))

    def _side_by_side(self, policy: Tensor, reference: Tensor) -> Tensor:
        self.width = policy.shape[-1]
        return torch.cat([policy, reference], dim=-1)

    def logits(self, read: Tensor) -> Tensor:
        policy, reference = self.policy.logits(read[:, : self.width]), self.reference.logits(read[:, self.width :])
        return mixed_logits(policy, reference, self.strength)

    def keep(self, rows: Tensor) -> None:
        self.policy.keep(rows)
        self.reference.keep(rows)


class _Both:
    """FLOPs of two models that read the same tokens."""

    def __init__(self, *costs: Cost) -> None:
        self.costs = costs

    def sample(self, prompt: int, lengths: Sequence[int]) -> float:
        return sum(cost.sample(prompt, lengths) for cost in self.costs)
