"""Starts and stops vLLM inside this process, one engine at a time, and undoes what it changes in the process.

Where several processes train together, each has an engine of its own. vLLM takes the process group that it finds, and
makes groups of one process in it (it calls this an external launcher). All processes must start together: a group is
made by all. After that no engine waits for another one, so each may sample another number of prompts.
"""

from __future__ import annotations

import atexit
import copy
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ConfigError, ModelError

REQUIRED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine takes our tensors and calls us to choose tokens
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # `RowChoice` follows the batch of the first runner
    "VLLM_DP_SIZE": "1",  # processes share prompts by our rule, not by vLLM's
    "VLLM_DP_RANK": "0",
    "VLLM_DISTRIBUTED_USE_SPLIT_GROUP": "0",  # it asks for a process group of another kind than ours
}
PREFERRED = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer uses the same threads
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_NO_USAGE_STATS": "1",
}
_engine: Any = None
_is_guest = False
"""Whether the process group was there before the engine, and stays after it."""


def is_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def check_vllm() -> None:
    """Raises ConfigError if vLLM cannot run here. Imports nothing."""
    if not is_installed():
        raise ConfigError(
            "vLLM is not installed",
            fix="pip install 'assent[vllm]' (on a machine without CUDA: see docs/serving.md), or leave vllm out",
        )


def start(model: str | Path, *, device: torch.device, **options: Any) -> Any:
    """Opens the folder as a `vllm.LLM` and closes the engine that was open. `options` are vLLM's. If there are several
    processes, all must call it together.

    Raises ModelError with vLLM's own message if it cannot run this model, and ConfigError for another device.
    """
    global _engine, _is_guest  # noqa: PLW0603
    stop()
    _is_guest = dist.is_initialized()
    os.environ.update(REQUIRED)
    for name, value in PREFERRED.items():
        os.environ.setdefault(name, value)
    set_num_threads = torch.set_num_threads
    from vllm import LLM
    from vllm.platforms import current_platform

    is_one_of_several = _is_guest and dist.get_world_size() > 1
    own = int(os.environ["LOCAL_RANK"]) if is_one_of_several else 0  # the only device that vLLM takes here
    if current_platform.device_type != device.type or device.index not in (None, own):
        raise ConfigError(
            "this vLLM does not run on the chosen device",
            got=f"--device {device}, vLLM for {current_platform.device_type}",
            fix=f"--device {current_platform.device_type} (choose one of several with CUDA_VISIBLE_DEVICES), "
            "or --sampler torch",
        )
    try:
        _engine = LLM(
            str(model),
            trust_remote_code=False,
            enforce_eager=device.type == "cpu",
            disable_log_stats=True,
            seed=0,
            use_tqdm_on_load=False,
            **({"distributed_executor_backend": "external_launcher"} if is_one_of_several else {}),
            **options,
        )
    except Exception as error:  # any error means that it cannot run this model
        _clean_up()
        raise ModelError(
            f"vLLM cannot run this model: {_first_line(error)}", got=model, fix="--sampler torch runs it"
        ) from error
    finally:
        torch.set_num_threads = set_num_threads  # on a CPU the engine replaces it by a function that does nothing
    return _engine


def stop() -> None:
    """Closes the open engine, if there is one, and frees its memory."""
    global _engine
    if _engine is not None:
        closing, _engine = _engine, None
        closing.llm_engine.engine_core.shutdown()
        del closing
        _clean_up()


def is_open(engine: Any) -> bool:
    return engine is not None and engine is _engine


def start_empty(model: PreTrainedModel, **options: Any) -> Any:
    """An engine for a model like this one, without its weights: `hand_over` passes them."""
    from assent.rollouts.vllm_choice import Choice

    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return start(
            folder,
            device=model.device,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            async_scheduling=False,  # a token can be chosen only when those before it are known
            logits_processors=[Choice],
            **options,
        )


def hand_over(engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Replaces the engine's weights by `weights`, named as in a folder. Raises ModelError if any is missing."""
    (missing,) = engine.collective_rpc(_take, args=(weights,))
    if missing:
        raise ModelError(
            f"vLLM did not take {len(missing)} of its model's weights",
            got=", ".join(missing[:3]),
            fix="--sampler torch; and report this model's architecture",
        )
    engine.reset_prefix_cache()  # its cached prompts were computed with the old weights


@torch.no_grad()
def _take(worker: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """Loads the weights in the engine's worker. Returns the names of the weights that were not given."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    runner = worker.model_runner
    model = runner.get_model()
    expected, loaded = {name for name, _ in model.named_parameters()}, set[str]()
    load_weights = model.load_weights

    def noted(tensors: Iterable[tuple[str, Tensor]]) -> set[str] | None:
        found: set[str] | None = load_weights(tensors)
        loaded.update(expected if found is None else found)  # None: this architecture does not report them
        return found

    model.load_weights = noted
    try:
        runner.reload_weights(weights_iterator=iter(weights.items()))
    finally:
        del model.load_weights
    for module in model.modules():  # a tied head is not loaded, and on a CPU it has a packed copy
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
    return sorted(expected - loaded)


def _clean_up() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    with _group_kept():
        cleanup_dist_env_and_memory()


@contextmanager
def _group_kept() -> Iterator[None]:
    """Inside, vLLM ends the groups that it made, but not the process group that it found."""
    end = dist.destroy_process_group

    def end_own(group: Any = None) -> None:
        if dist.is_initialized() and (group is not None or not _is_guest):
            end(group)

    dist.destroy_process_group = end_own
    try:
        yield
    finally:
        dist.destroy_process_group = end


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


atexit.register(stop)
