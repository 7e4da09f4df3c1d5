"""Configuration of the commands that train nothing."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.options import NonNegative, Options, Positive, PromptOptions, TextOptions
from assent.errors import ConfigError


class RunConfig(Options):
    """Runs a pipeline's stages in order. Finished stages are not repeated, an interrupted one resumes."""

    file: str
    """Pipeline file (YAML)."""
    output_dir: str | None = None
    """Folder of the results. Default: the folder that the pipeline file names."""
    seed: NonNegative | None = None
    """Seed of every stage that sets none itself. Default: the pipeline file's seed."""
    fast: bool = False
    """Use the stages' `fast:` options: a smoke test of the same steps."""
    jobs: Positive | Literal["auto"] = 1
    """Number of stages that may run at the same time, if they do not depend on each other. Each gets its share of the
    cores and needs memory for its own models. auto: as many as the cores and the pipeline allow."""
    set: tuple[str, ...] = ()
    """Replace an option of the pipeline file, STAGE.OPTION=VALUE, or one of its variables, NAME=VALUE. Give the flag
    once for each. Lists and mappings are written as in YAML: [1, 2]."""


class DemoConfig(Options):
    """The whole way on the built-in world: base model, SFT, reward model, PPO, DPO, best-of-16, evaluation, report."""

    output_dir: str | None = None
    """Folder of the results. Default: out/demo, or out/demo-fast with --fast."""
    seed: NonNegative = 0
    """Seed of the whole demo."""
    fast: bool = False
    """Run the same steps in under a minute: a smoke test whose numbers mean nothing."""


class ReportConfig(Options):
    """Writes one page about a run or a pipeline, finished or not, or a comparison of several.

    It also updates the README.md of each model on the page.
    """

    runs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of runs or pipelines. Several are compared."""
    output: str | None = None
    """File to write. Default: report.html in the run's folder; for several runs, comparison.html in the working
    folder."""
    live: bool = False
    """Write the page again and again while the run goes on. The page reloads itself. Ends with the run, or with
    Ctrl-C."""
    refresh_seconds: Positive = 10
    """Seconds between two writes with --live."""

    @model_validator(mode="after")
    def _live_has_effect(self) -> Self:
        if self.live and len(self.runs) > 1:
            raise ValueError("live follows one run: give one folder")
        if not self.live and "refresh_seconds" in self.model_fields_set:
            raise ValueError("refresh_seconds has no effect without live: give both, or leave it out")
        return self


class NewModelConfig(Options):
    """A small model with random weights (Llama), and a byte-level BPE tokenizer learned from text files."""

    output_dir: str
    """Folder to write. It must be new or empty."""
    text_files: Annotated[list[str], Field(min_length=1)]
    """Files to learn the tokenizer from: plain text, or JSONL, in which every string is used. They may be gzipped."""
    vocab_size: Positive = 8192
    """Entries in the vocabulary, control tokens included."""
    hidden_size: Positive = 256
    """Width of the model."""
    layers: Positive = 8
    """Number of transformer layers."""
    heads: Positive = 8
    """Attention heads per layer."""
    context: Positive = 2048
    """Longest sequence, in tokens."""
    chat_template: str = "chatml"
    """Chat template: chatml, or a file with a Jinja template."""
    seed: NonNegative = 0
    """Seed of the random weights."""


class MergeConfig(Options):
    """Writes an adapter (LoRA, DoRA) as an ordinary model folder: its base with the adapter added to the weights."""

    adapter: str
    """Adapter of a policy or of a reward model: a folder or a hub name. Its base must still be where it was."""
    output_dir: str
    """Folder to write. It must be new or empty."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type in which the merged weights are computed and written."""


class DataCheckConfig(DataOptions, TextOptions):
    """Shows what is in a file of prompts and completions, and what is wrong with it. Writes nothing without --apply."""

    file: str
    """File to check: a file, a folder or a hub name."""
    layout: str | None = None
    """Layout of the columns. Default: inferred from their names."""
    against: str | None = None
    """Another file, to find prompts that both have (the held-out split, for example)."""
    apply: str | None = None
    """Write the rows that the findings leave standing, as JSONL under our column names. A file that exists is an
    error."""
    model: str | None = None
    """Model whose tokenizer and template to check with. This shows token lengths, what --max-length would cut, and
    EOS."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        idle = sorted(self.model_fields_set & set(TextOptions.model_fields))
        if self.model is None and idle:
            raise ValueError(f"{', '.join(idle)} has no effect without model: give a model, or leave it out")
        return self


class DataShowConfig(DataOptions, TextOptions):
    """Shows rows as a model reads them: turns, tokens, which tokens the loss counts, EOS, and what is cut.

    It reads rows with the code that training uses. Nothing is written.
    """

    file: str
    """File to show rows of: a file, a folder or a hub name."""
    model: str
    """Model whose tokenizer and template read the rows: a folder or a hub name."""
    row: Positive | None = None
    """Row to show: the line of a JSONL or CSV file, otherwise the row's number, from 1. Default: the first three
    rows, long parts abridged."""
    stage: Literal["sft", "dpo", "reward", "kto", "ppo"] | None = None
    """Command that reads the rows. ppo stands for every command that samples completions. Default: the one that the
    file's columns are for."""
    train_on: Literal["all", "last", "each"] = "all"
    """Which assistant turns of a row to train on, as in sft: all, the last one, or each in a row of its own. Only with
    sft."""
    max_new_tokens: Positive = 64
    """Tokens kept free for the completion after a prompt. Only with ppo."""
    layout: str | None = None
    """Layout of the columns. Default: inferred from their names."""

    def check_effect(self, stage: str) -> None:
        """ConfigError for an option that has no effect in this stage."""
        idle = {"train_on": stage != "sft", "max_new_tokens": stage != "ppo"}
        idle |= dict.fromkeys(set(TextOptions.model_fields) - set(PromptOptions.model_fields), stage == "ppo")
        for name in sorted(self.model_fields_set):
            if idle.get(name):
                raise ConfigError(f"{name} has no effect with {stage}", fix="leave it out, or give another --stage")


class DataSplitConfig(DataOptions):
    """Splits a file into a training and a held-out part, by conversation (rows with the same first user turn)."""

    file: str
    """File to split: a file, a folder or a hub name."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the rows to hold out."""
    seed: NonNegative = 0
    """Seed that chooses which conversations are held out."""
    output_dir: str | None = None
    """Folder for NAME.train.jsonl and NAME.eval.jsonl, which must not exist yet. Default: the file's own folder."""
    layout: str | None = None
    """Layout of the columns. Default: inferred from their names."""


class ConvertConfig(Options):
    """Writes a configuration of TRL, LLaMA-Factory, axolotl or OpenRLHF in our names, as YAML for --config.

    It lists what changes its meaning and what has no counterpart. Nothing is run.
    """

    file: str
    """File to convert: YAML or JSON, or a shell script with the command line."""
    output: str | None = None
    """File to write, which must not exist yet. Default: the YAML is printed."""
    command: Literal["sft", "reward", "dpo", "kto", "ppo", "grpo", "rloo", "online-dpo"] | None = None
    """Command of ours that the configuration is for. Default: what the file says (stage, rl, the script's name)."""
    num_devices: Positive | None = None
    """Processes that theirs ran on, which multiply the batch. Default: what the file says, else 1."""
