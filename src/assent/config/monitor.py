"""Configuration of `monitor`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import Columns
from assent.config.options import DeviceOptions, Positive


class MonitorConfig(DeviceOptions):
    """Reads the logs of a deployed model, says what moved since the release, and which cause that speaks for.

    Exit status 1 if an alert is new. docs/monitor.md says what each cause needs in the logs.
    """

    baseline: str
    """What the model did at the release: a file or folder of logs, or a run's folder with its samples."""
    logs: str
    """Logs to look at: a file, or a folder whose files grow and are rotated. Our JSONL (prompt, completion, time,
    rating …), OpenAI-style requests, exports of Langfuse or Phoenix, vLLM's own log. JSONL, JSON, CSV,
    Parquet or text."""
    state: str | None = None
    """File that remembers between calls which rows were counted, how much of --alpha was spent, and which alerts are
    open. Without it every call begins anew: right for one look at old logs, wrong for a look every day."""
    columns: Columns = Field(default_factory=dict)
    """Fields of the logs that have other names, as THEIRS=OURS with commas between, dots leading into nested ones:
    request.text=prompt,answer.text=completion."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Allowed probability of any false alarm, over all days and causes together, however long the monitor runs."""
    season: Literal["auto", "week", "none"] = "auto"
    """Compare each weekday with its like in the baseline. auto: if the baseline has each weekday at least twice."""
    baseline_rows: Annotated[int, Field(ge=300)] = 50_000
    """Most rows of the baseline to use. Of a longer one, those with the smallest hash are taken."""
    reward_model: str | None = None
    """Reward model of the release: a folder, a rule or module:function. It scores the rated rows that have no score, of
    the baseline too, so that it can be seen to age. Not needed where the logs have its scores."""
    policy: str | None = None
    """Folder of the released policy: compare the log-probabilities that the server logged with those computed here."""
    policy_rows: Positive = 64
    """Most rows of a call that --policy reads."""
    max_length: Positive = 2048
    """Most tokens of a prompt and its answer. Only with --reward-model or --policy."""
    output: str | None = None
    """HTML page to write."""
    openmetrics: str | None = None
    """File to write figures to, as OpenMetrics text: for the textfile collector of Prometheus' node exporter."""
    show_text: bool = False
    """Name the words that moved. Without it neither the output nor the page has any word of a prompt or an answer."""
    fail_on: Literal["new", "open"] = "new"
    """new: exit status 1 only when an alert is raised, not again before it has cleared. open: as long as one is
    open."""
    watch: bool = False
    """Look again and again until Ctrl-C, and print each new alert on stderr. Needs --state."""
    refresh_seconds: Positive = 3600
    """Seconds between two looks with --watch."""

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.watch and self.state is None:
            raise ValueError("watch looks many times, and needs state to remember: give a file for it")
        loading = {"max_length", "device", "dtype"} & self.model_fields_set
        if loading and self.reward_model is None and self.policy is None:
            raise ValueError(f"{', '.join(sorted(loading))} has no effect without reward_model or policy: leave it out")
        if self.policy is None and "policy_rows" in self.model_fields_set:
            raise ValueError("policy_rows has no effect without policy: give both, or leave it out")
        if not self.watch and "refresh_seconds" in self.model_fields_set:
            raise ValueError("refresh_seconds has no effect without watch: give both, or leave it out")
        return self
