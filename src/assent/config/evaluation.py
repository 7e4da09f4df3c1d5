"""Configuration of `eval`, which measures policies or a reward model. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.options import DeviceOptions, NonNegative, Positive, PromptOptions, SamplerOptions
from assent.config.rewards import OutcomeRewards
from assent.config.sharding import ShardingOptions
from assent.errors import ConfigError


class EvalConfig(DeviceOptions, DataOptions, PromptOptions, EnsembleOptions, SamplerOptions, ShardingOptions):
    """Compares policies on the same prompts: scores or comparisons, win rates, KL, lengths, safety, with intervals.

    Without a policy it measures --reward-model on the comparisons and rankings of --data: accuracy, calibration,
    length, slices.
    """

    output_dir: str | None = None
    """Folder to write table.txt and evaluation.json (for a reward model, reward_model.json) to. Default: no files are
    written."""
    policy: str | None = None
    """Policy to compare with --baseline: a model folder, a hub name, or a file of completions."""
    against: list[str] = Field(default_factory=list)
    """More policies to compare, besides --policy."""
    policies: dict[str, str] = Field(default_factory=dict)
    """Policies to compare, each under a name of its own (--policies.NAME PATH); --baseline is one of the names. Give
    them instead of --policy and --against."""
    data: str
    """Prompts, whose completions are ignored. Without a policy: comparisons or rankings. In both cases a file, a folder
    or a hub name."""
    judge: OutcomeRewards | None = None
    """What scores each answer: a reward-model folder, module:function, a rule, an address that returns scores,
    implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md). Default for the sandbox's prompts:
    its gold reward."""
    pair_judge: str | None = None
    """What compares two answers, in both orders: the address of a server with OpenAI's chat completions API (with
    --judge-model), or module:function of (prompts, first, second). Give it instead of --judge."""
    judge_model: str | None = None
    """Name of the model at the address of --pair-judge or --safety."""
    judge_api_key_env: str | None = None
    """Environment variable that holds the key for that address. Default: no key is sent."""
    judge_rubric: str | None = None
    """What the model at --pair-judge decides, in words. Default: which answer serves the person who asked better."""
    safety: str | None = None
    """What decides whether each answer is safe, apart from its quality: module:function, or the address of a judge
    (with --judge-model). Default for the sandbox's prompts: the sandbox's own."""
    baseline: str | None = None
    """Policy that win rates are against: a model folder, a hub name or a file of completions; with --policies, one of
    the names."""
    reference: str | None = None
    """Policy that the KL is measured to: one of those compared. Default: the baseline."""
    ledgers: dict[str, str] = Field(default_factory=dict)
    """Run folders whose costs appear in the policies' rows, by the policy's name (--ledgers.NAME FOLDER)."""
    reward_model: str | None = None
    """Reward-model folder. It is judged on held-out comparisons, and chooses the best of n (--best-of-n)."""
    best_of_n: NonNegative = 0
    """Also evaluate best-of-n of the baseline, chosen by --reward-model. 0: not evaluated."""
    reward_pairs: str | None = None
    """Held-out comparisons to judge --reward-model on."""
    slices: list[str] = Field(default_factory=list)
    """Columns to show figures by, of the prompts and of the comparisons that judge a reward model."""
    rank_by: str | None = None
    """Without a policy: column that names who wrote each completion. The table ranks them by the reward model and by
    the labels."""
    labels: str | None = None
    """labels.json of the sandbox's labelling step. The table shows its noise ceiling beside the reward model's
    accuracy."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Half-width that a win rate's interval should have. The table then shows how many prompts that takes."""
    lm_eval: list[str] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness that every policy is also asked: names (hellaswag), or YAML files of tasks. Needs
    the extra lm-eval."""
    lm_eval_limit: NonNegative = 0
    """Ask only the first questions of each task of --lm-eval, so many. 0: all."""
    num_prompts: NonNegative = 0
    """Use only this many prompts, from the start of the data. 0: all."""
    samples_per_prompt: Positive | None = None
    """Completions at temperature 1 for each prompt, besides the greedy one. Default: 4; for a file of completions, all
    it has."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    seed: NonNegative = 0
    """Seed of all sampling."""

    @model_validator(mode="before")
    @classmethod
    def _policy_and_against_are_policies(cls, given: Any) -> Any:
        """Turns the short form into `policies` by name, and the baseline's name."""
        if not isinstance(given, Mapping) or not (given.get("policy") or given.get("against")):
            return given
        if given.get("policies"):
            raise ValueError("policy and against are a short form of policies: give one form, not both")
        if not given.get("policy") or not given.get("baseline"):
            lacks = [name for name in ("policy", "baseline") if not given.get(name)]
            raise ConfigError(
                "a comparison needs policy and baseline: folders, hub names or files of completions",
                got=f"no {' and no '.join(lacks)}",
                fix=f"give {' and '.join(lacks)}; the usual baseline is the model that training began with",
            )
        against = given.get("against") or []
        paths = [
            str(p) for p in (given["baseline"], given["policy"], *([against] if isinstance(against, str) else against))
        ]
        if len({PurePath(path) for path in paths}) < len(paths):
            raise ValueError(f"policy, baseline and against name the same thing twice: {', '.join(paths)}")
        names = dict(zip(paths, short_names(paths), strict=True))
        rest = {name: value for name, value in given.items() if name not in ("policy", "against")}
        reference = given.get("reference")
        rest |= {"policies": {names[path]: path for path in paths}, "baseline": names[paths[0]]}
        return rest | ({"reference": names.get(str(reference), reference)} if reference is not None else {})

    @model_validator(mode="after")
    def _names_and_pairs_of_options(self) -> Self:
        if not self.policies:
            return self._check_without_policies()
        if self.baseline is None:
            raise ValueError("policies needs baseline: give the name of the policy that win rates are against")
        for option in ("baseline", "reference"):
            name = getattr(self, option)
            if name is not None and name not in self.policies:
                raise ValueError(f"{option} {name!r} is not among the policies ({', '.join(self.policies)})")
        for name in self.ledgers:
            if name not in self.policies and not (self.best_of_n and name == f"best-of-{self.best_of_n}"):
                raise ValueError(
                    f"ledgers names {name!r}, which is not among the policies ({', '.join(self.policies)})"
                )
        idle = [name for name in ("pair_judge", "precision") if getattr(self, name) is not None]
        if idle and len(self.policies) + bool(self.best_of_n) < 2:
            raise ValueError(f"{' and '.join(idle)} needs two policies to compare: give a second, or leave it out")
        if self.rank_by is not None:
            raise ValueError(
                "rank_by has no effect with policies: it ranks the authors of data's completions. Leave it out"
            )
        self._check_judges()
        if self.is_sharded and self.output_dir is None:
            raise ValueError("num_shards and engine need output_dir: shards are files in it")
        if self.lm_eval_limit and not self.lm_eval:
            raise ValueError("lm_eval_limit has no effect without lm_eval: give both, or leave it out")
        if self.reward_model is None and (self.best_of_n or self.reward_pairs or self.reward_ensemble):
            raise ValueError(
                "best_of_n, reward_pairs and reward_ensemble need reward_model: give it, or leave them out"
            )
        if self.reward_model is not None and not (self.best_of_n or self.reward_pairs):
            raise ValueError("reward_model has no effect without best_of_n or reward_pairs: give one, or leave it out")
        if self.reward_pairs is None and self.labels is not None:
            raise ValueError("labels has no effect without reward_pairs: give both, or leave it out")
        return self

    def _check_judges(self) -> None:
        if self.judge is not None and self.pair_judge is not None:
            raise ValueError("judge scores answers and pair_judge compares them: give one of them")
        addresses = [
            name for name in ("pair_judge", "safety") if (getattr(self, name) or "").startswith(("http://", "https://"))
        ]
        if addresses and self.judge_model is None:
            raise ValueError(f"{addresses[0]} is an address: give judge_model, the model's name there")
        idle = [
            name for name in ("judge_model", "judge_api_key_env", "judge_rubric") if getattr(self, name) is not None
        ]
        if idle and not addresses:
            raise ValueError(f"{', '.join(idle)} has no effect without an address as pair_judge or safety: give one")
        if self.judge_rubric is not None and "pair_judge" not in addresses:
            raise ValueError("judge_rubric has no effect without an address as pair_judge: give one, or leave it out")

    def _check_without_policies(self) -> Self:
        if self.reward_model is None:
            raise ValueError("nothing to evaluate: give policy and baseline, policies, or reward_model")
        used = {"output_dir", "data", "reward_model", "reward_ensemble", "slices", "seed", "policies", "rank_by"}
        used |= {*DeviceOptions.model_fields, *DataOptions.model_fields, *PromptOptions.model_fields}
        if idle := sorted(self.model_fields_set - used):
            raise ValueError(f"{', '.join(idle)} has no effect without policies: give some, or leave it out")
        return self


_SAY_NOTHING = ("model", "completions.jsonl", "candidates.jsonl")


def short_names(paths: Sequence[str]) -> list[str]:
    """A short name for each path: its last part with a meaning, and more parts where two names would be equal."""
    parts = []
    for path in paths:
        all_parts = [part for part in PurePath(path).parts if part not in ("/", ".", "..")] or [path]
        kept = all_parts[:-1] if all_parts[-1] in _SAY_NOTHING and len(all_parts) > 1 else all_parts
        parts.append([*kept[:-1], kept[-1].removesuffix(".gz").removesuffix(".jsonl")])
    names = [part[-1] for part in parts]
    for length in range(2, 1 + max(map(len, parts))):
        names = ["/".join(p[-length:]) if names.count(n) > 1 else n for p, n in zip(parts, names, strict=True)]
    return names if len(set(names)) == len(names) else list(paths)
