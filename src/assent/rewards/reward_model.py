"""A reward model: a sequence classifier that is read at each completion's last token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from assent.config.ensembles import Combination
from assent.errors import ModelError
from assent.models.heads import is_classifier
from assent.models.loading import check_adapter, load_config, load_scorers, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.one_trunk import Ensemble
from assent.models.templates import Template, resolve_template
from assent.rewards.base import Scores, checked_scores
from assent.rewards.reading import Encoding, ModelReader
from assent.rewards.steps import checked_steps
from assent.types import PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardModel:
    """Scores with a folder that `assent reward` wrote, or with any sequence classifier with one label.

    policy_tokenizer    if it equals the reward model's, template included, rollouts are scored by their own ids and
                        `reads_ids` is True; otherwise the decoded text is read in the reward model's template
    max_length          tokens of prompt and completion; longer texts lose the prompt's oldest turns (law 8)
    micro_batch_tokens  tokens per forward pass; affects memory and speed, not the result
    combination         how an ensemble's members are combined; None: their mean
    process             a process model: each step has a score, which is read at its last token
    load                returns the models of a folder (several for an ensemble); None: from the folder's own weights

    Raises ModelError before any weights are read, and ConfigError if the combination does not fit the number of heads.
    """

    judges_alone = True

    def __init__(
        self,
        folder: str,
        *,
        policy_tokenizer: PreTrainedTokenizerBase | None = None,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
        max_length: int | None = None,
        micro_batch_tokens: int = 8192,
        template_options: Mapping[str, Any] | None = None,
        combination: Combination | None = None,
        process: bool = False,
        load: Callable[[str], Sequence[PreTrainedModel]] | None = None,
    ) -> None:
        self.name, self.process = folder, process
        heads = check_reward_model(folder, revision=revision)
        if combination is not None:
            combination.check(heads, name=folder)
        self.combination = combination or Combination()
        self.tokenizer = load_tokenizer(folder, revision=revision)
        self.template: Template = resolve_template(self.tokenizer, **(template_options or {}))
        self.reads_ids = policy_tokenizer is not None and same_tokenizer(policy_tokenizer, self.tokenizer)
        models = load(folder) if load is not None else load_scorers(folder, dtype=dtype, revision=revision)
        members = [AlignmentModel(model.to(device), kind="scorer") for model in models]  # type: ignore[arg-type]
        self.module = (members[0] if len(members) == 1 else Ensemble(members)).eval()
        self.heads = heads
        context = getattr(self.module.config, "max_position_embeddings", None)
        self._encoding = Encoding(
            self.tokenizer,
            self.template,
            reads_ids=self.reads_ids,
            max_length=max_length or context or 1 << 20,
            name=folder,
            limit="its context" if max_length is None else f"--max-length {max_length}",
            in_steps=process,
        )
        self.reader = ModelReader(self.module, device=torch.device(device), micro_batch_tokens=micro_batch_tokens)

    @property
    def readers(self) -> list[ModelReader]:
        """The models that it holds in memory."""
        return [self.reader]

    @property
    def flops(self) -> float:
        """Model FLOPs of all scores so far."""
        return self.reader.flops

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Scores:
        """See `Reward.score`. Several heads or adapters are an ensemble, combined by `combination`."""
        if self.process:
            return self._score_steps(prompts, completions, groups, rollouts)
        members = self.score_members(prompts, completions, groups=groups, rollouts=rollouts)
        checked = checked_scores(self.name, combine(members, self.combination).tolist(), prompts, completions)
        return Scores(checked, statistics=disagreement(members) | self._encoding.figures)

    def score_members(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Tensor:
        """(S, M) the score of each completion by each head or adapter, in order. Arguments as for `score`."""
        if not completions:
            return torch.zeros(0, self.heads)
        return torch.stack(self.reader.read(self._encoding.tokens(prompts, completions, groups, rollouts), "scores"))

    def _score_steps(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
        rollouts: Sequence[Rollout] | None,
    ) -> Scores:
        if not completions:
            return Scores(steps=[])
        tokens = self._encoding.tokens(prompts, completions, groups, rollouts)
        ends = [list(group.completions[0].step_ends) for group in tokens]
        values = self.reader.read(tokens, "values")
        members = [read[at] for read, at in zip(values, ends, strict=True)]  # (steps, M) each
        steps = [combine(some, self.combination).tolist() for some in members]
        scores = checked_steps(self.name, steps, prompts, completions)
        scores.statistics = disagreement(torch.cat(members)) | self._encoding.figures
        return scores


def disagreement(members: Tensor) -> dict[str, float]:
    """The mean over completions of the standard deviation of an ensemble's scores (S, M); empty for one member."""
    if len(members) == 0 or members.shape[1] == 1:
        return {}
    return {"ensemble_std": float(members.std(1, correction=0).mean())}


def combine(members: Tensor, combination: Combination) -> Tensor:
    """(S, M) scores of an ensemble's members -> (S,)."""
    if combination.kind == "min":
        return members.min(dim=1).values
    if combination.kind == "weights":
        return members @ torch.tensor(combination.weights, dtype=members.dtype)
    mean = members.mean(dim=1)
    return mean if combination.kind == "mean" else mean - combination.k * members.std(dim=1, correction=0)


def check_reward_model(folder: str, *, revision: str | None = None) -> int:
    """The number of heads, without loading weights. Raises ModelError if the folder is not a reward model, or is an
    adapter of another base.

    Several labels are the members of an ensemble only if the configuration's `assent_ensemble_size` says so.
    """
    config = load_config(folder, revision=revision)
    if not is_classifier(config):
        raise ModelError(
            "this model has no score head, so its scores would be random",
            got=f"{folder}: {', '.join(getattr(config, 'architectures', None) or ()) or 'no architecture'}",
            expected="a sequence classifier with one label",
            fix="train one with `assent reward --model …`",
        )
    declared = getattr(config, "assent_ensemble_size", 1)
    if config.num_labels != declared:
        raise ModelError(
            f"this classifier has {config.num_labels} labels, so it is not a reward model",
            got=f"{folder}: {', '.join(map(str, list(config.id2label.values())[:5]))}",
            expected="one label, or as many as the configuration's assent_ensemble_size says",
        )
    check_adapter(folder, revision=revision)
    return int(declared)


def same_tokenizer(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids for every text and conversation: tokenizer.json and chat template are equal."""
    return a.chat_template == b.chat_template and same_ids(a, b)


def same_ids(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids for every text: tokenizer.json is equal."""
    return _content(a) == _content(b)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what `same_tokenizer` compares."""
    content = json.dumps([tokenizer.chat_template, _content(tokenizer)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _content(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"not fast": tokenizer.name_or_path}
    content: dict[str, Any] = json.loads(backend.to_str())
    return {name: value for name, value in content.items() if name not in ("padding", "truncation")}
