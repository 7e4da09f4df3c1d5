"""The objectives of the online stage: the policy's, with its penalties, and the critic's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from assent.config.algorithms import implementation
from assent.config.online import OnlineOptions
from assent.errors import RunError
from assent.models.batch import GroupBatch, Outputs
from assent.objectives.kl import kl_loss
from assent.objectives.policy import POLICY_OBJECTIVES, PolicyLoss, ppo_loss
from assent.objectives.value import VALUE_OBJECTIVES, ValueLoss, value_loss
from assent.stages.scoring import ObjectiveSums


@dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    """The policy's loss, the KL penalty if it is part of the loss, and the entropy bonus.

    loss_type: dapo averages over the update's completion tokens. grpo averages over each completion's tokens, then over
    completions. dr_grpo divides the sum by the number of completions times max_new_tokens.
    """

    function: PolicyLoss = ppo_loss
    options: Mapping[str, Any] = field(default_factory=dict)
    loss_type: str = "dapo"
    max_new_tokens: int = 1
    kl_penalty: str = "reward"
    kl_coef: float = 0.0
    entropy_coef: float = 0.0

    @classmethod
    def of(cls, config: OnlineOptions, *, kl_coef: float) -> PolicyObjective:
        triple = config.triple
        return cls(
            function=implementation(POLICY_OBJECTIVES, triple.policy),
            options=config.options_of(triple.parts[1]),
            loss_type=config.loss_type,
            max_new_tokens=config.max_new_tokens,
            kl_penalty=config.kl_penalty,
            kl_coef=kl_coef,
            entropy_coef=config.entropy_coef,
        )

    @property
    def want(self) -> frozenset[str]:
        return frozenset({"logprobs", "entropy"} if self.entropy_coef else {"logprobs"})

    @property
    def _terms(self) -> tuple[str, ...]:
        penalty = ("kl_avg",) if self.kl_penalty != "reward" and self.kl_coef else ()
        return ("policy_avg", *penalty, *(("entropy_avg",) if self.entropy_coef else ()))

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        count = {
            "dapo": batch.num_counted,
            "grpo": batch.num_completions,
            "dr_grpo": batch.num_completions * self.max_new_tokens,
        }[self.loss_type]
        return dict.fromkeys(self._terms, float(count))

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.logprobs is not None
        logprobs, old = outputs.logprobs.float(), batch.token["old_logprobs"]
        everything = torch.ones_like(logprobs, dtype=torch.bool)
        values, metrics = self.function(logprobs, old, batch.token["advantages"], everything, **self.options)
        _check_shape(values, logprobs, of="policy")
        if (
            "importance" in batch.token
        ):  # only the policy term is weighted, as in TRL: the KL penalty does not depend on the sampler
            values = values * batch.token["importance"]
        per_token = {"policy_avg": values}
        if "kl_avg" in self._terms:
            penalty = kl_loss(self.kl_penalty, logprobs, batch.token["reference_logprobs"], old)
            per_token["kl_avg"] = self.kl_coef * penalty
        if outputs.entropy is not None and self.entropy_coef:
            per_token["entropy_avg"] = -self.entropy_coef * outputs.entropy.float()
            metrics = {**metrics, "policy/entropy_avg": outputs.entropy.float().detach()}
        if self.loss_type == "grpo":
            lengths = torch.bincount(batch.sequence, minlength=batch.num_completions)
            share = (1.0 / lengths)[batch.sequence]
            per_token = {term: value * share for term, value in per_token.items()}
        count = values.new_tensor(float(batch.num_counted))
        return (
            {term: value.sum() for term, value in per_token.items()},
            {name: (metric.sum(), count) for name, metric in metrics.items()},
        )


def _check_shape(values: Tensor, like: Tensor, *, of: str) -> None:
    """RunError if a third party's objective does not return a value for each token."""
    if values.shape != like.shape:
        raise RunError(
            f"the {of} objective did not return a value for each token",
            got=f"a tensor of {tuple(values.shape)}",
            expected=f"a tensor of {tuple(like.shape)}",
            fix="return values per token, before any mean or sum",
        )


@dataclass(frozen=True, kw_only=True)
class SharedTrunkObjective:
    """The policy's loss plus vf_coef times the value loss, on a shared trunk (arXiv:1707.06347, eq. 9)."""

    policy: PolicyObjective
    value: ValueObjective
    vf_coef: float

    @property
    def want(self) -> frozenset[str]:
        return self.policy.want | self.value.want

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {**self.policy.counts(batch), **self.value.counts(batch)}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        terms, metrics = self.policy(outputs, batch)
        values, more = self.value(outputs, batch)
        return {**terms, "value_avg": self.vf_coef * values["value_avg"]}, {**metrics, **more}


@dataclass(frozen=True, kw_only=True)
class ValueObjective:
    """The critic's loss, averaged over the mini-batch's completion tokens."""

    function: ValueLoss = value_loss
    options: Mapping[str, Any] = field(default_factory=dict)
    want = frozenset({"values"})

    @classmethod
    def of(cls, config: OnlineOptions) -> ValueObjective:
        triple = config.triple
        assert triple.value is not None
        return cls(function=implementation(VALUE_OBJECTIVES, triple.value), options=config.options_of(triple.parts[2]))

    def counts(self, batch: GroupBatch) -> dict[str, float]:
        return {"value_avg": float(batch.num_counted)}

    def __call__(self, outputs: Outputs, batch: GroupBatch) -> ObjectiveSums:
        assert outputs.values is not None
        values, metrics = self.function(
            outputs.values.float(),
            batch.token["old_values"],
            batch.token["returns"],
            torch.ones_like(outputs.values, dtype=torch.bool),
            **self.options,
        )
        _check_shape(values, outputs.values, of="value")
        count = values.new_tensor(float(batch.num_counted))
        return {"value_avg": values.sum()}, {name: (metric.sum(), count) for name, metric in metrics.items()}
