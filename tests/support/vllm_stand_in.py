"""Stands in for vLLM: as much of its interface as `rollouts/vllm_engine.py` uses, with a model of transformers inside.

Like vLLM 0.32 it puts its groups into the process group that it finds, or starts one of its own; with an external
launcher it takes the device of LOCAL_RANK, otherwise the first; and when it ends it ends the whole process group.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from assent.models.loading import fingerprint

FOLDER = "VLLM_STAND_IN"
"""The environment's name of a folder, in which each process writes down what its engines were asked for."""
_groups: list[Any] = []


def install() -> None:
    """From now on `import vllm` finds this."""
    named: dict[str, Mapping[str, Any]] = {
        "vllm": {"LLM": Engine, "SamplingParams": Request},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type="cpu")},
        "vllm.distributed": {"cleanup_dist_env_and_memory": clean_up},
        "vllm.model_executor.layers.vocab_parallel_embedding": {"ParallelLMHead": type("ParallelLMHead", (), {})},
        "vllm.v1.sample.logits_processor": {
            "BatchUpdate": Update,
            "LogitsProcessor": object,
            "MoveDirectionality": Enum("MoveDirectionality", {"SWAP": auto()}),
        },
    }
    for name, content in named.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            at = ".".join(parts[:end])
            if at not in sys.modules:
                sys.modules[at] = ModuleType(at)
                sys.modules[at].__spec__ = ModuleSpec(at, None)
        vars(sys.modules[name]).update(content)


@dataclass
class Request:
    temperature: float
    max_tokens: int
    ignore_eos: bool
    stop_token_ids: Sequence[int]
    detokenize: bool
    extra_args: dict[str, Any]


@dataclass
class Update:
    removed: Sequence[int] = ()
    added: Sequence[tuple[int, Request, Sequence[int], list[int]]] = field(default_factory=list)
    moved: Sequence[tuple[int, int, Any]] = ()


class Inside(nn.Module):
    """The model in the engine."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.hf = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]]) -> set[str]:
        own, taken = dict(self.hf.named_parameters()), set()
        for name, tensor in tensors:
            if name in own:  # a buffer is not
                own[name].data.copy_(tensor)
                taken.add(f"hf.{name}")
        return taken


class Engine:
    def __init__(self, folder: str, *, logits_processors: Sequence[Any], **options: Any) -> None:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        backend = options.get("distributed_executor_backend", "uni")
        self.local_rank = int(os.environ["LOCAL_RANK"]) if backend == "external_launcher" else 0
        _take_groups()
        self.model, self.choice = Inside(folder), logits_processors[0](None, None, False)
        self.worker = SimpleNamespace(model_runner=self)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: self.note("shut down")))
        self.note("made", local_rank=self.local_rank)

    def note(self, what: str, **more: Any) -> None:
        with (Path(os.environ[FOLDER]) / f"engine {os.environ.get('RANK', '0')}.jsonl").open("a") as file:
            file.write(json.dumps({"what": what, **more}) + "\n")

    def collective_rpc(self, function: Any, args: tuple[Any, ...]) -> list[Any]:
        return [function(self.worker, *args)]

    def get_model(self) -> nn.Module:
        return self.model

    def reload_weights(self, weights_iterator: Iterable[tuple[str, Tensor]]) -> None:
        self.model.load_weights(weights_iterator)
        self.note("took weights", fingerprint=fingerprint(dict(self.model.hf.named_parameters())))

    def reset_prefix_cache(self) -> None:
        pass

    def generate(self, inputs: Sequence[Mapping[str, Any]], requests: Sequence[Request], *, use_tqdm: bool) -> Any:
        rows = []
        for one, request in zip(inputs, requests, strict=True):
            prompt, ids = list(one["prompt_token_ids"]), list[int]()
            self.choice.update_state(Update(removed=[0], added=[(0, request, prompt, ids)]))
            while len(ids) < request.max_tokens and not (ids and ids[-1] in request.stop_token_ids):
                logits = self.model.hf(input_ids=torch.tensor([prompt + ids])).logits[:, -1].float()
                ids.append(int(self.choice.apply(logits).argmax()))
            rows.append([prompt, ids])
        self.note("sampled", rows=rows)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)]) for _, ids in rows]


def _take_groups() -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert not _groups, "the groups of another engine are still there"
    number = dist.get_world_size()
    for ranks in (list(range(number)), *([rank] for rank in range(number))):
        group = dist.new_group(ranks, backend="gloo")
        if dist.get_rank() in ranks:
            _groups.append(group)
    dist.barrier(group=_groups[0])


def clean_up() -> None:
    while _groups:
        dist.destroy_process_group(_groups.pop())
    if dist.is_initialized():
        dist.destroy_process_group()
