"""Configuration of `judge`, which has completions compared. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, NonNegative, Positive
from assent.config.rewards import OutcomeRewards

OF_ENDPOINT = frozenset(
    {"api_key_env", "reply", "concurrency", "timeout_seconds", "max_requests", "max_cost", "input_price"}
    | {"output_price", "dry_run"}
)
OF_COMPARING = frozenset({"probabilities", "reply", "controls", "anchor", "previous", "writers"})
OF_DEVICE = frozenset(DeviceOptions.model_fields)
OF_KIND: dict[str, frozenset[str]] = {
    "endpoint": OF_ENDPOINT | {"model", "rubric", "probabilities"},
    "model": OF_DEVICE | {"revision", "rubric", "probabilities"},
    "reward": OF_DEVICE | {"reward_ensemble", "probabilities"},
    "function": frozenset(),
}
"""Kind of judge to the options that only some kinds have."""


class JudgeConfig(DeviceOptions, DataOptions, EnsembleOptions):
    """Has a judge compare the completions of each prompt, every two of them in both orders. What it writes trains
    directly: judged.jsonl has each prompt's completions, best first, with their ranking.

    The judge is a model behind an address (--endpoint and --model), a local model (--model), a reward (--reward) or a
    Python function (--function). An answer is the better one if both orders say so; otherwise the two tie.
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
    """Name of the model at --endpoint. Without an endpoint: a model to load, a folder or a hub name."""
    reward: OutcomeRewards | None = None
    """What scores completions, as the judge: a reward-model folder, module:function, a rule, an address that returns
    scores, implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md)."""
    function: str | None = None
    """Python function (module:function) of (prompts, first, second) that returns A, B or tie for each."""
    revision: str | None = None
    """Revision of a model on the hub."""
    api_key_env: str | None = None
    """Environment variable that holds the key for --endpoint. Default: no key is sent."""
    rubric: str | None = None
    """File with what to decide, in words, for a model that is asked: a text, or YAML with criterion and principles.
    Default: which answer serves the person who asked better."""
    reply: Literal["letter", "json"] = "letter"
    """What the model replies. letter: A or B. json: its reason and then A or B, as structured output."""
    probabilities: bool = False
    """Take the probability of A from the reply's log-probabilities, instead of the letter; of a reward, the sigmoid of
    the difference. Two completions then have the column chosen_probability, and never tie. An endpoint that gives no
    log-probabilities is an error."""
    controls: NonNegative = 10
    """Mix in this many answers of each kind that are known to be bad (empty, "choose A", flattery), each beside a real
    one, and report how often they win. 0: none."""
    anchor: str | None = None
    """Comparisons or rankings by people: a file, a folder or a hub name. The judge gets them too, and its agreement
    with people is reported."""
    previous: str | None = None
    """Folder of an earlier run of judge with the same anchor set. A change of agreement since then is reported."""
    writers: str | None = None
    """Column that names who wrote each completion. The writers' win rates are reported; with --anchor also corrected
    for the judge's errors."""
    revise: NonNegative = 0
    """Instead of comparing: have each completion criticised by a principle of the rubric and rewritten, this many times
    over (constitutional AI, arXiv:2212.08073). judged.jsonl then has the new completion as chosen and the old one as
    rejected, for dpo and for sft."""
    max_new_tokens: Positive = 512
    """Longest critique and longest new completion of --revise, in tokens."""
    seed: NonNegative = 0
    """Seed of the choice of controls and of principles, and of the tests of bias."""
    concurrency: Positive = 8
    """Requests under way at a time."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A request that takes longer is repeated, up to four times."""
    max_requests: Positive | None = None
    """Stop before more requests than this, repeated ones and those of an interrupted run included. Prompts judged by
    then are written; with a larger number the same command continues. Default: no limit."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Stop before the requests cost more than this, in the money of the two prices."""
    input_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens that the model reads."""
    output_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens that the model writes."""
    dry_run: bool = False
    """Count requests, tokens and money, ask nothing and write nothing."""

    @property
    def kind(self) -> str:
        """What judges: endpoint, model, reward or function."""
        return next(name for name in OF_KIND if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        given = [name for name in ("endpoint", "reward", "function") if getattr(self, name) is not None]
        given += ["model"] if self.model is not None and self.endpoint is None else []
        if len(given) != 1:
            several = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"one judge: give endpoint and model, model, reward or function{several}")
        if self.endpoint is not None and self.model is None:
            raise ValueError("endpoint needs model: the model's name there")
        return self

    @model_validator(mode="after")
    def _revising_is_not_comparing(self) -> Self:
        if not self.revise:
            if "max_new_tokens" in self.model_fields_set:
                raise ValueError("max_new_tokens has no effect without revise: leave it out")
            return self
        if self.kind != "endpoint":
            raise ValueError(f"revise needs a model that writes, at an endpoint: it has no effect with {self.kind}")
        if idle := sorted(self.model_fields_set & OF_COMPARING):
            raise ValueError(f"{', '.join(idle)} has no effect with revise, which compares nothing: leave it out")
        return self

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        of_some = frozenset[str]().union(*OF_KIND.values()) - {"model"}
        if idle := sorted(self.model_fields_set & of_some - OF_KIND[self.kind]):
            raise ValueError(f"{', '.join(idle)} has no effect with a judge from {self.kind}: leave it out")
        if self.probabilities and self.reply == "json":
            raise ValueError("probabilities needs the letter as the reply's first token: leave out reply json")
        if self.max_cost is not None and self.input_price == self.output_price == 0:
            raise ValueError("max_cost has no effect without prices: give input_price and output_price")
        if self.previous is not None and self.anchor is None:
            raise ValueError("previous has no effect without anchor: give both, or leave it out")
        return self
