"""What every stage needs around its loop: the run folder, the log, learners, data order, checkpoints, the ledger.

A stage reads from top to bottom; the session holds what would otherwise stand in each of them word for word.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assent.engine.checkpoint import latest_verified, verified, write_checkpoint
from assent.engine.interrupts import interruptible
from assent.engine.learner import Learner, Reference
from assent.engine.ledger import Ledger
from assent.engine.random import Batches
from assent.engine.references import AdapterOff, Reader, reader_key, reference_logps, user_cache
from assent.engine.runtime import Runtime
from assent.engine.trackers import Trackers
from assent.engine.weights import gathered
from assent.errors import GateError
from assent.models.adapters import is_adapted
from assent.models.batch import TokenGroup
from assent.models.folders import content_hash
from assent.models.loading import check_context, load_config
from assent.models.module import AlignmentModel
from assent.models.tiers import Kind
from assent.rewards.base import Reward
from assent.rewards.loading import Spec
from assent.rewards.reading import ModelReader
from assent.rewards.reward_model import tokenizer_hash
from assent.rollouts.opening import ModelSampler, open_sampler
from assent.runs.folder import RunFolder
from assent.runs.log import Progress, RunLog
from assent.runs.model_card import write_card
from assent.stages.held_out_samples import HeldOutPrompts, answers, choose_prompts
from assent.stages.result import StageResult
from assent.stages.run_models import frozen, load_module, load_rewards, load_trained_modules, save_trained
from assent.stages.scores import MainReward
from assent.stages.stage_data import StageData
from assent.stages.validation import Validation
from assent.types import PromptGroup


class Session:
    """One run of one stage. `result` is set where the folder holds the finished run already: then nothing is loaded."""

    def __init__(
        self,
        config: Any,
        data: StageData,
        folder: RunFolder,
        log: RunLog,
        runtime: Runtime,
        eval_prompts: HeldOutPrompts | None = None,
    ) -> None:
        self.config, self.data, self.folder, self.log, self.runtime = config, data, folder, log, runtime
        self.eval_prompts = eval_prompts or HeldOutPrompts([], [], [])
        self.validation = Validation(config, log)
        self.train_groups: Sequence[PromptGroup] = data.train.groups
        self.train_tokens: Sequence[TokenGroup] = data.train.tokens
        self.eval_tokens: Sequence[TokenGroup] = data.parts["eval"].tokens if "eval" in data.parts else []
        self.order = Batches(
            num_rows=len(self.train_tokens),
            batch_size=config.batch_size,
            epochs=getattr(config, "num_train_epochs", 1.0),
            max_steps=getattr(config, "max_steps", 0) or getattr(config, "total_steps", 0),
            seed=config.seed,
            shuffle=config.shuffle,
        )
        self.learners: dict[str, Learner] = {}
        self.moving: dict[str, Reference] = {}  # references that follow the policy: they are part of every checkpoint
        self.state: dict[str, Any] = {}  # a stage's own numbers that belong to a checkpoint (JSON values)
        self.ledger = Ledger(runtime.device, models_resident=0)
        self.step = 0
        self.last: dict[str, float] = {}
        self.result: StageResult | None = None
        self._fingerprints: dict[str, Any] = {}
        self._readers: list[Reference | ModelReader | ModelSampler] = []  # all that reads models beside the learners
        self._eval_reference: Reader | None = None
        self._flops_before = 0.0  # of readers that are gone, or from before the run was resumed
        self._once: dict[str, float] = {}  # the next step's metrics have it too

    @property
    def _trunk(self) -> AlignmentModel | None:
        """The policy, where what is loaded after it stands on its base."""
        is_one = self.learners and getattr(self.config, "trunk", "separate") == "one"
        return _module(self.learner) if is_one else None

    @property
    def learner(self) -> Learner:
        return self.learners["model"]

    @property
    def members(self) -> list[Learner]:
        """Of an ensemble of adapters, else the one model."""
        return [learner for name, learner in self.learners.items() if name == "model" or name.startswith("member-")]

    def indices(self, step: int) -> list[int]:
        return self.order.indices(step)

    def batch(self, step: int) -> list[TokenGroup]:
        return [self.train_tokens[i] for i in self.indices(step)]

    def add_learner(self, name: str, path: str, *, kind: Kind, learning_rate: float | None = None) -> Learner:
        """A trainable model of this run; its weights and optimiser are part of every checkpoint."""
        config = (
            self.config if learning_rate is None else self.config.model_copy(update={"learning_rate": learning_rate})
        )
        trunk, at = self._trunk, (self.data.tokenizer, self.folder.path)
        loaded = load_trained_modules(self.config, path, kind, *at, name=name, runtime=self.runtime, trunk=trunk)
        rounds = self.order.num_steps - (getattr(config, "critic_warmup_steps", 0) if name == "model" else 0)
        updates = rounds * math.prod(getattr(config, "passes", (1,)))
        for own, (module, lines) in loaded.items():
            learner = self.learners[own] = Learner(module, runtime=self.runtime, optim=config, total_steps=updates)
            self._note_start(own, learner.fingerprint())
            for line in [f"{own}: {path}, attention {module.tier} ({module.tier_reason})", *lines]:
                self.log.note(line)
        self.ledger.models_resident += trunk is None
        return self.learners[name]

    def reference_model(
        self, path: str | None, *, name: str = "reference", kind: Kind = "policy"
    ) -> Reference | AdapterOff:
        """A frozen model in memory; none given: the start of the policy, which an adapter leaves where it is.

        run.json has its fingerprint as `name`.
        """
        if path is None and is_adapted(self.learner.module):
            start = AdapterOff(self.learner)
            self._note_start(name, start.fingerprint())
            return start
        trunk = self._trunk
        module = load_module(self.config, path or self.config.model, kind, self.data.tokenizer, trunk=trunk)
        reference = frozen(self.config, module, self.runtime)
        self._readers.append(reference)
        self.ledger.models_resident += trunk is None
        self._note_start(name, reference.fingerprint())
        return reference

    def reward(self, spec: Spec) -> Reward:
        """What scores, in the main process; elsewhere what tells its scores."""
        trunk = self._trunk

        def load() -> Reward:
            reward, models = load_rewards(self.config, spec, self.data.tokenizer, runtime=self.runtime, trunk=trunk)
            self.ledger.models_resident += len(models) * (trunk is None)
            self._readers += models
            return reward

        return load() if self.runtime.num_processes == 1 else MainReward(load, self.runtime)

    def validate_with(self, measure: Callable[[], dict[str, float]], *, reference: str | None = None) -> None:
        """Held-out figures are what `measure` gives, when the configuration says; nothing without held-out data.

        With --eval-prompts also answers, and their KL to `reference` (a policy's path; None: the policy as it starts),
        which stays in memory. Call before `resume`.
        """
        if not self.eval_tokens:
            return
        self.validation.measure = measure
        if self.eval_prompts.ids:
            frozen, sampler = self.reference_model(reference, name="eval_reference"), self.sampler()
            self._eval_reference = frozen
            self.validation.measure = lambda: {**measure(), **self._answer(sampler, frozen)}

    def _answer(self, sampler: ModelSampler, reference: Reader) -> dict[str, float]:
        figures, rows = answers(
            self.config, self.eval_prompts, sampler=sampler, learner=self.learner, reference=reference
        )
        self.log.samples(self.step, rows)
        self.ledger.add(completions_sampled=len(rows))
        return figures

    def sampler(self) -> ModelSampler:
        """Samples with the learner's own weights, or a copy of them that `load` brings up to date."""
        sampler = open_sampler(self.config, _module(self.learner).hf, self.data.template, learns=True)
        self._readers.append(sampler)
        self.ledger.models_resident += getattr(self.config, "sampler", "torch") == "vllm"  # its copy
        return sampler

    def reference_logps(self, path: str | None, *parts: Sequence[TokenGroup]) -> list[Tensor]:
        """For each part, (S,) summed log-probabilities of its completions under the reference, cached by content.

        No path: the policy as it starts. Call before `resume`, which puts the policy where the run was left. A
        reference with weights of its own is in memory until this returns, not while the policy is trained.
        """
        reader: Reader
        if path is not None:
            module = load_module(self.config, path, "policy", self.data.tokenizer)
            reader = frozen(self.config, module, self.runtime)
        else:
            reader = AdapterOff(self.learner) if is_adapted(self.learner.module) else self.learner
        self.ledger.models_resident += path is not None
        self._note_start("reference", reader.fingerprint())
        folder = Path(self.config.reference_cache) if self.config.reference_cache else user_cache() / "reference"
        found = [self._reference_logps(reader, groups, folder) for groups in parts]
        if isinstance(reader, Reference):
            self._flops_before += reader.flops
        return found

    def _reference_logps(self, reader: Reader, groups: Sequence[TokenGroup], folder: Path) -> Tensor:
        if not groups:
            return torch.zeros(0)
        started = time.perf_counter()
        with self.log.progress("reference", len(groups)) as bar:
            key = reader_key(reader, self.config.dtype, self.config.mixed_precision, self.runtime.device.type)
            values, was_cached = reference_logps(groups, reader, key=key, cache_dir=folder, on_read=bar.advance)
            if was_cached:
                bar.advance(len(groups))
        how = "read from the cache" if was_cached else "computed"
        self.log.note(f"reference log-probabilities of {len(values)} completions: {how}")
        if not was_cached:
            self._once["perf/reference_seconds"] = sum(self._once.values()) + time.perf_counter() - started
        return values

    def check_unchanged(self, reference: Reader) -> None:
        """The reference is at the end what it was at the start (law 4)."""
        self.check_same("reference", self._fingerprints["reference_start"], reference.fingerprint())

    def check_same(self, name: str, start: str, end: str) -> None:
        """Records both fingerprints; GateError where they differ."""
        self._fingerprints |= {f"{name}_start": start, f"{name}_end": end}
        if end != start:
            raise GateError(
                "the reference changed while the policy was trained",
                got=end,
                expected=start,
                fix="likely cause: policy and reference share weights",
            )

    def resume(self) -> None:
        """Puts learners, ledger and state where the newest verified checkpoint left them, if there is one."""
        found = latest_verified(self.folder.path)
        if found is not None and found.step == 0:  # the start, kept as the best so far: nothing is lost
            found = None
        self.folder.rewind(None if found is None else found.step)
        if found is None:
            return
        for reason in found.refused:
            self.log.note(f"a damaged checkpoint was passed over: {reason}")
        found.load_into({**self.learners, **self.moving})
        self.ledger.restore(found.state["ledger"])
        self.state, self.last = found.state["stage"], found.state["last"]
        self.validation.state = found.state["validation"]
        self._flops_before = found.state["flops_of_readers"]
        self.step = found.step
        self.log.note(f"resumed after step {found.step}")

    def steps(self) -> Iterator[int]:
        """The steps that are left. Between two of them: held-out data, checkpoints, and Ctrl-C in good order."""
        total = self.order.num_steps
        with (
            interruptible() as interrupted,
            self.log.progress(self.folder.manifest["command"], total, done=self.step) as bar,
        ):
            if self.step == 0 and self.validation.before_the_first_step():
                self.checkpoint()
            while self.step < total and not self.validation.has_to_stop:
                yield self.step
                self.step += 1
                shown = {name: self.last[name] for name in SHOWN if name in self.last}
                bar.advance(1, **shown)
                is_best = self.validation.after(self.step, is_last=self.step == total)
                is_over = self.step == total or self.validation.has_to_stop
                due = is_best or (self.config.save_steps and self.step % self.config.save_steps == 0)
                stop = interrupted.anywhere(self.runtime)
                if (due and not is_over) or stop:
                    self.checkpoint()
                if stop:
                    self.log.note(f"interrupted after step {self.step}; the same command resumes")
                    raise KeyboardInterrupt

    def checkpoint(self) -> None:
        write_checkpoint(
            self.folder.path,
            self.step,
            learners={**self.learners, **self.moving},
            state={
                "stage": self.state,
                "validation": self.validation.state,
                "last": self.last,
                "ledger": self.ledger.state(),
                "flops_of_readers": self._flops_of_readers(),
            },
            save_total_limit=self.config.save_total_limit,
            best=self.validation.best_step,
        )

    def _flops_of_readers(self) -> float:
        return self._flops_before + sum(reader.flops for reader in self._readers)

    def log_step(self, step: int, metrics: Mapping[str, float], **counts: int) -> None:
        """Writes a step's metrics and the ledger; `counts` (completions_sampled, reward_calls) add to that."""
        self.ledger.add(**counts)
        if self.data.train.labelled:  # a label is paid for once, however often it is read
            self.ledger.counts["labels"] = float(min((step + 1) * self.order.batch_size, self.order.num_rows))
        self.ledger.counts["flops"] = sum(x.flops for x in self.learners.values()) + self._flops_of_readers()
        self.last = {**metrics, "epoch": self.order.epochs_done(step + 1), **self.ledger.metrics()}
        self.log.metrics(step + 1, {**self._once, **self.last})
        self._once = {}

    def finish(self, before_saving: Callable[[], None] | None = None) -> StageResult:
        """Saves the model, the best one where a metric says so, after `before_saving`, and closes the run."""
        if self._eval_reference is not None:
            self.check_same(
                "eval_reference", self._fingerprints["eval_reference_start"], self._eval_reference.fingerprint()
            )
        held_out = self._choose()
        if before_saving is not None:
            before_saving()
        self._save_model()
        for name, learner in self.learners.items():
            self._fingerprints[f"{name}_end"] = learner.fingerprint()
        self.folder.record(fingerprints=self._fingerprints)
        metrics = {**self.last, **self.ledger.metrics(), **held_out}
        if self.runtime.is_main:
            write_card(self.folder.path, self.folder.manifest, metrics)
        result = StageResult(self.folder.path, self.folder.model_path, self.step, metrics)
        self.folder.finish(result.as_dict())
        return result

    def _choose(self) -> dict[str, float]:
        """Puts the learners where the best checkpoint left them; the held-out figures of these weights."""
        best = self.validation.state.get("best")
        if best is None:
            return self.validation.state.get("measured", {})
        if best["step"] != self.step:
            verified(self.folder.path, best["step"]).load_into({**self.learners, **self.moving})
        told = {name: best[name] for name in ("step", "metric", "value")}
        self.folder.record(best=told)
        which = f"after step {best['step']}" if best["step"] else "that the run began with: training made none better"
        self.log.note("the result is the model {which}, best by {metric}: {value:.6g}".format(**told, which=which))
        return best["measured"]

    def _save_model(self) -> None:
        """The model's folder, by the main process; sharded weights are gathered first, by all."""
        modules = [_module(learner) for learner in self.members]
        whole = gathered(modules[0].hf) if self.runtime.is_sharded else None
        if self.runtime.is_main:
            save_trained(self.folder.model_path, modules, self.data.tokenizer, state_dict=whole)
        self.runtime.barrier()

    def _note_start(self, name: str, fingerprint: str) -> None:
        self._fingerprints[f"{name}_start"] = fingerprint
        self.folder.record_start(name, fingerprint)


SHOWN = ("loss", "accuracy", "rewards/accuracies", "rewards/margins", "objective/scores", "objective/kl")
"""Metrics beside the progress bar, where the stage has them."""


@contextmanager
def open_session(
    config: Any,
    data: StageData,
    *,
    command: str,
    kind: Kind,
    inputs: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """Checks what can be checked, opens the run folder, loads the model. Bad input fails before anything is written.

    `inputs`: SHA-256 of what the run depends on beside data, tokenizer and model, by name.
    """
    check_context(load_config(config.model, revision=config.revision), config.max_length)
    eval_prompts = choose_prompts(config, data)
    runtime = Runtime(config.device, mixed_precision=config.mixed_precision, seed=config.seed)
    hashes = {f"{name} data": part.sha256 for name, part in data.parts.items()}
    model = content_hash(config.model, revision=config.revision)
    hashes |= {"model": model, "tokenizer": tokenizer_hash(data.tokenizer), **(inputs or {})}
    how = {"command": command, "resume": config.resume, "hashes": hashes, "is_main": runtime.is_main}
    folder = RunFolder.open(config.output_dir, config.model_dump(), **how)
    log = RunLog(folder, progress=progress)
    with folder, Trackers(config.report_to, folder=folder.path, project=config.project, note=log.note) as trackers:
        session = Session(config, data, folder, log, runtime, eval_prompts)
        if folder.is_finished and folder.result is not None:
            log.note(f"{folder.path}: this run is finished; nothing to do")
            stored = folder.result
            session.result = StageResult(folder.path, folder.model_path, stored["steps"], stored["metrics"])
        else:
            trackers.start(config.model_dump(), runtime)
            log.copies = trackers
            for line in [*data.lines(), *eval_prompts.lines]:
                log.note(line)
            session.add_learner("model", config.model, kind=kind)
            folder.record(planned_steps=session.order.num_steps)
        yield session


def _module(learner: Learner) -> AlignmentModel:
    assert isinstance(learner.module, AlignmentModel)
    return learner.module
