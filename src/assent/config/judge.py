"""Configuration of `judge`, which has completions compared. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.options import NonNegative, Positive

CHAT_OPTIONS = frozenset(
    {"api_key_env", "rubric", "reply", "concurrency", "timeout_seconds", "max_requests", "max_cost", "input_price"}
    | {"output_price", "dry_run"}
)
"""Options of a model behind an address."""


class JudgeConfig(DataOptions):
    """Has a judge compare the completions of each prompt, every two of them in both orders. What it writes trains
    directly: judged.jsonl has each prompt's completions, best first, with their ranking.

    The judge is a model behind an address (--endpoint and --model) or a Python function (--function). An answer is the
    better one if both orders say so; otherwise the two tie.
    """

    output_dir: str
    """Folder to write judged.jsonl and judge.json to. A run that was interrupted, or whose budget was spent, continues
    there and asks nothing twice."""
    data: str
    """Prompts with two completions or more in a row, or rows of one completion that share their prompt, as sample
    writes them: a file, a folder or a hub name. What they say about the completions is not shown to the judge."""
    num_prompts: NonNegative = 0
    """Judge only this many prompts, from the start of the data. 0: all."""
    endpoint: str | None = None
    """Address of a server with OpenAI's chat completions API: vLLM, transformers serve, llama.cpp, or a hosted one."""
    model: str | None = None
    """Name of the model at --endpoint."""
    function: str | None = None
    """Python function (module:function) of (prompts, first, second) that returns A, B or tie for each. Give it instead
    of --endpoint."""
    api_key_env: str | None = None
    """Environment variable that holds the key for --endpoint. Default: no key is sent."""
    rubric: str | None = None
    """File with what to decide, in words: a text, or YAML with criterion and principles. Default: which answer serves
    the person who asked better."""
    reply: Literal["letter", "json"] = "letter"
    """What the model replies. letter: A or B. json: its reason and then A or B, as structured output."""
    probabilities: bool = False
    """Take the probability of A from the reply's log-probabilities, instead of the letter. Two completions then have
    the column chosen_probability, and never tie. An endpoint that gives no log-probabilities is an error."""
    concurrency: Positive = 8
    """Requests under way at a time."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A request that takes longer is repeated, up to four times."""
    max_requests: Positive | None = None
    """Stop before more requests than this, repeated ones included. Prompts judged by then are written; with a larger
    number the same command continues. Default: no limit."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Stop before the requests cost more than this, in the money of the two prices."""
    input_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens that the model reads."""
    output_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens that the model writes."""
    dry_run: bool = False
    """Count requests, tokens and money, ask nothing and write nothing."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        judges = [name for name in ("endpoint", "function") if getattr(self, name) is not None]
        if len(judges) != 1:
            raise ValueError(f"one judge: give endpoint or function, not {' and '.join(judges) or 'neither'}")
        if self.endpoint is not None and self.model is None:
            raise ValueError("endpoint needs model: the model's name there")
        return self

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        idle = set() if self.endpoint is not None else self.model_fields_set & {*CHAT_OPTIONS, "model", "probabilities"}
        if idle:
            raise ValueError(f"{', '.join(sorted(idle))} has no effect without endpoint: leave it out")
        if self.probabilities and self.reply == "json":
            raise ValueError("probabilities needs the letter as the reply's first token: leave out reply json")
        if self.max_cost is not None and self.input_price == self.output_price == 0:
            raise ValueError("max_cost has no effect without prices: give input_price and output_price")
        return self
