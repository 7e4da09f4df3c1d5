"""Models that are only read, and a cache of their log-probabilities on disk.

The name of a cached file is made of everything that its numbers depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assent.engine.micro_batches import Budget, cost_of
from assent.engine.reading import read_groups
from assent.engine.runtime import Runtime
from assent.engine.weights import fingerprint_of, load_weights, save_weights
from assent.engine.wrapping import copy_full, full, reshard, wrap
from assent.models.adapters import adapter_off, base_weights
from assent.models.batch import Outputs, TokenGroup
from assent.models.loading import fingerprint
from assent.models.one_trunk import resident
from assent.models.token_store import counts_of
from assent.runs.files import replacing, storage_errors

MASTERS = "masters.safetensors"
_BLOCK = 256
"""Groups read between two reports of progress."""


class Reader(Protocol):
    """A Reference, a Learner before its first update, or a Learner whose adapter is switched off."""

    runtime: Runtime

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs: ...

    def fingerprint(self) -> str: ...


class Reference:
    """A model that is read and never trained. It may move towards a model that is.

    offloaded   its weights are in main memory between reads
    """

    def __init__(
        self, module: nn.Module, runtime: Runtime, micro_batch_tokens: int = 0, *, offloaded: bool = False
    ) -> None:
        self.module = module.requires_grad_(False).eval()
        self.runtime, self.offloaded = runtime, offloaded
        self.budget = Budget.of(module, runtime, micro_batch_tokens)
        self.cost = cost_of(module)
        self.flops = 0.0
        """Model FLOPs of all reads so far."""
        self.masters: dict[str, Tensor] = {}
        """Float32 copies of low-precision weights, once the reference has moved."""
        if runtime.is_sharded:
            wrap(self.module, runtime)
        else:
            self.module.to("cpu" if offloaded else runtime.device)

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """Outputs in the order of `groups`, on the CPU in float32, the same on every process. No gradient."""
        self.flops += self.cost.forward(groups)
        with resident(self.module, self.runtime.device, offloaded=self.offloaded):
            return read_groups(self.module, groups, want=frozenset(want), runtime=self.runtime, budget=self.budget)

    def fingerprint(self) -> str:
        """SHA-256 of the weights, 16 hex digits. All processes must call it."""
        return fingerprint_of(self.module)

    @torch.no_grad()
    def move_towards(self, module: nn.Module, share: float) -> None:
        """weights <- (1 - share) · weights + share · the weights of `module`, which has the same parameters.

        This is computed on float32 copies: bfloat16 would round a share of a small difference away, every time.
        """
        pairs = zip(reshard(self.module).named_parameters(), reshard(module).parameters(), strict=True)
        for (name, mine), theirs in pairs:
            if mine.dtype == torch.float32:
                mine.lerp_(theirs.detach(), share)
                continue
            master = self.masters.setdefault(name, mine.float())
            mine.copy_(master.lerp_(theirs.detach().float(), share))

    def save(self, folder: Path) -> None:
        """Saves the weights into `folder`, which exists. The main process writes, all must call it."""
        save_weights(folder, self.module, is_main=self.runtime.is_main)
        masters = {name: full(master).cpu() for name, master in self.masters.items()}
        if masters and self.runtime.is_main:
            with storage_errors(folder / MASTERS):
                save_file(masters, folder / MASTERS)

    def load(self, folder: Path) -> None:
        """The inverse of `save`."""
        load_weights(folder, self.module)
        stored = load_file(folder / MASTERS) if (folder / MASTERS).is_file() else {}
        mine = dict(reshard(self.module).named_parameters())
        self.masters = {name: mine[name].detach().float().clone() for name in stored}
        for name, master in self.masters.items():
            copy_full(master, stored[name])


class AdapterOff:
    """The start of a policy that trains an adapter: the same weights, read with the adapter switched off.

    Its reads count as the learner's.
    """

    def __init__(self, learner: Any) -> None:
        self.learner, self.runtime = learner, learner.runtime

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """As `Learner.read`."""
        # PEFT switches the gradients of modules that are trained whole. It must find their shards both times: the whole
        # weights of a pass are made from them again, and would bring back what was switched for the pass alone.
        module = reshard(self.learner.module)
        with adapter_off(module):
            try:
                return self.learner.read(groups, want=want)
            finally:
                reshard(module)

    def fingerprint(self) -> str:
        """The fingerprint of the policy without its adapter. All processes must call it."""
        reshard(self.learner.module)
        return fingerprint(base_weights(dict(self.learner.module.base.named_parameters())), whole=full)


def reference_logps(
    groups: Sequence[TokenGroup],
    reader: Reader,
    *,
    key: str,
    cache_dir: Path,
    on_read: Callable[[int], object] | None = None,
) -> tuple[Tensor, bool]:
    """(S,) float32 sums of log-probabilities over each completion's counted tokens, and whether they were on disk.

    `key` stands for everything but the rows' ids: the reader's fingerprint, its model's configuration, dtype and
    precision. A damaged file is computed again. `on_read` gets the number of groups read. All processes must call it.
    Raises StorageError if the disk is full.
    """
    name = content_key(groups, key)
    path = cache_dir / f"{name}.safetensors"
    size = int(counts_of(groups).sum())
    cached = _load(path, name, size)
    missing = reader.runtime.max(torch.tensor(float(cached is None)))
    if cached is not None and not missing:  # on every process; otherwise all of them read, together
        return cached, True
    values = completion_sums(groups, reader, on_read=on_read)
    if reader.runtime.is_main:
        _store(path, name, values)
    reader.runtime.meet("writing the cache")  # every process finds the same groups on disk the next time
    return values, False


def reader_key(reader: Any, fingerprint: str, *precision: str) -> str:
    """SHA-256 of everything but the rows that a Reader's numbers depend on: weights, configuration, precision.

    fingerprint   the reader's own, of now
    """
    module = reader.learner.module if isinstance(reader, AdapterOff) else reader.module
    described = module.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # these say where it came from, not what it is
        described.pop(name, None)
    configuration = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256("\n".join((fingerprint, configuration, *precision)).encode()).hexdigest()


def content_key(groups: Sequence[TokenGroup], key: str) -> str:
    """SHA-256 of `key` and of the rows' ids, masks and boundaries, in their order."""
    digest = hashlib.sha256(f"assent reference 1\n{key}\n".encode())
    for group in groups:
        for ids in (group.prompt_ids, *(completion.ids for completion in group.completions)):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(np.asarray(ids, np.int64).tobytes())
        for completion in group.completions:
            mask = completion.mask or (True,) * len(completion.ids)
            digest.update(np.asarray(mask, np.bool_).tobytes())
        digest.update(b"group")
    return digest.hexdigest()


def completion_sums(
    groups: Sequence[TokenGroup], reader: Reader, *, on_read: Callable[[int], object] | None = None
) -> Tensor:
    """(S,) float32 sums of log-probabilities over each completion's counted tokens, in the groups' order. Reads now."""
    sums = []
    for start in range(0, len(groups), _BLOCK):
        block = groups[start : start + _BLOCK]
        logprobs = reader.read(block, want={"logprobs"}).logprobs
        assert logprobs is not None
        lengths = [completion.num_counted for group in block for completion in group.completions]
        sums.append(torch.stack([piece.double().sum() for piece in logprobs.split(lengths)]).float())
        if on_read is not None:
            on_read(len(block))
    return torch.cat(sums) if sums else torch.zeros(0)


def _load(path: Path, name: str, size: int) -> Tensor | None:
    """The stored values; None unless the file is whole and agrees with its name."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            values = stored.get_tensor("logps")
    except (OSError, SafetensorError):
        return None
    whole = metadata.get("key") == name and metadata.get("sha256") == _digest(values) and values.shape == (size,)
    return values if whole else None


def _store(path: Path, name: str, values: Tensor) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file({"logps": values}, temporary, metadata={"key": name, "sha256": _digest(values)})


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
