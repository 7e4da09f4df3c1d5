"""The models of a run: those that are trained, those that are only read, and the cost of reading them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from assent.config.options import StageOptions
from assent.engine.learner import Learner
from assent.engine.ledger import Ledger
from assent.engine.references import AdapterOff, Reader, Reference, reader_key, reference_logps
from assent.engine.runtime import Runtime
from assent.engine.weights import gathered
from assent.errors import GateError
from assent.models.adapters import is_adapted
from assent.models.batch import TokenGroup
from assent.models.module import AlignmentModel
from assent.models.tiers import Kind
from assent.rewards.base import Reward
from assent.rewards.loading import Spec, shown_by
from assent.rewards.reading import ModelReader
from assent.rollouts.opening import ModelSampler, open_sampler
from assent.runs.files import file_facts, user_cache
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.stages.model_loading import frozen, load_module, load_rewards, load_trained_modules, save_trained
from assent.stages.stage_data import StageData


class RunModels:
    """Learners, references, reward and sampler.

    learners   models that are trained; `model` is the one that the run saves
    moving     references that follow the policy
    Every checkpoint holds both.
    """

    def __init__(
        self, config: StageOptions, data: StageData, folder: RunFolder, log: RunLog, runtime: Runtime, *, ledger: Ledger
    ) -> None:
        self.config, self.data, self.folder, self.log, self.runtime = config, data, folder, log, runtime
        self.ledger = ledger
        self.learners: dict[str, Learner] = {}
        self.moving: dict[str, Reference] = {}
        self.fingerprints: dict[str, str] = {}
        """`NAME_start` and `NAME_end` of each model (law 4)."""
        self.reference_seconds = 0.0
        """Time spent on the reference's log-probabilities before training."""
        self._readers: list[Reference | ModelReader | ModelSampler] = []
        self._flops_before = 0.0  # of readers that are no longer in memory, or from before the run was resumed

    @property
    def learner(self) -> Learner:
        return self.learners["model"]

    @property
    def members(self) -> list[Learner]:
        """The members of an ensemble of adapters; without an ensemble, the one model."""
        return [learner for name, learner in self.learners.items() if name == "model" or name.startswith("member-")]

    @property
    def in_checkpoints(self) -> dict[str, Learner | Reference]:
        return {**self.learners, **self.moving}

    def let_go(self) -> None:
        """The run is over: nothing here holds a model any longer."""
        self.learners, self.moving, self._readers = {}, {}, []

    @property
    def flops_of_readers(self) -> float:
        return self._flops_before + sum(reader.flops for reader in self._readers)

    @property
    def flops(self) -> float:
        """Model FLOPs of the whole run so far."""
        return sum(learner.flops for learner in self.learners.values()) + self.flops_of_readers

    def restore_flops(self, flops_of_readers: float) -> None:
        """Continues from a checkpoint's count."""
        self._flops_before = flops_of_readers

    @property
    def _trunk(self) -> AlignmentModel | None:
        """The policy, if the models loaded after it are adapters on its base (`--trunk one`)."""
        is_one = self.learners and self.config.trunk == "one"
        return module_of(self.learner) if is_one else None

    def add_learner(
        self, name: str, path: str, *, kind: Kind, updates: int, learning_rate: float | None = None
    ) -> Learner:
        """Loads a trainable model. updates: optimiser steps of the whole run, for the learning rate's schedule."""
        config = (
            self.config if learning_rate is None else self.config.model_copy(update={"learning_rate": learning_rate})
        )
        trunk, at = self._trunk, (self.data.tokenizer, self.folder.path)
        loaded = load_trained_modules(self.config, path, kind, *at, name=name, runtime=self.runtime, trunk=trunk)
        for own, (module, lines) in loaded.items():
            learner = self.learners[own] = Learner(
                module,
                runtime=self.runtime,
                optim=config,
                total_steps=updates,
                router_aux_loss_coef=config.router_aux_loss_coef if kind == "policy" else 0.0,
            )
            self.note_start(own, learner.fingerprint())
            for line in [f"{own}: {path}, attention {module.tier} ({module.tier_reason})", *lines]:
                self.log.note(line)
        self.ledger.models_resident += trunk is None
        return self.learners[name]

    def add_reference(
        self, path: str | None, *, name: str = "reference", kind: Kind = "policy"
    ) -> Reference | AdapterOff:
        """Loads a frozen model. Without a path it is the policy's start, which an adapter leaves in place.

        run.json has its fingerprint under `name`.
        """
        if path is None and is_adapted(self.learner.module):
            start = AdapterOff(self.learner)
            self.note_start(name, start.fingerprint())
            return start
        trunk = self._trunk
        at = path or self.config.model
        module = load_module(self.config, at, kind, self.data.tokenizer, runtime=self.runtime, trunk=trunk)
        reference = frozen(self.config, module, self.runtime)
        self._readers.append(reference)
        self.ledger.models_resident += trunk is None
        self.note_start(name, reference.fingerprint())
        return reference

    def add_reward(self, spec: Spec) -> Reward:
        """Opens the reward: with several processes, each source where `stages/placed_rewards.py` says."""
        trunk = self._trunk
        reward, models = load_rewards(self.config, spec, self.data.tokenizer, runtime=self.runtime, trunk=trunk)
        shown_by(reward, self.log.shown)
        self.ledger.models_resident += len(models) * (trunk is None)
        self._readers += models
        return reward

    def add_sampler(self) -> ModelSampler:
        """Opens a sampler that uses the learner's own weights, or a copy that `load` updates."""
        sampler = open_sampler(
            self.config, module_of(self.learner).hf, self.data.template, learns=True, progress=self.log.shown
        )
        self._readers.append(sampler)
        self.ledger.models_resident += self.config.sampler == "vllm"  # its copy
        return sampler

    def reference_logps(self, path: str | None, *parts: Sequence[TokenGroup]) -> list[Tensor]:
        """For each part, (S,) sums of its completions' log-probabilities under the reference, cached by content.

        Without a path the reference is the policy's start: call this before `Session.resume`, which loads later weights
        into the policy. A reference with its own weights leaves memory when this returns, before training.
        """
        reader: Reader
        if path is not None:
            module = load_module(self.config, path, "policy", self.data.tokenizer, runtime=self.runtime)
            reader = frozen(self.config, module, self.runtime)
        else:
            reader = AdapterOff(self.learner) if is_adapted(self.learner.module) else self.learner
        self.ledger.models_resident += path is not None
        fingerprint = reader.fingerprint()
        self.note_start("reference", fingerprint)
        precision = (self.config.dtype, self.config.mixed_precision, self.runtime.device.type)
        key = reader_key(reader, fingerprint, *precision)
        folder = Path(self.config.reference_cache) if self.config.reference_cache else user_cache() / "reference"
        logps = [self._reference_logps(reader, groups, key, folder) for groups in parts]
        if isinstance(reader, Reference):
            self._flops_before += reader.flops
        return logps

    def _reference_logps(self, reader: Reader, groups: Sequence[TokenGroup], key: str, folder: Path) -> Tensor:
        if not groups:
            return torch.zeros(0)
        started = time.perf_counter()
        with self.log.progress("reference", len(groups)) as bar:
            values, was_cached = reference_logps(groups, reader, key=key, cache_dir=folder, on_read=bar.advance)
            if was_cached:
                bar.advance(len(groups))
        how = "read from the cache" if was_cached else "computed"
        self.log.note(f"reference log-probabilities of {len(values)} completions: {how}")
        if not was_cached:
            self.reference_seconds += time.perf_counter() - started
        return values

    def reference_time(self) -> dict[str, float]:
        """The time spent on the reference's log-probabilities, as a metric of the first step after it."""
        seconds, self.reference_seconds = self.reference_seconds, 0.0
        return {"perf/reference_seconds": seconds} if seconds else {}

    def note_start(self, name: str, fingerprint: str) -> None:
        """Records a model's fingerprint. RunFolderError if the run started from other weights."""
        self.fingerprints[f"{name}_start"] = fingerprint
        self.folder.record_start(name, fingerprint)

    def check_unchanged(self, reference: Reader, *, name: str = "reference") -> None:
        """Law 4: the reference must end as it started."""
        self.check_same(name, self.fingerprints[f"{name}_start"], reference.fingerprint())

    def check_same(self, name: str, start: str, end: str) -> None:
        """Records both fingerprints. GateError if they differ."""
        self.fingerprints |= {f"{name}_start": start, f"{name}_end": end}
        if end != start:
            raise GateError(
                "the reference changed while the policy was trained",
                got=end,
                expected=start,
                fix="likely cause: policy and reference share weights",
            )

    def save(self) -> None:
        """Writes the model's folder in the main process, after all processes have gathered sharded weights. Records the
        fingerprints of what was trained in run.json."""
        modules = [module_of(learner) for learner in self.members]
        whole = gathered(modules[0], keep=self.runtime.is_main) if self.runtime.is_sharded else None
        if self.runtime.is_main:
            save_trained(self.folder.model_path, modules, self.data.tokenizer, state_dict=whole)
            self.folder.record(model_files=file_facts(self.folder.model_path))
        self.runtime.meet("writing the model")
        for name, learner in self.learners.items():
            self.fingerprints[f"{name}_end"] = learner.fingerprint()
        self.folder.record(fingerprints=self.fingerprints)


def module_of(learner: Learner) -> AlignmentModel:
    """The learner's module, as the class that every model of a run has."""
    assert isinstance(learner.module, AlignmentModel)
    return learner.module
