"""What the options of `eval` name: policies, files, judges and the reference. Checked before weights are loaded."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.commands.opening import open_policy, template_of
from assent.config.evaluation import EvalConfig
from assent.config.functions import import_function
from assent.config.options import PromptOptions
from assent.config.rewards import ImplicitSource, ModelSource, read_sources
from assent.engine.runtime import Runtime
from assent.errors import ConfigError, ModelError
from assent.evaluation.answers import Completions, in_common, is_file, read_completions
from assent.evaluation.policies import BestOfN, Policy
from assent.evaluation.safety import Measure, load_measure
from assent.judging.chat import ChatJudge, ChatModel, ChatSafety
from assent.judging.http import is_address
from assent.judging.verdicts import FunctionJudge, PairJudge
from assent.models.folders import check_revision
from assent.models.loading import check_adapter, check_is_policy, load_config, load_tokenizer
from assent.models.templates import Template
from assent.rewards.base import Reward
from assent.rewards.loading import check_reward, reward_hash
from assent.rewards.reward_model import same_ids
from assent.rollouts.kept import KeptDraws
from assent.rollouts.opening import check_sampler, open_sampler
from assent.rollouts.sampler import Sampler
from assent.runs.reading import read_run
from assent.types import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SANDBOX_JUDGE, SANDBOX_SAFETY = "assent.sandbox.gold:reward", "assent.sandbox.gold:safety"
_SANDBOX_COLUMNS = {"facts", "kind", "world"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The policies, and the prompts that they answer."""

    models: Mapping[str, str]
    """Name to path of each policy that is a model."""
    files: Mapping[str, Completions]
    """Name to content of each policy that is a file of completions."""
    groups: list[PromptGroup]
    """The prompts that all policies answer."""
    tokenizer: PreTrainedTokenizerBase | None
    """The models' tokenizer; None if all policies are files."""
    template: Template | None
    reference: str | None
    """Name of the policy that KL is measured to; None: KL is not measured."""
    lines: tuple[str, ...] = ()


def cast_of(config: EvalConfig, groups: Sequence[PromptGroup]) -> Cast:
    """Reads files and tokenizers. Raises DataError for files without completions or without prompts in common,
    ConfigError for options without effect, and ModelError for models with different tokenizers."""
    assert config.baseline is not None
    files = {name: read_completions(path) for name, path in config.policies.items() if is_file(path)}
    models = {name: path for name, path in config.policies.items() if name not in files}
    reference: str | None = config.reference or config.baseline
    if config.reference in files:
        raise ConfigError(
            "the reference is a file of completions, but KL needs a model", got=config.policies[config.reference]
        )
    lines = []
    if reference in files:
        reference = None
        lines.append("KL is not measured, because the baseline is a file of completions and no reference is given")
    kept = in_common(groups, files)
    if len(kept) < len(groups):
        lines.append(
            f"{len(kept):,} of {len(groups):,} prompts have completions in every file (repeated prompts count once)"
        )
    _check_files(config, models, files, kept)
    if not models:
        return Cast(
            models={}, files=files, groups=kept, tokenizer=None, template=None, reference=None, lines=tuple(lines)
        )
    check_sampler(config)
    check_revision(config.revision, *models.values())
    first = config.baseline if config.baseline in models else next(iter(models))
    tokenizer = load_tokenizer(models[first], revision=config.revision)
    _check_tokenizers(config, models, tokenizer, first)
    return Cast(
        models=models,
        files=files,
        groups=kept,
        tokenizer=tokenizer,
        template=template_of(config, tokenizer),
        reference=reference,
        lines=tuple(lines),
    )


def _check_files(
    config: EvalConfig, models: Mapping[str, str], files: Mapping[str, Completions], groups: Sequence[PromptGroup]
) -> None:
    """Checks that every prompt has enough completions, and that no option is for models if there are none."""
    for name, file in files.items():
        most = max(config.samples_per_prompt or 0, config.best_of_n if name == config.baseline else 0)
        file.answers(groups, at_most=most or None)
    idle = {
        "max_new_tokens",
        "sampler",
        *PromptOptions.model_fields,  # a reward model has a template and a length of its own
    }
    if not any(_reads_text(spec) for spec in (config.judge, config.reward_model)):
        idle |= {"device", "dtype"}
    if config.reward_pairs is None:  # its figures are bootstrapped
        idle.add("seed")
    idle &= config.model_fields_set
    if not models and idle:
        raise ConfigError(
            f"{', '.join(sorted(idle))} has no effect: all policies are files of completions", fix="leave it out"
        )


def _reads_text(spec: Any) -> bool:
    """Whether a model is among the rewards."""
    kinds = (ModelSource, ImplicitSource)
    return spec is not None and any(isinstance(leaf, kinds) for one in read_sources(spec) for leaf in one.leaves())


def _check_tokenizers(
    config: EvalConfig, models: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, first: str
) -> None:
    """All models get the first one's prompt ids, and the reference reads their completions' ids: all need one
    tokenizer."""
    whose = f"the baseline {first}" if first == config.baseline else first
    for name, path in models.items():
        check_is_policy(load_config(path, revision=config.revision), path)
        check_adapter(path, revision=config.revision)
        if not same_ids(load_tokenizer(path, revision=config.revision), tokenizer):
            raise ModelError(
                f"policy {name} has another tokenizer than {whose}",
                got=path,
                expected="policies that share a tokenizer, because KL compares them token by token",
                fix="sample from each one separately (assent sample), and compare the files of completions",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """The judges. `scorer` is the specification of a reward, which is opened later."""

    scorer: Any = None
    comparer: PairJudge | None = None
    safety: Measure | None = None
    chats: tuple[ChatModel, ...] = ()
    """Those among them that are models behind an address."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def judging_of(config: EvalConfig, cast: Cast) -> Judging:
    """Raises ConfigError if no judge is given, and for functions that cannot be imported."""
    is_sandbox = all(set(group.columns) >= _SANDBOX_COLUMNS for group in cast.groups)
    hashes: dict[str, str] = {}
    lines = []
    scorer: Any = config.judge
    comparer = None
    if config.reward_model is not None:
        check_reward(config.reward_model, ensemble=config.reward_ensemble)
    chats: list[ChatModel] = []
    if config.pair_judge is not None:
        comparer = _comparer(config)
        chats += [comparer.chat] if isinstance(comparer, ChatJudge) else []
        hashes["pair_judge"] = "" if is_address(config.pair_judge) else _module_hash(config.pair_judge)
    elif scorer is None:
        if not is_sandbox:
            raise ConfigError(
                "no judge is given, so nothing says which answers are better",
                expected="--judge: a reward model's folder or module:function; or --pair-judge: a module:function that "
                "compares two answers, or a server's address with --judge-model",
            )
        scorer = SANDBOX_JUDGE
        lines.append("judged by the sandbox's gold reward, because the prompts are the sandbox's")
    if scorer is not None:
        check_reward(scorer)
        hashes["judge"] = reward_hash(scorer)
    safety: Measure | None = None
    spec = config.safety or (SANDBOX_SAFETY if is_sandbox else None)
    if spec is not None:
        safety = ChatSafety(_chat(config, spec)) if is_address(spec) else load_measure(spec)
        chats += [safety.chat] if isinstance(safety, ChatSafety) else []
        hashes["safety"] = "" if is_address(spec) else _module_hash(spec)
    return Judging(
        scorer=scorer, comparer=comparer, safety=safety, chats=tuple(chats), hashes=hashes, lines=tuple(lines)
    )


def _comparer(config: EvalConfig) -> PairJudge:
    spec = config.pair_judge
    assert spec is not None
    if is_address(spec):
        return ChatJudge(_chat(config, spec), rubric=config.judge_rubric)
    return FunctionJudge(import_function(spec, what="judge"), name=spec)


def _chat(config: EvalConfig, url: str) -> ChatModel:
    assert config.judge_model is not None
    return ChatModel(url, model=config.judge_model, key_env=config.judge_api_key_env)


def _module_hash(spec: str) -> str:
    """SHA-256 of the source file of the module in `module:function`."""
    file = getattr(sys.modules.get(spec.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def policies_of(
    config: EvalConfig,
    cast: Cast,
    runtime: Runtime,
    reward: Reward | None,
    *,
    kept: Mapping[str, KeptDraws] | None = None,
) -> list[Policy]:
    """The policies in the order of the options, best-of-n of the baseline last.

    kept   by name of a model, what it drew before an interruption
    """

    def source(name: str) -> dict[str, Any]:
        if name in cast.files:
            return {"completions": cast.files[name]}
        return {"open": _opener(config, config.policies[name], runtime), "kept": (kept or {}).get(name)}

    ledgers = {name: ledger_of(folder) for name, folder in config.ledgers.items()}
    policies = [Policy(name=name, ledger=ledgers.get(name, {}), **source(name)) for name in config.policies]
    if config.best_of_n:
        assert reward is not None
        assert config.baseline is not None
        name = f"best-of-{config.best_of_n}"
        ledger = ledgers.get(name, {})
        best = BestOfN(name=name, n=config.best_of_n, reward=reward, ledger=ledger, **source(config.baseline))
        policies.append(best)
    return policies


def _opener(config: EvalConfig, path: str, runtime: Runtime) -> Callable[[], Sampler]:
    def opened() -> Sampler:
        tokenizer = load_tokenizer(path, revision=config.revision)
        model = open_policy(config, path, runtime.device, tokenizer=tokenizer)
        return open_sampler(config, model, template_of(config, tokenizer), progress=runtime.progress)

    return opened


def ledger_of(run_folder: str) -> dict[str, float]:
    """The `cost/*` metrics of a finished run."""
    metrics = (read_run(run_folder).result or {}).get("metrics", {})
    return {name: float(value) for name, value in metrics.items() if name.startswith("cost/")}
