"""Samples with vLLM, whose engine has a second copy of the weights. They are handed over whenever they have changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ConfigError
from assent.models.shape import Cost
from assent.rollouts import vllm_engine
from assent.rollouts.row_choice import Draw
from assent.rollouts.sampler import SamplingParams, SeedKey, check_request, to_rollouts
from assent.types import Rollout

BLOCK = 128
"""Tokens in a block of vLLM's cache on a CPU, which has the largest blocks."""
MAX_ROWS = 256
"""The most completions in flight."""


class VllmSampler:
    """Draws what `TorchSampler` draws, up to rounding: random numbers and choice are the same (`row_choice.py`).

    model             the policy (without an adapter's wrapper), for its configuration and device; it is not kept
    weights           returns the policy's present weights, named as in a folder; None: `load` receives them
    dtype             arithmetic of the engine, "float32" or "bfloat16"
    max_length        longest prompt and completion together
    max_batch_tokens  tokens of cache in flight; other completions wait. Affects speed and memory, not the result

    A process can have only one open; the next one closes it. Raises ConfigError and ModelError.
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
        """Model FLOPs of all samples so far."""
        self.engine = vllm_engine.start_empty(
            model,
            dtype=dtype,
            max_model_len=max_length,
            max_num_seqs=MAX_ROWS,
            kv_cache_memory_bytes=_cache_bytes(model.config, dtype, max_length, max_batch_tokens),
        )

    def load(self, named_tensors: Mapping[str, Tensor], version: str) -> None:
        """See `Sampler.load`. Without tensors it loads the policy's own, if the engine has another version."""
        self._check_open()
        if not version:
            raise ConfigError("the version of the weights is empty", got=repr(version))
        if not named_tensors and version != self.version:
            if self.weights is None:
                raise ConfigError("there are no weights to load", fix="give them, or a function that returns them")
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
        """See `Sampler.sample`. Raises ConfigError if a prompt and max_new_tokens exceed max_length."""
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
                temperature=0.0,  # it takes the only token that `RowChoice` leaves
                max_tokens=params.max_new_tokens,
                ignore_eos=True,  # stop_token_ids are our EOS set
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
        return to_rollouts(
            rows,
            prompts,
            ids,
            [draw.logprobs[: len(own)].tolist() for draw, own in zip(draws, ids, strict=True)],
            ended=[own[-1] in self.eos_ids for own in ids],
            tokenizer=self.tokenizer,
            version=self.version,
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
    """Bytes of keys and values for as many rows of max_length as fit `max_batch_tokens`, at least one."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    per_token = 2 * text.num_hidden_layers * key_heads * head_dim * (2 if dtype == "bfloat16" else 4)
    rows = min(max(1, max_batch_tokens // max_length), MAX_ROWS)
    return per_token * BLOCK * (1 + rows * -(-max_length // BLOCK))
