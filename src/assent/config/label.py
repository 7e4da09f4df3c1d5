"""Configuration of `label`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from assent.config.data import DataOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions
from assent.errors import ConfigError

ACTIONS = ("export", "import_labels", "backup", "restore", "invite", "erase")
"""Each does one thing with the store and ends. Without one of them the app is served."""
OPTIONS_OF = {
    "export": ("layout", "aggregate", "format"),
    "import_labels": ("split", "columns", "format"),
    "backup": (),
    "restore": (),
    "invite": ("role", "public_url", "port"),
    "erase": (),
}
SAMPLING = ("num_completions", "max_new_tokens", "temperature", "top_p", "top_k", "samples_dir")


class LabelConfig(DeviceOptions, DataOptions, PromptOptions):
    """Collects preferences from people, in the browser, and exports them as data that training reads.

    It fills the store with items to judge, serves the labelling app on this computer, and opens it. Ctrl-C ends it;
    every answer is stored at once, and the same command goes on where it stopped.
    """

    store: str = "labels.db"
    """Where the labels are kept: a file (SQLite), or postgresql://user@host/name."""
    completions: str | None = None
    """Completions to judge: a file, a folder or a hub name. Rows of the same prompt are put together."""
    prompts: str | None = None
    """Prompts to sample completions for, with --model: a file, a folder or a hub name."""
    model: tuple[str, ...] = ()
    """Policy to sample from: a folder or a hub name. Give the flag again for each further one."""
    num_completions: Positive = 2
    """Completions sampled for each prompt from each model."""
    max_new_tokens: Positive = 256
    """Longest sampled completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens that has this probability."""
    top_k: NonNegative = 0
    """Sample from this many of the most likely tokens. 0: from all."""
    samples_dir: str | None = None
    """Folder for the sampled completions. Default: beside the store."""
    seed: NonNegative = 0
    """Seed of the sampling, of the pairs and of the order of the items."""
    task: Literal["compare", "rank", "rate", "thumbs"] = "compare"
    """What annotators do. compare: two answers side by side; rank: order all answers of a prompt; rate: give one
    answer 1 to 5; thumbs: good or not good."""
    pairs_per_prompt: NonNegative = 0
    """compare: how many pairs of a prompt's completions to judge. 0: all."""
    reviews: Positive | None = None
    """Number of annotators who judge each item. Default: what the store has, else 1."""
    gold: str | None = None
    """Questions with known answers, to measure annotators: a file with preferences, a folder or a hub name."""
    gold_every: NonNegative = 10
    """Every so manieth item is a gold question, as long as there are new ones. 0: none."""
    repeat_every: NonNegative = 0
    """Every so manieth item is one that the annotator has judged before. 0: none."""
    order: Literal["random", "disagreement", "margin"] = "random"
    """Which items come first. disagreement: those on which the heads of a reward ensemble disagree most; margin: those
    whose two answers score most alike. Both need --reward."""
    reward: str | None = None
    """What scores the answers for --order: a reward model's folder (with several heads for disagreement), or for margin
    also implicit:POLICY,REFERENCE."""
    guidelines: str | None = None
    """File of instructions in Markdown, shown beside each item. A changed file is a new version."""
    serve: bool = True
    """Serve the app. With --no-serve the store is filled and nothing else."""
    open: bool = True
    """Open the app in the browser."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than loopback need --public-url."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    """Port to listen on. 0: any free one."""
    public_url: str | None = None
    """Address under which browsers reach the app: https://host. A reverse proxy with a certificate answers there."""
    trusted_proxy: str | None = None
    """IP address of the reverse proxy, whose X-Forwarded-For is believed. Needs --public-url."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Half-width to which the dashboard wants agreement known, for its count of labels that are still needed."""
    annotator: str | None = None
    """Your name in the store. Default: your user name on this computer. Only on loopback."""
    export: str | None = None
    """Write the labels to this file, .jsonl, .jsonl.gz or .csv, and beside it which of them were taken."""
    layout: str | None = None
    """Columns to export. Default: comparisons where every row is one, else what fits."""
    aggregate: Literal["each", "majority"] = "each"
    """each: a row for each label, with its annotator; majority: a row for each item."""
    format: Literal["columns", "argilla", "label-studio"] = "columns"
    """Format to export or import: our columns, or the JSON of another tool."""
    import_labels: str | None = None
    """Add the labels of this file to the store: any layout of columns, or see --format."""
    backup: str | None = None
    """Write the whole store to this file (.jsonl.gz), also while the app runs."""
    restore: str | None = None
    """Fill a new store from a backup."""
    invite: str | None = None
    """Print a link with which the person of this name chooses a password, once and within seven days."""
    role: Literal["annotator", "admin"] = "annotator"
    """Role of the invited person. admin: also adjudicates and sees the dashboard."""
    erase: str | None = None
    """Remove the annotator of this name: name and password go, the labels stay under a number."""

    @field_validator("model", mode="before")
    @classmethod
    def _one_model(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _another_format_is_whole(self) -> Self:
        of_columns = {"layout", "aggregate", "split", "columns"}
        if self.format != "columns" and (idle := sorted(self.model_fields_set & of_columns)):
            raise ConfigError(f"{', '.join(idle)} has no effect with format {self.format}", fix="leave it out")
        return self

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = [name for name in ACTIONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError("label does one thing at a time", got=" and ".join(given), fix="leave all but one out")
        of_serving = set(LabelConfig.model_fields) - {"store", *ACTIONS}
        of_serving -= {"layout", "aggregate", "format", "role"}
        allowed = set(OPTIONS_OF[given[0]]) if given else of_serving
        idle = sorted(self.model_fields_set - allowed - {"store", *given})
        if idle:
            where = f"with {given[0]}" if given else "while labels are collected"
            raise ConfigError(f"{', '.join(idle)} has no effect {where}", fix="leave it out")
        return self

    @model_validator(mode="after")
    def _filling_is_whole(self) -> Self:
        if (self.prompts is None) != (not self.model):
            raise ConfigError("prompts and model need each other: prompts are what the model answers")
        if self.prompts is not None and self.completions is not None:
            raise ConfigError("completions are given or sampled", got="completions and prompts", fix="leave one out")
        if (self.order == "random") != (self.reward is None):
            raise ConfigError("order and reward need each other: a reward says which items come first")
        of_model = {*SAMPLING, *PromptOptions.model_fields}
        of_model |= set(DeviceOptions.model_fields) if self.reward is None else set()
        of_file = {"split", "columns", "task", "pairs_per_prompt", "seed"}
        idle = self.model_fields_set & of_model if self.prompts is None else set()
        if self.prompts is None and self.completions is None and self.import_labels is None:
            idle |= self.model_fields_set & of_file - ({"task"} if self.gold else set())
        if idle:
            raise ConfigError(
                f"{', '.join(sorted(idle))} has no effect on what is in the store already",
                fix="give completions, or prompts and model, or leave it out",
            )
        is_drawn = self.prompts is not None or self.pairs_per_prompt > 0 or self.order == "random"
        if "seed" in self.model_fields_set and not is_drawn:
            raise ConfigError(
                f"seed has no effect with order {self.order} on all pairs of given completions, where nothing is drawn",
                fix="leave it out, or give pairs_per_prompt",
            )
        if self.task != "compare" and "pairs_per_prompt" in self.model_fields_set:
            raise ConfigError(f"pairs_per_prompt has no effect with task {self.task}", fix="leave it out")
        return self

    @model_validator(mode="after")
    def _serving_is_safe(self) -> Self:
        of_app = {"open", "host", "port", "public_url", "trusted_proxy", "annotator"}
        of_app |= {"gold_every", "repeat_every", "precision"}
        if not self.serve and (idle := sorted(self.model_fields_set & of_app)):
            raise ConfigError(f"{', '.join(idle)} has no effect with no-serve", fix="leave it out")
        is_loopback = self.host in ("127.0.0.1", "localhost", "::1")
        if not is_loopback and self.public_url is None:
            raise ConfigError(
                "an app that others can reach needs its public address",
                got=f"host {self.host}",
                expected="public_url https://HOST, answered by a reverse proxy with a certificate",
                fix="leave host out to label on this computer alone",
            )
        if self.trusted_proxy is not None and self.public_url is None:
            raise ConfigError("trusted_proxy has no effect without public_url", fix="give both, or leave it out")
        if self.public_url is not None and self.annotator is not None:
            raise ConfigError("annotator has no effect with public_url, where everybody signs in", fix="leave it out")
        return self
