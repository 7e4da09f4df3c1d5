"""The one module that reads weights: trunk, chunked head and score head behind a single `forward`.

Data-parallel and sharding wrappers wrap it. Under DDP, FSDP2 and autocast, training is silently wrong if the trunk is
called, or the head's weight read, from outside.

Legend: S completions, N counted completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from assent.errors import ConfigError, ModelError
from assent.models.batch import GroupBatch, Outputs
from assent.models.head import Logits, log_probabilities
from assent.models.preparing import ROUTING_THRESHOLD, prepare
from assent.models.router import COEFFICIENT, routed
from assent.models.tiers import Kind, ask, probe_tier, score_head
from assent.models.trunk import Only, Tier, read

_WANTS: dict[str, frozenset[str]] = {
    "policy": frozenset({"logprobs", "entropy", "router"}),
    "scorer": frozenset({"scores", "values", "last_values"}),
}
_VALUES = frozenset({"values", "last_values"})


class AlignmentModel(nn.Module):
    """A causal model ("policy") or a sequence classifier ("scorer") that reads packed batches.

    temperature   divides the logits, as in sampling
    value_head    for a policy: (d) -> (1) on its last hidden states, so that it also gives values
    tier          None: the best tier that passes the probe; a given tier must pass it
    sharded_dtype the type that its weights take when they are sharded; None: the one that they have
    """

    sharded_dtype: torch.dtype | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        kind: Kind,
        temperature: float = 1.0,
        tier: Tier | None = None,
        value_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ModelError("the temperature of log-probabilities must be positive", got=temperature)
        self.hf = model
        self.kind = kind
        asked = ask(self.base, kind=kind)
        prepare(model)
        probe = probe_tier(self.base, asked, kind=kind, tier=tier)
        self.tier, self.tier_reason, self.has_chunked_head = probe.tier, probe.reason, probe.has_chunked_head
        self.is_short = probe.is_short
        self.logits = Logits.of(self.base.config, temperature=temperature)
        self.longest = longest_fixed_length(self.base.config)
        self.value_head = value_head
        if value_head is not None and not self.has_chunked_head:
            raise ModelError(
                f"{type(self.base).__name__} gives only logits, but a value head needs its last hidden states",
                fix="--trunk separate",
            )

    def train(self, mode: bool = True) -> AlignmentModel:
        """Training mode, which recomputing activations needs; routers that would draw by chance in it stay as they
        are in evaluation."""
        super().train(mode)
        for module in self.hf.modules():
            if hasattr(module, ROUTING_THRESHOLD):
                module.eval()
        return self

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model without PEFT's wrapper. Adapters are inside its layers."""
        return self.hf.get_base_model() if hasattr(self.hf, "get_base_model") else self.hf  # type: ignore[operator]

    @property
    def config(self) -> Any:
        return self.base.config

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        """`want` is a subset of {"logprobs", "entropy", "router"} for a policy ("router": of a mixture of experts), of
        {"scores", "values", "last_values"} for a scorer. A policy with a value head also gives "values" and
        "last_values".

        Results are float32 (float64 in a float64 model). Raises ModelError for a row longer than the rotary regime.
        """
        given = _WANTS[self.kind] | (frozenset() if self.value_head is None else _VALUES)
        if unknown := sorted(set(want) - given):
            raise ValueError(f"a {self.kind} gives {sorted(given)}, not {unknown}")
        self._check_length(batch)
        return self._read_policy(batch, want) if self.kind == "policy" else self._read_scorer(batch, want)

    def _read_policy(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        entropy: Tensor | None
        router = "router" in want
        only: Only | None = "completions" if self.is_short and not router else None
        if router and not self.has_chunked_head:
            raise ModelError(
                f"{type(self.base).__name__} gives only logits, so {COEFFICIENT} cannot be added to its loss"
            )
        result = read(self.base, batch, tier=self.tier, logits=not self.has_chunked_head, only=only, router=router)
        states = result.states.index_select(0, result.read_at)
        values: dict[str, Tensor] = {}
        if self.value_head is not None:
            places = {"values": states, "last_values": result.states.index_select(0, result.last_at)}
            values = {name: self._value(places[name]) for name in want & _VALUES}
            if want <= _VALUES:
                return Outputs(**values)
        if router:
            top_k = self.config.get_text_config().num_experts_per_tok
            values["router"] = routed(result.router, batch, result.place, top_k=top_k)
            if want == {"router"}:
                return Outputs(**values)
        if self.has_chunked_head:
            logprobs, entropy = self.read_head(states, batch.targets, want_entropy="entropy" in want)
        else:
            wide = states.to(torch.promote_types(states.dtype, torch.float32)) / self.logits.temperature
            logp = wide.log_softmax(-1)
            logprobs = logp.gather(1, batch.targets[:, None])[:, 0]
            entropy = -(logp.exp() * logp).sum(-1) if "entropy" in want else None
        return Outputs(logprobs=logprobs if "logprobs" in want else None, entropy=entropy, **values)

    def read_head(self, states: Tensor, targets: Tensor, *, want_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """(N, d), (N,) -> (N,) log-probabilities of the targets and, if wanted, (N,) entropies."""
        head = self.base.get_output_embeddings()
        return log_probabilities(head, states, targets, logits=self.logits, want_entropy=want_entropy)

    def _value(self, states: Tensor) -> Tensor:
        """(M, d) -> (M,)"""
        assert self.value_head is not None
        values = self.value_head(states.to(self.value_head.weight.dtype))[:, 0].clone()  # no view: FSDP2 warns of one
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def _read_scorer(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        only: Only = "completions" if "values" in want else "ends"
        result = read(self.base, batch, tier=self.tier, only=only if self.is_short else None)
        places = {"scores": result.last_at, "values": result.read_at, "last_values": result.last_at}
        return Outputs(**{name: self._score(result.states.index_select(0, places[name])) for name in want})

    def _score(self, states: Tensor) -> Tensor:
        """(M, d) -> (M,), or (M, heads) for several heads: the head's output plus the bias in the configuration."""
        scores = score_head(self.base)(states)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        bias = torch.as_tensor(getattr(self.config, "assent_score_bias", 0.0), dtype=scores.dtype, device=scores.device)
        scores = scores + bias
        return scores[:, 0].clone() if scores.shape[1] == 1 else scores  # no view: FSDP2 warns of one

    def _check_length(self, batch: GroupBatch) -> None:
        if self.longest is None or not batch.completions:
            return
        prompts, completions = np.asarray(batch.prompts), np.asarray(batch.completions)
        prompts = prompts[np.searchsorted(prompts[:, 0], completions[:, 0], side="right") - 1]
        lengths = (prompts[:, 1] - prompts[:, 0]) + (completions[:, 1] - completions[:, 0])
        if lengths.max() > self.longest:
            raise ModelError(
                "a row is longer than the length up to which this model's numbers are fixed; beyond it a token's "
                "numbers would depend on the longest other row in its batch, or on later tokens",
                got=f"{lengths.max()} tokens",
                expected=f"at most {self.longest}",
                fix=f"set max_length to at most {self.longest}",
            )


def longest_fixed_length(config: Any) -> int | None:
    """The longest row whose numbers do not depend on its batch mates or on later tokens. None: any length.

    With "dynamic" and "longrope", one row longer than the original length switches the whole batch's frequencies.
    Doge chooses the keys that a query keeps among later ones too, where they are more than `keep_window_size`.
    """
    config = config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [p for p in (parameters, *parameters.values()) if isinstance(p, dict) and "rope_type" in p]
    limits = [
        p.get("original_max_position_embeddings") or config.max_position_embeddings
        for p in nested
        if p["rope_type"] in ("dynamic", "longrope")
    ]
    limits += [kept] if (kept := getattr(config, "keep_window_size", None)) else []
    return int(min(limits)) if limits else None


def check_prompts_fit(
    config: Any, prompts: Sequence[tuple[int, ...]], max_new_tokens: int, *, whose: str = "the model"
) -> None:
    """Raises ConfigError if a prompt and its completion exceed the context in a model's config."""
    limits = getattr(config.get_text_config(), "max_position_embeddings", None), longest_fixed_length(config)
    context = min((limit for limit in limits if limit is not None and limit > 0), default=None)  # XLNet says -1
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ConfigError(
            f"a prompt and its completion do not fit {whose}'s context",
            got=f"a prompt of {longest} tokens and max_new_tokens {max_new_tokens}",
            expected=f"at most {context} together",
            fix=f"lower max_new_tokens, or shorten prompts to {max(context - max_new_tokens, 0)} tokens",
        )


def _flatten(outputs: Outputs) -> tuple[list[Any], None]:
    numbers = (outputs.logprobs, outputs.entropy, outputs.values, outputs.last_values, outputs.scores, outputs.router)
    return [*numbers], None


# Sharding and data-parallel wrappers look for tensors in the result of `forward`. They find them in registered types.
pytree.register_pytree_node(Outputs, _flatten, lambda values, _: Outputs(*values))
