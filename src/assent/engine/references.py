"""The reference's log-probabilities, computed once and kept on disk under a name made of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from assent.engine.runtime import Runtime
from assent.engine.wrapping import full
from assent.models.adapters import adapter_off, base_weights
from assent.models.batch import Outputs, TokenGroup
from assent.models.loading import fingerprint
from assent.runs.files import fsync, storage_errors

_BLOCK = 256
"""Groups read between two reports of progress."""


class Reader(Protocol):
    """A Reference, a Learner that has not learned yet, or one that has, its adapter switched off."""

    runtime: Runtime

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs: ...

    def fingerprint(self) -> str: ...


class AdapterOff:
    """The start of a policy that is trained by an adapter: the same weights, read with the adapter switched off.

    Its reads count as the learner's own.
    """

    def __init__(self, learner: Any) -> None:
        self.learner, self.runtime = learner, learner.runtime

    def read(self, groups: Sequence[TokenGroup], *, want: set[str] | frozenset[str]) -> Outputs:
        """As `Learner.read`."""
        with adapter_off(self.learner.module):
            return self.learner.read(groups, want=want)

    def fingerprint(self) -> str:
        """That of the same policy without an adapter. All processes must call it."""
        named = base_weights(dict(self.learner.module.base.named_parameters()))
        return fingerprint({name: full(weight.detach()) for name, weight in named.items()})


def reference_logps(
    groups: Sequence[TokenGroup],
    reader: Reader,
    *,
    key: str,
    cache_dir: Path,
    on_read: Callable[[int], object] | None = None,
) -> tuple[Tensor, bool]:
    """(S,) float32 sums of log-probabilities over each completion's counted tokens, and whether they were on disk.

    `key` stands for what the numbers depend on beside the rows' ids: the reader's fingerprint, its model's
    configuration, its dtype and precision.
    A file whose content is not what it was written as is computed again. All processes must call it. `on_read` is
    given the number of groups done. Raises StorageError where the disk is full.
    """
    name = content_key(groups, key)
    path = cache_dir / f"{name}.safetensors"
    size = sum(len(group.completions) for group in groups)
    cached = _load(path, name, size)
    missing = reader.runtime.max(torch.tensor(float(cached is None)))
    if cached is not None and not missing:  # on every process: otherwise they all read, together
        return cached, True
    values = completion_sums(groups, reader, on_read=on_read)
    if reader.runtime.is_main:
        _store(path, name, values)
    reader.runtime.barrier()  # so that the same groups, read next, are on disk for every process
    return values, False


def user_cache() -> Path:
    """ASSENT_CACHE, or `assent` in the user's cache folder."""
    return Path(os.environ.get("ASSENT_CACHE") or Path.home() / ".cache" / "assent")


def reader_key(reader: Any, *precision: str) -> str:
    """SHA-256 of what a Reader's numbers depend on beside the rows: weights, configuration, and how it computes."""
    module = reader.learner.module if isinstance(reader, AdapterOff) else reader.module
    described = module.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it came from, not what it is
        described.pop(name, None)
    configuration = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256("\n".join((reader.fingerprint(), configuration, *precision)).encode()).hexdigest()


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
    """(S,) float32 sums of log-probabilities over each completion's counted tokens, read now, in the groups' order."""
    sums = []
    for start in range(0, len(groups), _BLOCK):
        block = groups[start : start + _BLOCK]
        logprobs = reader.read(block, want={"logprobs"}).logprobs
        assert logprobs is not None
        lengths = [completion.num_counted for group in block for completion in group.completions]
        sums += [piece.double().sum() for piece in logprobs.split(lengths)]
        if on_read is not None:
            on_read(len(block))
    return torch.stack(sums).float() if sums else torch.zeros(0)


def _load(path: Path, name: str, size: int) -> Tensor | None:
    """The stored values, if the file is whole and says it is what its name says."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            values = stored.get_tensor("logps")
    except (OSError, SafetensorError):
        return None
    whole = metadata.get("key") == name and metadata.get("sha256") == _digest(values) and values.shape == (size,)
    return values if whole else None


def _store(path: Path, name: str, values: Tensor) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({"logps": values}, temporary, metadata={"key": name, "sha256": _digest(values)})
            fsync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
