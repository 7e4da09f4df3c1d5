"""Opens what `--reward` names. Sources are declared in `config/rewards.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.ensembles import Combination
from assent.config.rewards import (
    FORMS,
    RULES,
    EndpointSource,
    EnsembleSource,
    FunctionSource,
    ImplicitSource,
    ModelSource,
    RewardSource,
    is_function,
    read_sources,
    written,
)
from assent.errors import ConfigError
from assent.rewards.base import Reward
from assent.rewards.function import load_function, source_hash
from assent.runs.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from assent.rewards.reading import ModelReader

__all__ = ["check_contexts", "check_reward", "is_function", "judges_alone", "load_reward", "readers_of", "reward_hash"]

Spec = str | Sequence[RewardSource]
"""The value of the option, or the text of one source."""


def reward_hash(spec: Spec) -> str:
    """SHA-256 of what computes the scores: models' files, the source code of a function's module, the options.

    A resumed run needs the same hash, because the same path or name with other content is another reward. Only the
    address of an endpoint is known. Raises what `load_reward` raises.
    """
    sources = read_sources(spec)
    hashes = [_hash(leaf) for source in sources for leaf in source.leaves()]
    if len(hashes) == 1 and isinstance(written(sources), str):
        return hashes[0]
    return hashlib.sha256(repr((written(sources), hashes)).encode()).hexdigest()


def _hash(source: RewardSource) -> str:
    from assent.models.folders import content_hash

    if isinstance(source, FunctionSource):
        return source_hash(source.reward)
    if isinstance(source, ImplicitSource):
        return " ".join(map(content_hash, source.models))
    return content_hash(source.reward) if isinstance(source, ModelSource) else source.kind


def load_reward(spec: Spec, *, ensemble: str | None = None, **options: Any) -> Reward:
    """One source, or the weighted sum of several. `options` are those of `RewardModel`, and `place`, which gets each
    source and the function that opens it (stages/placed_rewards.py).

    ensemble   how a reward model's heads are combined into one score (config/ensembles.py); None: their mean

    Raises ConfigError if a function cannot be imported or `ensemble` is given without an ensemble, and ModelError if a
    folder is not a reward model.
    """
    sources = _with_ensemble(read_sources(spec), ensemble)
    check_reward(sources, revision=options.get("revision"))
    if len(sources) == 1 and sources[0].weight == 1:
        return _open(sources[0], options)
    return _sum(sources, options)


def _sum(sources: Sequence[RewardSource], options: dict[str, Any]) -> Reward:
    from assent.rewards.combined import WeightedReward

    return WeightedReward(_parts(sources, options), name=" + ".join(source.label for source in sources))


def _parts(sources: Sequence[RewardSource], options: dict[str, Any]) -> dict[str, tuple[float, Reward]]:
    return {source.label: (source.weight, _open(source, options)) for source in sources}


def _open(source: RewardSource, options: dict[str, Any]) -> Reward:
    """Opens one source, or has `place` open it."""
    place, rest = options.get("place"), {name: value for name, value in options.items() if name != "place"}
    if isinstance(source, EnsembleSource):
        from assent.rewards.combined import EnsembleReward

        combination = Combination.parse(source.combine)
        return EnsembleReward(_parts(source.members, options), combination=combination, name=source.label)
    reward: Reward = _open_leaf(source, rest) if place is None else place(source, partial(_open_leaf, source, rest))
    return reward


def _open_leaf(source: RewardSource, options: dict[str, Any]) -> Reward:
    """Imports models and torch only if it needs them."""
    if isinstance(source, FunctionSource):
        return load_function(source.reward, process=source.is_process)
    if isinstance(source, EndpointSource):
        from assent.rewards.endpoint import EndpointReward

        return EndpointReward(source)
    if isinstance(source, ImplicitSource):
        from assent.rewards.implicit import ImplicitReward

        known = ("policy_tokenizer", "device", "dtype", "micro_batch_tokens")
        return ImplicitReward(source, **{name: value for name, value in options.items() if name in known})
    if isinstance(source, ModelSource):
        from assent.rewards.reward_model import RewardModel

        how = None if source.combine is None else Combination.parse(source.combine)
        return RewardModel(source.reward, combination=how, process=source.is_process, **options)
    from assent.rewards.rules import rule_of

    return rule_of(source)


def _with_ensemble(sources: Sequence[RewardSource], ensemble: str | None) -> list[RewardSource]:
    """The sources with `ensemble` set. Raises ConfigError if it is given and there is not exactly one reward model."""
    if ensemble is None:
        return list(sources)
    if len(sources) > 1 or getattr(sources[0], "combine", None) is not None:
        raise ConfigError(
            "reward_ensemble applies to a single reward model with several heads",
            got=", ".join(source.reward for source in sources),
            fix="give `combine` in the source that has several heads: {reward: …, combine: min}",
        )
    if not isinstance(sources[0], ModelSource):
        Combination.parse(ensemble).check(1, name=sources[0].reward)
    return [sources[0].model_copy(update={"combine": ensemble})]


def check_reward(spec: Spec, *, ensemble: str | None = None, revision: str | None = None) -> None:
    """Raises what `load_reward` would raise for the sources or `ensemble`, without reading weights."""
    for source in _with_ensemble(read_sources(spec), ensemble):
        for leaf in source.leaves():
            _check(leaf, revision)


def _check(source: RewardSource, revision: str | None) -> None:
    if isinstance(source, FunctionSource):
        load_function(source.reward)
    elif isinstance(source, EndpointSource):
        from assent.judging.http import key_from

        key_from(source.api_key_env, url=source.reward)
    elif isinstance(source, ImplicitSource):
        from assent.rewards.implicit import check_implicit

        check_implicit(source)
    elif isinstance(source, ModelSource):
        from assent.rewards.reward_model import check_reward_model

        _check_name(source.reward)
        heads = check_reward_model(source.reward, revision=revision)
        if source.combine is not None:
            Combination.parse(source.combine).check(heads, name=source.reward)


def _check_name(name: str) -> None:
    """Raises ConfigError for a name that is not a folder and looks like a misspelt rule or function."""
    if Path(name).exists():
        return
    file, _, function = name.rpartition(":")
    module, _, last = name.rpartition(".")
    if near := get_close_matches(name, RULES, n=1):
        meant = near[0]
    elif file.endswith(".py") and function:
        meant = f"{Path(file).stem}:{function}, with its folder as the working directory or on Python's path"
    elif module and "/" not in name:
        meant = f"{module}:{last}"
    else:
        return
    raise ConfigError("no such reward", got=name, expected=FORMS, fix=f"did you mean {meant}?")


def check_contexts(spec: Spec, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Raises ModelError if a model that reads the policy's own tokens has a context shorter than `max_length`. Reads no
    weights. A model with another tokenizer reads text that is shortened to its context (`Encoding`)."""
    from assent.models.loading import check_context, load_config, load_tokenizer
    from assent.rewards.reward_model import same_tokenizer

    for leaf in (leaf for source in read_sources(spec) for leaf in source.leaves()):
        models = leaf.models if isinstance(leaf, ImplicitSource) else [leaf.reward] * isinstance(leaf, ModelSource)
        for path in models:
            if same_tokenizer(load_tokenizer(path), tokenizer):
                check_context(load_config(path), max_length, whose=f"the reward {path}")


def judges_alone(reward: Reward) -> bool:
    """Whether a score does not depend on other prompts' completions: true for models and rules, not for functions."""
    members: Sequence[Reward] = getattr(reward, "members", ())
    return all(map(judges_alone, members)) if members else bool(getattr(reward, "judges_alone", False))


def shown_by(reward: Reward | None, progress: Progress | None) -> None:
    """The models that the reward holds show there how far a long reading is."""
    if reward is None or progress is None:
        return
    for reader in readers_of(reward):
        reader.progress = progress


def readers_of(reward: Reward) -> list[ModelReader]:
    """The models that the reward holds in memory."""
    members: Sequence[Reward] = getattr(reward, "members", ())
    return [*getattr(reward, "readers", ()), *(reader for member in members for reader in readers_of(member))]
