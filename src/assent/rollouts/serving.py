"""A folder's answers and scores from engines that know nothing of Assent: transformers and vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from assent.models.bounded_jinja import bounded
from assent.models.folder_checks import plain_tokenizer
from assent.models.loading import DTYPES
from assent.models.saving import quiet
from assent.rollouts import vllm_engine
from assent.types import PromptGroup

CACHE_BYTES = 256 * 2**20
"""Memory for vLLM's keys and values, enough for a few short prompts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer: the prompt's ids, the completion's ids, and their log-probabilities at temperature 1."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def messages_of(group: PromptGroup) -> list[dict[str, Any]]:
    assert not isinstance(group.prompt, str)
    return [message.as_dict() for message in group.prompt]


@torch.no_grad()
def transformers_answers(
    folder: Path, groups: Sequence[PromptGroup], *, device: torch.device, dtype: str, max_new_tokens: int
) -> list[Answer]:
    tokenizer = plain_tokenizer(folder)
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False
        )
        model.to(device)
        return [_generate(model, tokenizer, group, max_new_tokens) for group in groups]


def _generate(model: Any, tokenizer: Any, group: PromptGroup, max_new_tokens: int) -> Answer:
    if isinstance(group.prompt, str):
        ids = tokenizer(group.prompt)["input_ids"]
    else:
        with bounded():
            ids = tokenizer.apply_chat_template(
                messages_of(group),
                tools=group.tools,
                add_generation_prompt=True,
                return_dict=True,
                **group.chat_template_kwargs,
            )["input_ids"]
    prompt = torch.tensor([ids], device=model.device)
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    completion = out.sequences[0, len(ids) :].tolist()
    logprobs = torch.cat(out.logits).float().log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(completion, device=model.device)[:, None])[:, 0]
    return Answer(tuple(ids), tuple(completion), tuple(chosen.tolist()))


def vllm_answers(
    folder: Path, groups: Sequence[PromptGroup], *, device: torch.device, dtype: str, max_new_tokens: int, context: int
) -> list[Answer]:
    """vLLM's greedy answers. Raises ModelError if vLLM cannot run the model."""
    engine = _open(folder, device, dtype, context)
    try:
        params = engine.get_default_sampling_params()  # from the folder's generation config, as a server does
        params.temperature, params.max_tokens, params.logprobs = 0.0, max_new_tokens, 0
        outputs = [_ask(engine, group, params) for group in groups]
    finally:
        vllm_engine.stop()
    return [
        Answer(
            tuple(output.prompt_token_ids),
            tuple(output.outputs[0].token_ids),
            tuple(at[i].logprob for i, at in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)),
        )
        for output in outputs
    ]


def _ask(engine: Any, group: PromptGroup, params: Any) -> Any:
    if isinstance(group.prompt, str):
        return engine.generate(group.prompt, params, use_tqdm=False)[0]
    tools = None if group.tools is None else [dict(tool) for tool in group.tools]
    kwargs = dict(group.chat_template_kwargs) or None
    return engine.chat(messages_of(group), params, use_tqdm=False, tools=tools, chat_template_kwargs=kwargs)[0]


@torch.no_grad()
def transformers_scores(
    folder: Path, rows: Sequence[tuple[int, ...]], *, device: torch.device, dtype: str
) -> torch.Tensor:
    """(S, heads) scores of rows of ids, read as one padded batch."""
    tokenizer = plain_tokenizer(folder)
    with quiet():
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False
        ).to(device)
    batch = tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt").to(device)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float().cpu()


def vllm_scores(
    folder: Path, rows: Sequence[tuple[int, ...]], *, device: torch.device, dtype: str, context: int
) -> torch.Tensor:
    """(S, heads) scores of rows of ids, before any activation. Raises ModelError if vLLM cannot run the model."""
    engine = _open(folder, device, dtype, context, runner="pooling")
    try:
        from vllm import PoolingParams

        inputs = [{"prompt_token_ids": list(row)} for row in rows]
        params = PoolingParams(use_activation=False)
        outputs = engine.encode(inputs, params, pooling_task="classify", use_tqdm=False)
        return torch.stack([output.outputs.data.float().cpu() for output in outputs])
    finally:
        vllm_engine.stop()


def _open(folder: Path, device: torch.device, dtype: str, context: int, **more: Any) -> Any:
    return vllm_engine.start(
        folder,
        device=device,
        dtype=dtype,
        max_model_len=context,
        max_num_seqs=8,
        kv_cache_memory_bytes=CACHE_BYTES,
        **more,
    )
