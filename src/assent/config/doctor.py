"""Configuration of `doctor`. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from assent.config.data import DataOptions
from assent.config.options import DeviceOptions, Options, Positive


class LogDoctorConfig(Options):
    """Reads logs of runs, of Assent or of other trainers, and files of data; says what is wrong and what to change.

    Exit status 1 if something is wrong (--fail-on).
    """

    targets: tuple[str, ...] = ()
    """What to look at: run folders, finished or running; or logs of other trainers (trainer_state.json, lines of
    dictionaries, trainer_log.jsonl, a model card, exported CSV or JSONL); or files of data (prompts and answers)."""
    stage: str | None = None
    """Command that trains like the run (sft, reward, dpo, kto, ppo, grpo …). Default: what the log says, or what its
    metrics show. Only for other trainers' logs."""
    settings: str | None = None
    """YAML or JSON file with the options of another trainer's run (beta, loss_type, learning_rate …). Only for other
    trainers' logs."""
    fail_on: Literal["fatal", "fault", "warning", "info", "never"] = "fault"
    """Least severity of a finding that gives exit status 1."""
    accepted: str | None = None
    """YAML or JSON file of findings that are known and accepted: the rule's name and the reason. They are shown, and
    do not count for the exit status."""
    rules: tuple[str, ...] = ()
    """More rules, as module:NAME. Give the flag once for each (docs/add-a-rule.md)."""
    against: str | None = None
    """A run that worked: say in which options and metrics the run differs from it. For data: another file, to find
    prompts that both have."""
    bundle: str | None = None
    """Write a zip for whoever is asked for help: options, versions, metrics and findings, no prompt and no answer."""
    watch: bool = False
    """Look again and again while the run trains, and print what is new. Ends with the run (of another trainer's: ten
    minutes after its log's last line), or with Ctrl-C."""
    refresh_seconds: Positive = 30
    """Least seconds between two looks with --watch. A look that takes a hundredth of it makes the pause longer."""
    list_rules: bool = False
    """List the rules: what each looks for, and in which metrics. Nothing is read."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.list_rules:
            if idle := sorted(self.model_fields_set - {"list_rules", "rules"}):
                raise ValueError(f"{', '.join(idle)} has no effect with list_rules: leave it out")
            return self
        if not self.targets:
            raise ValueError("nothing to look at: give a run folder or a log, or list_rules")
        several = [name for name in ("against", "apply", "bundle", "watch") if getattr(self, name, None)]
        if len(self.targets) > 1 and several:
            raise ValueError(f"{', '.join(several)} is about one run: give one target")
        if self.watch and (idle := [name for name in ("against", "apply", "bundle") if getattr(self, name, None)]):
            raise ValueError(f"{', '.join(idle)} needs a look that ends: leave it or watch out")
        if not self.watch and "refresh_seconds" in self.model_fields_set:
            raise ValueError("refresh_seconds has no effect without watch: give both, or leave it out")
        return self


class DoctorConfig(LogDoctorConfig, DataOptions, DeviceOptions):
    """Reads a run's log, of ours or of another trainer, or a file of data; says what is wrong and what to change.

    Neither torch nor a model is loaded without --probe. Exit status 1 if something is wrong (--fail-on).
    """

    targets: tuple[str, ...] = ()
    """What to look at: run folders, finished or running; or logs of other trainers (trainer_state.json, lines of
    dictionaries, trainer_log.jsonl, a model card, exported CSV or JSONL); or data (prompts and answers), as a file or
    as a saved dataset; with --probe, folders of policies and of reward models."""
    apply: str | None = None
    """Write the run's configuration, with the changes that the findings name, as YAML for --config. Of data: write the
    rows that the findings leave standing, as JSONL. A file that exists is an error."""
    probe: bool = False
    """Load models and measure. Of a policy's folder: which stage of training it lacks. Of a reward model's: what its
    scores depend on besides quality. Of a file of data: how likely its answers are to the policy that --model names."""
    data: str | None = None
    """File of held-out comparisons, for a reward model: how well it ranks them, and what else its scores follow. Only
    with --probe. Default: ten built-in pairs in English, which say nothing of how it ranks."""
    prompts: str | None = None
    """File with prompts of yours, for a policy. With comparisons it also says whether the policy answers as they
    prefer. Only with --probe."""
    model: str | None = None
    """Policy that is to be trained on the data: a folder or a hub name. Only with --probe."""
    max_new_tokens: Positive = 48
    """Longest answer that a policy is asked for. Only with --probe."""
    max_length: Positive = 1024
    """Most tokens of a prompt and its answer. Only with --probe."""

    @model_validator(mode="after")
    def _models_only_with_probe(self) -> Self:
        probing = ("prompts", "data", "model", "max_new_tokens", "max_length", "device", "dtype", "split")
        if not self.probe and (idle := sorted(self.model_fields_set & set(probing))):
            raise ValueError(f"{', '.join(idle)} has no effect without probe: give both, or leave it out")
        if self.data is None and "split" in self.model_fields_set:
            raise ValueError("split has no effect without data: give both, or leave it out")
        if self.probe and self.watch:
            raise ValueError("watch reads a log, probe loads models: give one of them")
        return self
