"""Samples with vLLM: a second copy of the weights in an engine of its own, handed over whenever they have changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ConfigError, NonFiniteError
from assent.models.flops import Cost
from assent.rollouts import vllm_engine
from assent.rollouts.row_choice import Draw
from assent.rollouts.sampler import SamplingParams, SeedKey, check_request
from assent.types import Rollout

BLOCK = 128
"""Tokens of a block of vLLM's cache on a CPU, the largest there is."""
MAX_ROWS = 256
"""Completions in flight."""


class VllmSampler:
    """What `TorchSampler` draws, up to rounding: the random numbers and the choice are the same (`row_choice.py`).

    model             the policy (without an adapter's wrapper): its configuration and device; it is not kept
    weights           gives the policy's weights as they are now, by the names of a folder; None: they come by `load`
    dtype             arithmetic of the engine, "float32" or "bfloat16"
    max_length        longest prompt and completion together
    max_batch_tokens  tokens of cache in flight; more completions wait. Changes speed and memory, not the result

    Only one of these can be open in a process: the next closes the one before. Errors: ConfigError, ModelError.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        eos_ids: Collection[int],
        dtype: str,
        max_length: int,
        weights: Callable[[], Mapping[str, Tensor]] | None = None,
        max_batch_tokens: int = 65536,
    ) -> None:
        self.tokenizer, self.eos_ids, self.max_length = tokenizer, frozenset(eos_ids), max_length
        self.device = model.device
        self.weights, self.version = weights, ""
        self.cost = Cost.of(model, shared=True)
        self.flops = 0.0
        """Model FLOPs of what was sampled so far."""
        self.engine = vllm_engine.start_empty(
            model,
            dtype=dtype,
            max_model_len=max_length,
            max_num_seqs=MAX_ROWS,
            kv_cache_memory_bytes=_cache_bytes(model.config, dtype, max_length, max_batch_tokens),
        )

    def load(self, named_tensors: Mapping[str, Tensor], version: str) -> None:
        """See `Sampler.load`. No tensors: the policy's own, where they have another version than the engine's."""
        self._check_open()
        if not version:
            raise ConfigError("a version of the weights needs a name", got=repr(version))
        if not named_tensors and version != self.version:
            if self.weights is None:
                raise ConfigError("no weights to load", fix="give them, or a function that reads the policy's")
            named_tensors = self.weights()
        if named_tensors:
            vllm_engine.hand_over(self.engine, named_tensors)
        self.version = version

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """See `Sampler.sample`. ConfigError where a prompt and max_new_tokens exceed max_length."""
        from vllm import SamplingParams as Request

        from assent.rollouts.vllm_choice import KEY

        self._check_open()
        if not self.version:
            raise ConfigError("the engine has no weights yet", fix="load them first")
        numbers = check_request(prompts, num_completions, prompt_numbers)
        self._check_length(prompts, params.max_new_tokens)
        rows = [(prompt, k) for prompt in range(len(prompts)) for k in range(num_completions)]
        draws = [Draw(params, seed.uniforms(numbers[prompt], k, params.max_new_tokens)) for prompt, k in rows]
        requests = [
            Request(
                temperature=0.0,  # it takes the only token that is left to it
                max_tokens=params.max_new_tokens,
                ignore_eos=True,  # ends are ours
                stop_token_ids=sorted(self.eos_ids),
                detokenize=False,
                extra_args={KEY: draw},
            )
            for draw in draws
        ]
        inputs = [{"prompt_token_ids": list(prompts[prompt])} for prompt, _ in rows]
        with torch.autocast(self.device.type, enabled=False):  # the engine has its own dtype
            outputs = self.engine.generate(inputs, requests, use_tqdm=False)
        ids = [tuple(output.outputs[0].token_ids) for output in outputs]
        for prompt in range(len(prompts)):
            own = ids[prompt * num_completions : (prompt + 1) * num_completions]
            self.flops += self.cost.sample(len(prompts[prompt]), [len(completion) for completion in own])
        return [
            self._rollout(tuple(prompts[prompt]), prompt, k, completion, draw, text)
            for (prompt, k), completion, draw, text in zip(rows, ids, draws, self.texts(ids), strict=True)
        ]

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Of completions' ids, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(
            completions, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _rollout(
        self, prompt_ids: tuple[int, ...], prompt: int, k: int, ids: tuple[int, ...], draw: Draw, text: str
    ) -> Rollout:
        values = tuple(draw.logprobs[: len(ids)].tolist())
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"the policy gave a non-finite log-probability while sampling completion {k} of prompt {prompt}",
                fix="the weights or the activations have overflowed: look at the last updates' grad_norm",
            )
        return Rollout(
            prompt_ids=prompt_ids,
            ids=ids,
            logprobs=values,
            finish_reason="stop" if ids[-1] in self.eos_ids else "length",
            text=text,
            prompt_index=prompt,
            completion_index=k,
            policy_version=self.version,
        )

    def _check_open(self) -> None:
        if not vllm_engine.is_open(self.engine):
            raise ConfigError("this sampler's engine was closed when another was opened", fix="open it again")

    def _check_length(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> None:
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + max_new_tokens > self.max_length:
            raise ConfigError(
                "a prompt and its completion do not fit max_length",
                got=f"a prompt of {longest} tokens and max_new_tokens {max_new_tokens}",
                expected=f"at most {self.max_length} together",
                fix="raise --max-length, or lower --max-new-tokens",
            )


def _cache_bytes(config: Any, dtype: str, max_length: int, max_batch_tokens: int) -> int:
    """Memory of keys and values for as many rows of max_length as `max_batch_tokens` holds, one at least."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    per_token = 2 * text.num_hidden_layers * key_heads * head_dim * (2 if dtype == "bfloat16" else 4)
    rows = min(max(1, max_batch_tokens // max_length), MAX_ROWS)
    return per_token * BLOCK * (1 + rows * -(-max_length // BLOCK))
