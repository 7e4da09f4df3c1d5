"""The session holds what every stage needs around its loop: run folder, log, order of the data, checkpoints, ledger.

Each stage would otherwise repeat this word for word. `RunModels` holds the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assent.config.options import StageOptions
from assent.diagnosis.case import make_case
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Finding
from assent.diagnosis.opening import case_of_run
from assent.diagnosis.watch import Watch
from assent.engine.checkpoint import Checkpoint, sweep, verified, write_checkpoint
from assent.engine.forking import Fork
from assent.engine.interrupts import Interruption, interruptible
from assent.engine.ledger import Ledger
from assent.engine.random import Batches
from assent.engine.references import Reader
from assent.engine.runtime import Runtime
from assent.engine.sharding import choose_sharding
from assent.engine.threads import kept_threads
from assent.engine.trackers import Trackers
from assent.errors import RunFolderError, StopRun, StorageError
from assent.models.batch import TokenGroup
from assent.models.folders import content_hash
from assent.models.loading import check_context, load_config
from assent.models.router import check_has_router
from assent.models.tiers import Kind
from assent.rewards.base import Reward
from assent.rewards.reward_model import tokenizer_hash
from assent.rollouts.sampler import Sampler
from assent.runs.files import read_lines
from assent.runs.folder import METRICS, RunFolder
from assent.runs.log import Progress, RunLog
from assent.runs.model_card import write_card
from assent.stages.held_out_samples import HeldOutPrompts, answers, choose_prompts
from assent.stages.planned import planned
from assent.stages.result import StageResult
from assent.stages.resuming import recorded, to_resume_from, what_is_kept
from assent.stages.run_models import RunModels
from assent.stages.stage_data import StageData
from assent.stages.validation import Validation
from assent.types import PromptGroup

SHOWN = ("objective/scores", "objective/kl", "loss", "accuracy", "rewards/accuracies", "rewards/margins")
"""Metrics shown beside the progress bar, if the stage has them; the first ones, where the terminal is narrow."""


class Session:
    """One run of one stage. `result` is set if the folder already holds the finished run; then no model is loaded."""

    def __init__(
        self,
        config: StageOptions,
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
        self.order = order_of(config, data)
        self.ledger = Ledger(runtime.device, models_resident=0)
        self.models = RunModels(config, data, folder, log, runtime, ledger=self.ledger)
        self.state: dict[str, Any] = {}  # the stage's own JSON values that checkpoints keep
        self.step = 0
        self.kept_step: int | None = None  # of the newest checkpoint
        self.last: dict[str, float] = {}
        self.result: StageResult | None = None
        command = folder.manifest["command"]
        about = make_case({}, config=config.model_dump(), stage=command, planned_steps=self.order.num_steps)
        self.watch = Watch(report=self._report, stop_on=config.stop_on if config.stop else None, about=about)
        self._eval_reference: Reader | None = None

    def prompts(self, step: int) -> list[PromptGroup]:
        return [self.train_groups[i] for i in self.order.indices(step)]

    def batch(self, step: int) -> list[TokenGroup]:
        return [self.train_tokens[i] for i in self.order.indices(step)]

    def rows_used(self) -> Sequence[int] | np.ndarray:
        """Rows that some step reads, in the order of the data: not all, where max_steps ends the first pass early."""
        if self.order.num_steps >= self.order.per_epoch:
            return range(self.order.num_rows)
        return np.unique(np.concatenate([self.order.indices(step) for step in range(self.order.num_steps)]))

    def validate_with(self, measure: Callable[[], dict[str, float]], *, reference: str | None = None) -> None:
        """Calls `measure` for the held-out figures at the configured steps. Does nothing without held-out data.

        With --eval-prompts the policy also answers prompts, and its KL to `reference` on them is measured. `reference`
        is a policy's path (None: the policy's start) and stays in memory. Call this before `resume`.
        """
        if not self.eval_tokens:
            return
        self.validation.measure = measure
        if self.eval_prompts.ids:
            frozen, sampler = self.models.add_reference(reference, name="eval_reference"), self.models.add_sampler()
            self._eval_reference = frozen
            self.validation.measure = lambda: {**measure(), **self.answer(sampler, frozen)}

    def answer(self, sampler: Sampler, reference: Reader | None, reward: Reward | None = None) -> dict[str, float]:
        """The policy answers the held-out prompts. Logs the answers; returns their figures."""
        learner = self.models.learner
        figures, rows = answers(
            self.config, self.eval_prompts, sampler=sampler, learner=learner, reference=reference, reward=reward
        )
        self.log.samples(self.step, rows)
        self.ledger.add(completions_sampled=len(rows), reward_calls=0 if reward is None else len(rows))
        return figures

    def resume(self) -> None:
        """Restores learners, ledger and state from the newest verified checkpoint, if there is one."""
        checkpoint = self._checkpoint()
        if self.runtime.is_main:
            sweep(self.folder.path)
        for line in self.folder.rewind(None if checkpoint is None else checkpoint.step):
            self.log.note(line)
        if checkpoint is None:
            return
        checkpoint.load_into(self.models.in_checkpoints)
        self.ledger.restore(checkpoint.state["ledger"])
        self.state, self.last = checkpoint.state["stage"], checkpoint.state["last"]
        self.validation.state = checkpoint.state["validation"]
        self.models.restore_flops(checkpoint.state["flops_of_readers"])
        if self.runtime.is_main:  # the others watch nothing, and might read before the log is rewound
            self.watch.replay(read_lines(self.folder.path / METRICS))
        self.step = self.kept_step = checkpoint.step
        self.log.note(f"resumed after step {checkpoint.step}")

    def _checkpoint(self) -> Checkpoint | None:
        """What the main process finds and verifies, on every process."""
        found = to_resume_from(self.folder, note=self.log.note) if self.runtime.is_main else None
        self.runtime.meet("verifying checkpoints")
        kept = None if found is None else {"path": str(found.path), "step": found.step, "state": found.state}
        kept = self.runtime.from_main(kept)
        return None if kept is None else found or Checkpoint(Path(kept["path"]), kept["step"], kept["state"])

    def steps(self) -> Iterator[int]:
        """Yields the steps that are left. Between steps it measures, writes checkpoints and ends the run if it must."""
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
                if due and not is_over:
                    self.checkpoint()
                self._end_early(interrupted, has_checkpoint=bool(due and not is_over), is_over=is_over)

    def _end_early(self, interrupted: Interruption, *, has_checkpoint: bool, is_over: bool) -> None:
        """Ends the run after this step if any process received a signal, or if a finding stops the run.

        A run whose steps are over has nothing left to stop.
        """
        flags = torch.tensor([float(bool(interrupted)), float(self.log.stop is not None and not is_over)])
        is_interrupted, has_finding = self.runtime.max(flags).tolist()
        if (is_interrupted or has_finding) and not has_checkpoint:
            self.checkpoint()
        if is_interrupted:
            self.log.note(f"interrupted after step {self.step}; the same command resumes the run")
            raise KeyboardInterrupt
        if has_finding:
            finding = self.runtime.from_main(None if self.log.stop is None else self.log.stop.finding)
            held_out = self._choose()
            self.models.save()
            if self.runtime.is_main:
                write_card(self.folder.path, self.folder.manifest, {**self.last, **held_out})
            self.folder.stop(finding, step=self.step)
            raise StopRun(finding, step=self.step, folder=str(self.folder.path))

    @contextmanager
    def kept_on_failure(self, what: str) -> Iterator[None]:
        """If the block fails, a checkpoint keeps the earlier rounds: nothing has changed since the last update."""
        try:
            yield
        except Exception:  # any error: all processes fail together, so all can write the checkpoint
            if self.step:
                try:
                    self.checkpoint()
                    self.log.note(
                        f"{what} failed; the run is kept up to step {self.step}, and the same command resumes it"
                    )
                except StorageError as error:  # it must not hide what failed first
                    self.log.note(f"{what} failed, and no checkpoint could be written: {error.what}")
            raise

    def _examine(self) -> None:
        """Asks every rule about the whole run: findings.json holds the answers, and people read the graver ones."""
        report = examine(case_of_run(self.folder.path))
        known = self.folder.findings()
        self.folder.write_findings(report.as_dict())
        for finding in report.findings:
            if finding.severity != "info" and finding.rule not in known:
                self.log.note(f"finding: {finding.verdict}; next step: {finding.next_action}")

    def _report(self, finding: Finding) -> None:
        self.folder.add_finding(finding.as_dict())
        self.log.note(f"finding: {finding.verdict}; next step: {finding.next_action}")

    def checkpoint(self) -> None:
        if self.step == self.kept_step:  # replaced by itself, it would be gone for a moment
            return
        write_checkpoint(
            self.folder.path,
            self.step,
            learners=self.models.in_checkpoints,
            state={
                "stage": self.state,
                "validation": self.validation.state,
                "last": self.last,
                "ledger": self.ledger.state(),
                "flops_of_readers": self.models.flops_of_readers,
                "run": self.folder.manifest,  # from which --recover rebuilds run.json
            },
            save_total_limit=self.config.save_total_limit,
            best=self.validation.best_step,
        )
        self.kept_step = self.step

    def log_step(self, step: int, metrics: Mapping[str, float], **counts: int) -> None:
        """Adds `counts` (completions_sampled, reward_calls) to the ledger. Logs the step's metrics and the ledger."""
        self.ledger.add(**counts)
        if self.data.train.labelled:  # a label costs once, however often it is read
            self.ledger.counts["labels"] = float(min((step + 1) * self.order.batch_size, self.order.num_rows))
        self.ledger.counts["flops"] = self.models.flops
        self.last = {**metrics, "epoch": self.order.epochs_done(step + 1), **self.ledger.metrics()}
        self.log.metrics(step + 1, {**self.models.reference_time(), **self.last})

    def finish(self, before_saving: Callable[[], None] | None = None) -> StageResult:
        """Calls `before_saving`, saves the model (the best one if a metric chooses it) and closes the run."""
        if self._eval_reference is not None:
            self.models.check_unchanged(self._eval_reference, name="eval_reference")
        held_out = self._choose()
        if before_saving is not None:
            before_saving()
        self.models.save()
        metrics = {**self.last, **self.ledger.metrics(), **held_out}
        if self.runtime.is_main:
            write_card(self.folder.path, self.folder.manifest, metrics)
            self._examine()
        result = StageResult(self.folder.path, self.folder.model_path, self.step, metrics)
        self.folder.finish(result.as_dict())
        return result

    def let_go(self) -> None:
        """Holds no model any longer. Session and watch hold each other, so the models would else stay in memory until
        Python looks for cycles, which may be several stages later."""
        self.validation.measure = self._eval_reference = None
        self.models.let_go()

    def _choose(self) -> dict[str, float]:
        """Loads the best checkpoint into the learners, if a metric chooses one. Returns its held-out figures."""
        best = self.validation.state.get("best")
        if best is None:
            return self.validation.state.get("measured", {})
        if best["step"] != self.step:
            verified(self.folder.path, best["step"]).load_into(self.models.in_checkpoints)
        self.folder.record(best={name: best[name] for name in ("step", "metric", "value")})
        which = f"after step {best['step']}" if best["step"] else "that the run began with: training made none better"
        self.log.note(f"the result is the model {which}; it has the best {best['metric']}: {best['value']:.6g}")
        return best["measured"]


def order_of(config: StageOptions, data: StageData) -> Batches:
    """The rows of each step."""
    return Batches(
        num_rows=len(data.train.tokens),
        batch_size=config.batch_size,
        epochs=config.num_train_epochs,
        max_steps=config.max_steps or config.total_steps,
        seed=config.seed,
        shuffle=config.shuffle,
    )


@contextmanager
def open_session(
    config: StageOptions,
    data: StageData,
    *,
    command: str,
    kind: Kind,
    inputs: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """Checks the input, opens the run folder and loads the model. Bad input fails before anything is written.

    `inputs`: SHA-256, by name, of what the run depends on besides data, tokenizer and model.
    """
    runtime = Runtime.of(config)
    with runtime.as_one(), _opened(config, data, runtime, command, kind, inputs or {}, progress) as session:
        try:
            yield session
        finally:
            session.let_go()


@contextmanager
def _opened(
    config: StageOptions,
    data: StageData,
    runtime: Runtime,
    command: str,
    kind: Kind,
    inputs: Mapping[str, str],
    progress: Progress | None,
) -> Iterator[Session]:
    check_context(start := load_config(config.model, revision=config.revision), config.max_length)
    if config.router_aux_loss_coef:
        check_has_router(start, config.model)
    eval_prompts = choose_prompts(config, data)
    hashes = {f"{name} data": part.sha256 for name, part in data.parts.items()}
    model = content_hash(config.model, revision=config.revision)
    hashes |= {"model": model, "tokenizer": tokenizer_hash(data.tokenizer), **inputs}
    fork = None if config.fork is None else Fork.parse(config.fork)
    if fork is not None and not fork.is_made(Path(config.output_dir)):
        steps = order_of(config, data).num_steps
        fork.check(command=command, tokenizer=hashes["tokenizer"], num_steps=steps)
    folder = RunFolder.open(
        config.output_dir,
        config.model_dump(),
        command=command,
        resume=config.resume,
        hashes=hashes,
        is_main=runtime.is_main,
        find_record=recorded if config.recover else None,
    )
    runtime.progress = (log := RunLog(folder, progress=progress)).shown
    with (
        folder,
        ExitStack() as stack,
        Trackers(config.report_to, folder=folder.path, project=config.project, note=log.note) as trackers,
    ):
        session = Session(config, data, folder, log, runtime, eval_prompts)
        if config.recover:
            for line in folder.recovered or ["--recover: run.json is whole, nothing was rebuilt"]:
                log.note(line)
        damage = folder.damage() if folder.is_finished else None
        if damage is not None and to_resume_from(folder) is None:
            raise RunFolderError(
                f"the finished run's model in {folder.path} is damaged, and no checkpoint is left to write it from",
                got=damage,
                fix="put the model back from a copy, or delete the folder: the same command then trains it again",
            )
        if folder.is_finished and folder.result is not None and damage is None:
            log.note(f"{folder.path}: this run is finished; nothing to do")
            result = folder.result
            session.result = StageResult(folder.path, folder.model_path, result["steps"], result["metrics"])
        elif config.stop and folder.stopped is not None:
            raise StopRun(folder.stopped["finding"], step=folder.stopped["step"], folder=str(folder.path))
        else:
            if damage is not None:
                log.note(f"model/ is damaged ({damage}): it is written again, from the last checkpoint")
            stack.enter_context(kept_threads(folder, log, runtime.device))
            folder.go_on()
            if fork is not None:
                if runtime.is_main and not fork.is_made(folder.path):
                    log.note(fork.into(folder))
                runtime.meet("copying the checkpoint of --fork")  # however long it takes
            trackers.start(config.model_dump(), runtime)
            log.observers += [trackers.log, session.watch]
            for line in [*data.lines(), *eval_prompts.lines]:
                log.note(line)
            if (chosen := choose_sharding(config, runtime, start)) is not None:
                log.note(chosen)
            steps = session.order.num_steps
            plan = planned(config, command, order=session.order, rows=session.train_tokens, runtime=runtime,
                           note=log.note, held_out=session.eval_tokens, asked=eval_prompts.ids)  # fmt: skip
            session.ledger.planned = plan
            folder.record(plan=None if plan is None else asdict(plan))
            session.models.add_learner("model", config.model, kind=kind, updates=config.num_updates(steps))
            folder.record(planned_steps=steps)
        try:
            yield session
        except KeyboardInterrupt:
            raise KeyboardInterrupt(what_is_kept(folder)) from None
